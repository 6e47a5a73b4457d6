"""Jobs on this machine: a pool over submitit's local executor, one process per GPU or few cores.

submitit's own local executor starts every job at once, which a machine rarely carries. A process
takes several jobs where the models are so small that importing torch would cost more than the
work; they then share tokens and the like (``calibration/shared.py``).
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import submitit

from quantexp.cluster import submitted
from quantexp.cluster.job import Part, environment, part, perform_detached
from quantexp.cluster.needs import BOTH
from quantexp.cluster.place import no_keyboard, variables_set
from quantexp.cluster.snapshot import current
from quantexp.cluster.submitted import Submitted
from quantexp.config import ClusterConfig
from quantexp.experiment import estimate, record, status
from quantexp.experiment.cell import Cell
from quantexp.experiment.plan import Job
from quantexp.experiment.run import is_done
from quantexp.host import free_memory

JobFunction = Callable[[Sequence[Part], dict[str, str]], None]
Bundle = tuple[Job, ...]  # what one process does
_POLL = 0.2  # seconds between two looks at the running jobs
_GRACE = 10.0  # seconds that a job has to end by itself when it is stopped
_FOREVER = 60 * 24 * 365  # minutes; submitit would end a job after two
_SMALL = 1 << 24  # weights of a model that is small
_MOST_PACKED, _ROUNDS = 8, 3  # jobs of a process; processes per slot, so that all end together


def run_jobs(
    jobs: Sequence[Job],
    cluster: ClusterConfig,
    folder: Path,
    function: JobFunction = perform_detached,
) -> None:
    """Runs all jobs, as many at once as the machine carries; returns when all have ended.

    A process that ends without a word (killed, ``sys.exit``, out of memory) leaves the cells that
    it was at failed with a cause; jobs that it had not begun get another.

    Args:
        jobs: In the order in which they start.
        cluster: Threads per process, the most at once, jobs of each.
        folder: For submitit's logs and pickles.
        function: What a process runs.

    Raises:
        KeyboardInterrupt: After the running jobs have been stopped.
    """
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=_FOREVER, stderr_to_stdout=True)
    free = slots(cluster, jobs)
    waiting = bundles(jobs, cluster, len(free))
    running: list[tuple[Bundle, str, Any]] = []
    try:
        while waiting or running:
            while waiting and free:
                bundle, device = waiting.pop(0), free.pop(0)
                started = _submit(executor, bundle, device, cluster, function)
                running.append((bundle, device, started))
            for entry in [e for e in running if e[2].done()]:
                running.remove(entry)
                free.append(entry[1])
                if left := _close(entry[0], entry[2]):
                    waiting.insert(0, left)
            time.sleep(_POLL)
    finally:
        with no_keyboard():
            _stop([submitted for _, _, submitted in running])


def slots(cluster: ClusterConfig, jobs: Sequence[Job]) -> list[str]:
    """One entry per job that may run at once: the GPU it sees, or an empty string without GPUs."""
    devices = gpus() or [""] * _cpu_jobs(cluster, jobs)
    return devices[: cluster.max_jobs]


def bundles(jobs: Sequence[Job], cluster: ClusterConfig, slots: int) -> list[Bundle]:
    """What each process does: one job, several of small models, or what ``cluster.pack`` says."""
    models = [job.cells[0].model for job in jobs]
    small = all(model.shape.block_weights * model.blocks <= _SMALL for model in models)
    each = min(_MOST_PACKED, len(jobs) // (_ROUNDS * slots)) if small else 1
    each = max(1, cluster.pack or each)
    return [tuple(jobs[start : start + each]) for start in range(0, len(jobs), each)]


def gpus() -> list[str]:
    """Names of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` has them; no torch.

    Where GPUs are cut into MIG instances, each instance is one: only its UUID names it.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return _devices(listed.stdout)


def _devices(listed: str) -> list[str]:
    """Names from ``nvidia-smi -L``: a GPU's number, or its MIG instances in place of it."""
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if whole := re.match(r"GPU (\d+):", line):
            found[whole[1]] = []
        elif (part := re.search(r"MIG .*UUID: (MIG-[^)]+)\)", line)) and found:
            found[list(found)[-1]].append(part[1])
    return [name for gpu, parts in found.items() for name in (parts or [gpu])]


def _cpu_jobs(cluster: ClusterConfig, jobs: Sequence[Job]) -> int:
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    cores = min(cores or os.cpu_count() or 1, int(os.environ.get("SLURM_CPUS_ON_NODE", 1 << 16)))
    largest = max(
        (estimate.memory(cell).total for job in jobs for cell in job.cells), default=1 << 30
    )
    return max(1, min(cores // cluster.threads, free_memory() // largest))


def _submit(
    executor: Any, bundle: Bundle, device: str, cluster: ClusterConfig, function: JobFunction
) -> Any:
    cells = [cell for job in bundle for cell in job.cells]
    variables = environment(cells, cluster)
    # submitit empties this variable; the job sets it again before it imports torch.
    variables["CUDA_VISIBLE_DEVICES"] = device
    # the last job of a long sweep starts hours after the command, as on a cluster
    code = current(cells[0].outputs)
    exported = {**variables, **code.environment}
    parts = [part(BOTH, job.cells, job.cells) for job in bundle]
    with variables_set(exported), no_keyboard():
        started = executor.submit(function, parts, variables)
    tasks = (tuple(cell.id for cell in cells),)
    made = Submitted(str(started.job_id), "local", BOTH, tasks, record.now(), code=code.path.name)
    submitted.write(executor.folder, made)
    return started


def _close(bundle: Bundle, submitted: Any) -> Bundle:
    """Gives every cell of an ended process a final state; returns the jobs it had not begun.

    Nothing is returned where it had begun none: the next process would fare no better.
    """
    left = tuple(job for job in bundle if not any(_begun(cell) for cell in job.cells))
    if len(left) == len(bundle):
        left = ()
    for cell in (cell for job in bundle if job not in left for cell in job.cells):
        state = status.read(cell.folder)["state"]
        if is_done(cell) or state == status.FAILED:
            continue
        cause = "the job ended before this cell began"
        if state != status.QUEUED:
            cause = (
                "the job's process ended without a word (killed from outside, or by the kernel "
                "when memory ran out)"
            )
        status.lost(cell.folder, f"{cause}; its output: {submitted.paths.stdout}")
    return left


def _begun(cell: Cell) -> bool:
    return is_done(cell) or status.read(cell.folder)["state"] != status.QUEUED


def _stop(submitted: Sequence[Any]) -> None:
    """Ends the processes of these jobs: asks first, then kills."""
    controllers = []
    for job in submitted:
        with suppress(psutil.NoSuchProcess):
            controllers.append(psutil.Process(int(job.job_id)))
    everything = []
    for controller in controllers:
        with suppress(psutil.NoSuchProcess):
            everything += [controller, *controller.children(recursive=True)]
            # The job's own process; its controller ends with it.
            for process in controller.children() or [controller]:
                process.terminate()
    _, alive = psutil.wait_procs(everything, timeout=_GRACE)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
