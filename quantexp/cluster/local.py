"""Jobs on this machine: a pool over submitit's local executor, one job per GPU or per few cores.

submitit's own local executor starts every job at once, which a machine rarely carries.
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
from quantexp.cluster.job import environment, run_detached
from quantexp.cluster.needs import BOTH, host_memory
from quantexp.cluster.place import no_keyboard, variables_set
from quantexp.cluster.snapshot import current
from quantexp.cluster.submitted import Submitted
from quantexp.config import ClusterConfig, to_plain
from quantexp.experiment import record, status
from quantexp.experiment.plan import Job
from quantexp.experiment.run import is_done

JobFunction = Callable[[Sequence[dict[str, Any]], dict[str, str]], None]
_POLL = 0.2  # seconds between two looks at the running jobs
_GRACE = 10.0  # seconds that a job has to end by itself when it is stopped
_FOREVER = 60 * 24 * 365  # minutes; submitit would end a job after two


def run_jobs(
    jobs: Sequence[Job],
    cluster: ClusterConfig,
    folder: Path,
    function: JobFunction = run_detached,
) -> None:
    """Runs all jobs, as many at once as the machine carries; returns when all have ended.

    A job that ends without a word (killed, ``sys.exit``, out of memory) leaves its unfinished
    cells failed with a cause; the others go on.

    Args:
        jobs: In the order in which they start.
        cluster: Threads per job and the most jobs at once.
        folder: For submitit's logs and pickles.
        function: What a job runs.

    Raises:
        KeyboardInterrupt: After the running jobs have been stopped.
    """
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(timeout_min=_FOREVER, stderr_to_stdout=True)
    waiting = list(jobs)
    free = slots(cluster, waiting)
    running: list[tuple[Job, str, Any]] = []
    try:
        while waiting or running:
            while waiting and free:
                job, device = waiting.pop(0), free.pop(0)
                running.append((job, device, _submit(executor, job, device, cluster, function)))
            for entry in [e for e in running if e[2].done()]:
                running.remove(entry)
                free.append(entry[1])
                _close(entry[0], entry[2])
            time.sleep(_POLL)
    finally:
        with no_keyboard():
            _stop([submitted for _, _, submitted in running])


def slots(cluster: ClusterConfig, jobs: Sequence[Job]) -> list[str]:
    """One entry per job that may run at once: the GPU it sees, or an empty string without GPUs."""
    devices = gpus() or [""] * _cpu_jobs(cluster, jobs)
    return devices[: cluster.max_jobs]


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
    memory = psutil.virtual_memory().available
    if "SLURM_MEM_PER_NODE" in os.environ:  # of the job we are in, MiB
        memory = min(memory, int(os.environ["SLURM_MEM_PER_NODE"]) << 20)
    largest = max((host_memory(cell) for job in jobs for cell in job.cells), default=1 << 30)
    return max(1, min(cores // cluster.threads, memory // largest))


def _submit(
    executor: Any, job: Job, device: str, cluster: ClusterConfig, function: JobFunction
) -> Any:
    variables = environment(job.cells, cluster)
    # submitit empties this variable; the job sets it again before it imports torch.
    variables["CUDA_VISIBLE_DEVICES"] = device
    # the last job of a long sweep starts hours after the command, as on a cluster
    code = current(job.cells[0].outputs)
    exported = {**variables, **code.environment}
    configs = [to_plain(cell.config) for cell in job.cells]
    with variables_set(exported), no_keyboard():
        started = executor.submit(function, configs, variables)
    tasks = (tuple(cell.id for cell in job.cells),)
    made = Submitted(str(started.job_id), "local", BOTH, tasks, record.now(), code=code.path.name)
    submitted.write(executor.folder, made)
    return started


def _close(job: Job, submitted: Any) -> None:
    """Gives every cell of an ended job a final state."""
    for cell in job.cells:
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
