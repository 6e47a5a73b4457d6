"""A plan's jobs as arrays of SLURM with their dependencies.

Cells that ask for the same resources share arrays. Where calibrating and evaluating ask for the
same, one task does both for a calibration and all cells that share it. Where they differ, an array
of calibrations comes first, and each further array holds one more evaluation of each of them. The
calibrations with most evaluations come first, so every such array is as long as the calibrations
that still have one, and its indices pair: ``aftercorr`` is right by construction. What needs no
calibration (the baseline, cached checkpoints) waits for nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from quantexp.cluster.job import Part, part
from quantexp.cluster.needs import BOTH, CALIBRATE, EVALUATE, needs
from quantexp.config import Resources
from quantexp.experiment.cell import Cell
from quantexp.experiment.plan import Job
from quantexp.experiment.run import is_calibrated

T = TypeVar("T")
_APART = 8  # calibrations under way that are waited for one by one, each by a call of sbatch


@dataclass(frozen=True)
class ArrayTask:
    """One task: its work, and the ids of the cells it is about."""

    parts: tuple[Part, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Array:
    """What one call of sbatch submits.

    Attributes:
        kind: ``calibrate``, ``evaluate`` or ``both``.
        asked: The resources of each task.
        tasks: In the order of their indices.
        pairs: Whether task i needs task i of the array of calibrations before it.
        waits: Jobs that are at these calibrations already, for somebody else.
    """

    kind: str
    asked: Resources
    tasks: tuple[ArrayTask, ...]
    pairs: bool = False
    waits: tuple[str, ...] = ()


def arrays(
    jobs: Sequence[Job],
    busy: Mapping[str, tuple[str, ...]],
    longest: int,
    room: int | None,
    pack: int = 1,
) -> list[Array]:
    """The arrays of a plan, each after those that it depends on.

    Args:
        jobs: Of the plan.
        busy: Calibration → ids of jobs that work on it already.
        longest: The most tasks of an array.
        room: The most tasks in all, or ``None``. Where there are more, one task does all
            evaluations of a calibration, or several jobs.
        pack: Jobs that one task does even where there is room.

    Returns:
        Nothing where there is no room for even one task.
    """
    groups = list(_alike(jobs, _waits(jobs, busy)))
    # every job is in some task, so that fewer in one cannot be enough
    bundle = pack if room is None else max(pack, -(-len(jobs) // max(1, room)))
    bundle = min(bundle, len(jobs)) or 1
    while bundle <= sum(len(job.cells) for job in jobs):
        for apart in (True, False):
            found = [a for key, group in groups for a in _group(group, key, bundle, longest, apart)]
            if room is None or sum(len(array.tasks) for array in found) <= room:
                return found
        bundle += max(1, bundle // 8)
    return []


@dataclass(frozen=True)
class _Key:
    """What jobs of one array have in common."""

    calibrate: Resources
    evaluate: Resources
    calibrated: bool
    waits: tuple[str, ...]


def _waits(
    jobs: Sequence[Job], busy: Mapping[str, tuple[str, ...]]
) -> Mapping[str, tuple[str, ...]]:
    """``busy`` of these jobs; where it is much, arrays instead of each of their tasks."""
    found = {name: busy[name] for job in jobs if (name := job.cells[0].calibration) in busy}
    if len(found) <= _APART:
        return found
    whole = {name: {job.partition("_")[0]: None for job in ids} for name, ids in found.items()}
    return {name: tuple(arrays) for name, arrays in whole.items()}


def _alike(
    jobs: Sequence[Job], busy: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[_Key, list[Job]]]:
    groups: dict[_Key, list[Job]] = {}
    for job in jobs:
        first = job.cells[0]
        calibrate, evaluate = needs(first, CALIBRATE), needs(first, EVALUATE)
        calibrated = calibrate != evaluate and is_calibrated(first)
        key = _Key(calibrate, evaluate, calibrated, busy.get(first.calibration, ()))
        groups.setdefault(key, []).append(job)
    yield from groups.items()


def _group(
    jobs: Sequence[Job], key: _Key, bundle: int, longest: int, apart: bool
) -> Iterator[Array]:
    """Arrays of jobs that ask alike.

    Args:
        jobs: These.
        key: What they have in common.
        bundle: Jobs that one task does.
        longest: The most tasks of an array.
        apart: Whether the evaluations of a calibration are tasks of their own.
    """
    if key.calibrate == key.evaluate:
        for chunk in _cut(_cut(jobs, bundle), longest):
            tasks = [_task(BOTH, [(job, job.cells) for job in several]) for several in chunk]
            yield Array(BOTH, key.calibrate, tuple(tasks), waits=key.waits)
        return
    if key.calibrated:
        single = [(job, (cell,)) for job in jobs for cell in job.cells]
        for cells in _cut(_cut(single, bundle), longest):
            tasks = [_task(EVALUATE, several) for several in cells]
            yield Array(EVALUATE, key.evaluate, tuple(tasks), waits=key.waits)
        return
    widest = sorted(jobs, key=lambda job: -len(job.cells))
    for chunk in _cut(_cut(widest, bundle), longest):
        first = [_task(CALIBRATE, [(job, job.cells[:1]) for job in several]) for several in chunk]
        yield Array(CALIBRATE, key.calibrate, tuple(first), waits=key.waits)
        if not apart:
            tasks = [_task(EVALUATE, [(job, job.cells) for job in several]) for several in chunk]
            yield Array(EVALUATE, key.evaluate, tuple(tasks), pairs=True)
            continue
        for layer in range(max(len(job.cells) for several in chunk for job in several)):
            rows = (
                [(job, (job.cells[layer],)) for job in several if len(job.cells) > layer]
                for several in chunk
            )
            tasks = [_task(EVALUATE, row) for row in rows if row]
            yield Array(EVALUATE, key.evaluate, tuple(tasks), pairs=True)


def _task(kind: str, work: Sequence[tuple[Job, tuple[Cell, ...]]]) -> ArrayTask:
    parts = tuple(part(kind, cells, job.cells) for job, cells in work)
    # a calibration is the business of every cell that shares it: their logs are its log
    ids = [cell.id for job, own in work for cell in (job.cells if kind == CALIBRATE else own)]
    return ArrayTask(parts, tuple(ids))


def _cut(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
