"""Arrays → sbatch, through submitit: ids are on disk right after each call; all or nothing."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantexp.cluster import limits, slurm, submitted
from quantexp.cluster.arrays import Array, arrays
from quantexp.cluster.job import NOTE_START, SlurmWork, environment
from quantexp.cluster.needs import CALIBRATE, EVALUATE, SBATCH_VARIABLES, needs, sbatch_options
from quantexp.cluster.place import exports, undisturbed, variables_set
from quantexp.cluster.snapshot import current
from quantexp.cluster.submitted import Submitted
from quantexp.config import ClusterConfig
from quantexp.errors import ConfigError
from quantexp.experiment import record, status
from quantexp.experiment.plan import Job

_ORPHANS = re.compile(r"[0-9a-f]{32}\.pkl|\.submission_file_[0-9a-f]{32}\.sh")
_MANY = 256  # tasks of an array that SLURM may run at once where nobody sets cluster.max_jobs


def submit(
    jobs: Sequence[Job], cluster: ClusterConfig, folder: Path, busy: dict[str, tuple[str, ...]]
) -> list[Submitted]:
    """Submits a plan's jobs.

    Args:
        jobs: What is to be done; none of it may be under way.
        cluster: How.
        folder: The sweep's ``jobs``.
        busy: Calibration → jobs that work on it already; these are waited for.

    Raises:
        ConfigError: SLURM refused a part. What was submitted before is cancelled, and no file of
            it stays.
    """
    found, canary = _arrays(jobs, cluster, busy)
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Submitted] = []
    try:
        shares = _shares([len(array.tasks) for array in found], cluster.max_jobs)
        for index, array in enumerate(found):
            first = done[canary - 1].id if canary and index >= canary else None
            after = _after(index, array, found, done, cluster.max_jobs, first)
            with undisturbed():
                done.append(_sbatch(array, after, shares[index], cluster, folder))
    except BaseException as error:
        with undisturbed():
            _take_back(done, folder)
        if isinstance(error, KeyboardInterrupt):
            raise
        reason = _said(error)
        for job in jobs:
            for cell in job.cells:
                status.lost(cell.folder, f"not submitted: {reason}")
        raise ConfigError(
            f"SLURM refused the jobs, and none is left in the queue: {reason}"
        ) from error
    return done


def _arrays(
    jobs: Sequence[Job], cluster: ClusterConfig, busy: dict[str, tuple[str, ...]]
) -> tuple[list[Array], int]:
    """All arrays, and how many of them are the canary's: one job that the rest waits for."""
    try:
        slurm.cluster_name()  # known before the first job is there
        longest = slurm.max_array_size()
        most = _most(jobs)
        room = None if most is None else max(0, most - slurm.queued())
    except slurm.NoAnswerError as error:
        raise ConfigError(f"SLURM does not answer ({error}): try again later") from error
    ahead: list[Array] = []
    canary = cluster.canary and len(jobs) > 1
    if canary:
        bird = next((job for job in jobs if job.cells[0].quantized), jobs[0])
        ahead = arrays([bird], busy, longest, room)  # alone, whatever cluster.pack says
        jobs = [job for job in jobs if job is not bird]
        room = None if room is None else room - sum(len(array.tasks) for array in ahead)
    found = arrays(jobs, busy, longest, room, cluster.pack or 1)
    if not found or (canary and not ahead):
        raise ConfigError(
            f"SLURM lets you have {most} jobs in the queue, and there is room for "
            f"{max(0, room or 0)} more, too few for this sweep: nothing was submitted. The same "
            "command goes on when some have ended; 'squeue --me' lists them"
        )
    return [*ahead, *found], len(ahead)


def _most(jobs: Sequence[Job]) -> int | None:
    """The most jobs that SLURM lets the user have in the queue; ``None`` where nothing says so."""
    asked = {needs(job.cells[0], kind) for job in jobs for kind in (CALIBRATE, EVALUATE)}
    facts = limits.here()
    found = [facts.max_submit(*pair) for pair in {(item.account, item.qos) for item in asked}]
    return min((limit for limit in found if limit is not None), default=None)


def _after(
    index: int,
    array: Array,
    found: Sequence[Array],
    done: Sequence[Submitted],
    most: int | None,
    first: str | None,
) -> str | None:
    """The array's dependencies in SLURM's language."""
    needed = [f"afterok:{first}"] if first else []
    if array.pairs:
        source = max(i for i in range(index) if not found[i].pairs)
        calibrations = done[source]
        if len(calibrations.tasks) == 1 or len(array.tasks) == 1:
            needed.append(f"afterok:{calibrations.task_ids[0]}")
        else:
            needed.append(f"aftercorr:{calibrations.id}")
    if array.waits:
        needed.append("afterany:" + ":".join(array.waits))
    # more arrays than may run at once: each waits for the one whose turn was before
    if most is not None and index >= most:
        needed.append(f"afterany:{done[index - most].id}")
    return ",".join(needed) or None


def _shares(sizes: Sequence[int], most: int | None) -> list[int]:
    """How many tasks of each array may run at once, so that all together stay below ``most``."""
    if most is None:
        return [_MANY] * len(sizes)
    return [max(1, most * size // sum(sizes)) for size in sizes]


def _sbatch(
    array: Array, after: str | None, limit: int, cluster: ClusterConfig, folder: Path
) -> Submitted:
    import submitit

    sweep = folder.parent.name
    python = cluster.python or shlex.quote(sys.executable)
    command = f"{cluster.container} {python}" if cluster.container else python
    # timeouts and preemptions are bounded by cluster/job.py, which knows what each got done
    executor = submitit.SlurmExecutor(folder, max_num_timeout=10_000, python=command)
    options: dict[str, Any] = sbatch_options(array.asked, cluster)
    cells = [cell for task in array.tasks for part in task.parts for cell in part.configs]
    variables = _variables(cells, cluster)
    options["setup"] = [NOTE_START, *options.get("setup", []), *exports(variables)]
    options["additional_parameters"] |= {"kill-on-invalid-dep": "yes"}
    executor.update_parameters(
        job_name=f"{sweep}-{array.kind}",
        wckey=None,  # submitit's own would be refused where SLURM checks them
        stderr_to_stdout=True,
        array_parallelism=limit,
        dependency=after,
        **options,
    )
    work = SlurmWork(array.asked, cluster.signal_s)
    with variables_set({}, without=SBATCH_VARIABLES):
        started = executor.map_array(
            work, [task.parts for task in array.tasks], [variables] * len(array.tasks)
        )
    made = Submitted(
        id=started[0].job_id.split("_")[0],
        place="slurm",
        kind=array.kind,
        tasks=tuple(task.cells for task in array.tasks),
        time=record.now(),
        after=after,
        memory_gb=array.asked.memory_gb,
        code=current(Path(cells[0]["paths"]["outputs"])).path.name,
        cluster=slurm.cluster_name(),
    )
    submitted.write(folder, made)
    for link in folder.glob(".submission_file_*.sh"):
        link.unlink()
    return made


def _variables(configs: Sequence[dict[str, Any]], cluster: ClusterConfig) -> dict[str, str]:
    from quantexp.config import from_plain
    from quantexp.experiment.cell import Cell

    distinct = {str((c["model"], c["evaluation"])): c for c in configs}
    variables = environment([Cell(from_plain(c)) for c in distinct.values()], cluster)
    return {**variables, **current(Path(configs[0]["paths"]["outputs"])).environment}


def _take_back(done: Sequence[Submitted], folder: Path) -> None:
    """Cancels what a failed submission left, and removes its files."""
    try:
        slurm.cancel([item.id for item in done])
    except slurm.NoAnswerError as error:
        ids = " ".join(item.id for item in done)
        print(f"warning: could not cancel ({error}): scancel {ids}", file=sys.stderr)
        return
    for item in done:
        submitted.remove(folder, item)
        (folder / f"{item.id}_submission.sh").unlink(missing_ok=True)
        for name in item.task_ids:
            (folder / f"{name}_submitted.pkl").unlink(missing_ok=True)
    for path in folder.iterdir():
        if _ORPHANS.fullmatch(path.name):
            path.unlink()


def _said(error: BaseException) -> str:
    """sbatch's own words, which submitit wraps in a report of several lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    own = [line for line in lines if "error:" in line]
    return (own[-1] if own else lines[-1] if lines else type(error).__name__).removeprefix(
        "sbatch: "
    )
