"""Jobs on this machine: a pool over submitit's local executor, one job per GPU or per few cores.

submitit's own local executor starts every job at once, which a machine rarely carries.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import submitit

from quantexp.cluster.job import environment, run_detached
from quantexp.config import ClusterConfig, to_plain
from quantexp.experiment import status
from quantexp.experiment.cell import Cell
from quantexp.experiment.plan import Job
from quantexp.experiment.run import is_done
from quantexp.resources import PACKAGE

JobFunction = Callable[[Sequence[dict[str, Any]], dict[str, str]], None]
_POLL = 0.2  # seconds between two looks at the running jobs
_GRACE = 10.0  # seconds that a job has to end by itself when it is stopped
_FOREVER = 60 * 24 * 365  # minutes; submitit would end a job after two
_TORCH = 1 << 30  # bytes that a job takes before it loads a model


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
        with _no_keyboard():
            _stop([submitted for _, _, submitted in running])


def slots(cluster: ClusterConfig, jobs: Sequence[Job]) -> list[str]:
    """One entry per job that may run at once: the GPU it sees, or an empty string without GPUs."""
    devices = gpus() or [""] * _cpu_jobs(cluster, jobs)
    return devices[: cluster.max_jobs]


def gpus() -> list[str]:
    """Names of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` has them; no torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def _cpu_jobs(cluster: ClusterConfig, jobs: Sequence[Job]) -> int:
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    by_cores = (cores or os.cpu_count() or 1) // cluster.threads
    largest = max((_memory(cell) for job in jobs for cell in job.cells), default=_TORCH)
    return max(1, min(by_cores, psutil.virtual_memory().available // largest))


def _memory(cell: Cell) -> int:
    """Bytes of host memory a cell may need: the model in float32, and its calibration windows."""
    weights = 2 * sum(path.stat().st_size for path in cell.model.weight_files)
    windows = 0
    if cell.quantized:
        source = cell.windows
        windows = 3 * 4 * (source.count or 0) * source.seq_len * cell.model.hidden
    return _TORCH + weights + windows


def _submit(
    executor: Any, job: Job, device: str, cluster: ClusterConfig, function: JobFunction
) -> Any:
    variables = environment(job.cells, cluster)
    # submitit empties this variable; the job sets it again before it imports torch.
    variables["CUDA_VISIBLE_DEVICES"] = device
    path = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    exported = {**variables, "PYTHONPATH": os.pathsep.join(path)}
    configs = [to_plain(cell.config) for cell in job.cells]
    with _environment(exported), _no_keyboard():
        return executor.submit(function, configs, variables)


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


@contextmanager
def _no_keyboard() -> Iterator[None]:
    """Children inherit the mask: Ctrl-C reaches this process alone, which stops them in order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
