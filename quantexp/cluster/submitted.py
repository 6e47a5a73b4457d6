"""What was submitted: one small file per array in ``sweeps/<name>/jobs``, written right after it.

Another shell, another day: from these files and SLURM alone every job of a sweep is found again.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantexp.cluster import slurm
from quantexp.experiment import record, status
from quantexp.experiment.claim import Claim
from quantexp.typed import build, plain


@dataclass(frozen=True)
class Submitted:
    """One call of sbatch, or one process of this machine.

    Attributes:
        id: SLURM's number of the array or job; of a process, its number.
        place: ``slurm`` or ``local``.
        kind: ``calibrate``, ``evaluate`` or ``both``.
        tasks: Per array task, the ids of its cells.
        time: When, in UTC.
        after: SLURM's dependency, if any.
        memory_gb: What was asked for.
        code: Name of the copy of the package that it runs, in ``outputs/code``.
        cluster: SLURM's name of the cluster, whose numbers mean nothing on another one.
    """

    id: str
    place: str
    kind: str
    tasks: tuple[tuple[str, ...], ...]
    time: str
    after: str | None = None
    memory_gb: float | None = None
    code: str | None = None
    cluster: str | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether it is a job of another cluster than this machine's.

        Raises:
            NoAnswerError: SLURM does not say which cluster this is.
        """
        return self.cluster is not None and self.cluster != slurm.cluster_name()

    @property
    def task_ids(self) -> tuple[str, ...]:
        """One per task; submitit makes no array of a single task."""
        if len(self.tasks) == 1:
            return (self.id,)
        return tuple(f"{self.id}_{index}" for index in range(len(self.tasks)))


@dataclass(frozen=True)
class Task:
    """One task of a submission, with the folder of its sweep's jobs."""

    id: str
    cells: tuple[str, ...]
    of: Submitted
    folder: Path

    @property
    def log(self) -> Path:
        """What it prints; submitit's name for it."""
        return self.folder / f"{self.id}_0_log.out"

    @property
    def open(self) -> bool:
        """Whether the record of a cell of it says that it waits or runs."""
        cells = (self.folder.parents[2] / "cells" / name for name in self.cells)
        return any(status.read(cell)["state"] in (status.QUEUED, status.RUNNING) for cell in cells)


def claim(outputs: Path, wait: bool = True) -> Claim:
    """Held by the one client that looks at the queue and fills it, or says what died there."""
    return Claim(outputs / "sweeps" / ".submit.claim", wait)


def write(folder: Path, submitted: Submitted) -> None:
    """Notes a submission in a sweep's ``jobs`` folder."""
    record.write(folder / f"{submitted.id}.json", plain(submitted))


def remove(folder: Path, submitted: Submitted) -> None:
    """Forgets a submission that was taken back."""
    (folder / f"{submitted.id}.json").unlink(missing_ok=True)


def tasks(outputs: Path, sweep: str | None = None) -> list[Task]:
    """All tasks of a sweep, or of all sweeps, in the order of their submission."""
    return [task for folder in _folders(outputs, sweep) for task in _read(folder)]


def of_cells(found: Sequence[Task]) -> dict[str, list[Task]]:
    """The tasks by cell, the latest last."""
    by_cell: dict[str, list[Task]] = {}
    for task in sorted(found, key=lambda task: task.of.time):
        for cell in task.cells:
            by_cell.setdefault(cell, []).append(task)
    return by_cell


def tidy(found: Sequence[Task], done: Container[str]) -> None:
    """Removes submitit's pickles of tasks whose cells are all done: file systems count files."""
    for task in found:
        if all(cell in done for cell in task.cells):
            for name in ("submitted.pkl", "0_result.pkl"):
                (task.folder / f"{task.id}_{name}").unlink(missing_ok=True)


def _folders(outputs: Path, sweep: str | None) -> list[Path]:
    if sweep is not None:
        return [outputs / "sweeps" / sweep / "jobs"]
    return sorted((outputs / "sweeps").glob("*/jobs"))


def _read(folder: Path) -> Iterator[Task]:
    found = [
        build(Submitted, data) for path in folder.glob("*.json") if (data := record.read(path))
    ]
    for item in sorted(found, key=lambda item: (item.time, len(item.id), item.id)):
        for name, cells in zip(item.task_ids, item.tasks, strict=True):
            yield Task(name, cells, item, folder)
