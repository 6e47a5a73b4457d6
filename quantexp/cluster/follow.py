"""Jobs of SLURM and the cells' own records brought together: who lives, who died, and of what."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from quantexp.cluster import slurm, submitted
from quantexp.cluster.needs import CALIBRATE
from quantexp.cluster.slurm import JobState
from quantexp.cluster.submitted import Task
from quantexp.experiment import faults, record, status
from quantexp.experiment.claim import BusyError

_LOOK = 0.3  # seconds between two looks at the records
_GRACE = 2.0  # seconds that a record may come later than the end of its job (network file systems)


def live(outputs: Path, sweep: str | None = None) -> list[Task]:
    """The tasks that wait or run in SLURM.

    Those of another cluster, which only records tell of, are among them: ``task.of.elsewhere``.

    Raises:
        NoAnswerError: SLURM does not say.
    """
    tasks = [task for task in submitted.tasks(outputs, sweep) if task.of.place == "slurm"]
    states = slurm.states(task.id for task in tasks if not task.of.elsewhere)
    return [task for task in tasks if (task.open if task.of.elsewhere else _alive(task, states))]


def follow(
    folders: Sequence[Path],
    outputs: Path,
    poll_s: float,
    tell: Callable[[Mapping[str, str]], None],
) -> None:
    """Returns when all cells have ended; gives those that died without a word their cause.

    SLURM is asked once every ``poll_s`` seconds, for all jobs; records are watched in between.

    Args:
        folders: Of the cells.
        outputs: Folder of the results.
        poll_s: Seconds between two questions.
        tell: Gets, by cell, what SLURM says of its job.
    """
    due = 0.0
    ended: dict[Path, float] = {}  # cells whose jobs are over → when that was noticed
    left = list(folders)
    while True:
        left = [folder for folder in left if not _final(folder)]
        if not left:
            return
        now = time.monotonic()
        if now >= due:
            due = now + poll_s
            try:
                tasks = _by_cell(outputs)
                states = slurm.states(task.id for f in left for task in tasks.get(f.name, ()))
            except slurm.NoAnswerError as error:
                tell({folder.name: f"SLURM does not answer: {error}" for folder in left})
                continue
            tell(notes(left, tasks, states))
            # a cell without a job of SLURM is of a launcher elsewhere, or of none
            left = [f for f in left if f.name in tasks or not _stopped(f)]
            here = [f for f in left if f.name in tasks]
            dead = [f for f in here if not any(_alive(task, states) for task in tasks[f.name])]
            ended = {folder: ended.get(folder, now) for folder in dead}
            late = [f for f in dead if now - ended[f] >= _GRACE]
            # somebody who submits now may have queued them again: another look tells
            with suppress(slurm.NoAnswerError, BusyError):
                settled = settle_ended(outputs, late) if late else []
                left = [f for f in left if f not in settled]
            if ended:
                due = min(due, now + _GRACE)
        time.sleep(max(_LOOK, len(left) / 1000))  # a login node has other users


def settle(folder: Path, tasks: Sequence[Task], states: Mapping[str, JobState]) -> None:
    """Notes why a cell whose jobs have all ended is not done, unless it has said so itself."""
    task, fault = why(tasks, states)
    data = status.read(folder)
    if data["state"] in (status.DONE, status.FAILED) or task is None:
        return
    whose = ""
    if data["state"] == status.QUEUED and folder.name not in task.cells:
        first = status.read(folder.with_name(task.cells[0]))
        fault = first.get("fault", fault)
        whose = f"the canary {task.cells[0]} failed ({first.get('cause', 'it did not say why')}): "
    elif data["state"] == status.QUEUED and task.of.kind == CALIBRATE:
        whose = "its calibration failed: "
    cause = f"{whose}job {task.id}: {faults.text(fault)}; its output: {task.log}"
    if last := _last_line(task.log):
        cause += f": {last}"
    stopped = fault in (faults.CANCELLED, faults.PREEMPTED)
    status.lost(folder, cause, fault, status.INTERRUPTED if stopped else status.FAILED)


def settle_ended(outputs: Path, folders: Iterable[Path]) -> list[Path]:
    """:func:`settle_all` while nobody submits: cells are queued before their jobs are known.

    Raises:
        BusyError: Somebody does.
        NoAnswerError: SLURM does not say.
    """
    tasks, folders = _by_cell(outputs), list(folders)
    if not any(folder.name in tasks for folder in folders):
        return []
    with submitted.claim(outputs, wait=False):
        return settle_all(outputs, folders)


def settle_all(outputs: Path, folders: Iterable[Path]) -> list[Path]:
    """:func:`settle` for all cells whose jobs have ended.

    Returns:
        These cells.

    Raises:
        NoAnswerError: SLURM does not say.
    """
    every = submitted.tasks(outputs)
    tasks = _of_slurm(every)
    waiting = [f for f in folders if tasks.get(f.name) and not _final(f)]
    single = {task.of.id: task for task in every if len(task.of.tasks) == 1}
    before = {f: _awaited(tasks[f.name][-1], single) for f in waiting}
    asked = [task for f in waiting for task in (*before[f], *tasks[f.name])]
    states = slurm.states(task.id for task in asked)
    found = [f for f in waiting if not any(_alive(task, states) for task in tasks[f.name])]
    for folder in found:
        settle(folder, [*before[folder], *tasks[folder.name]], states)
    return found


def why(tasks: Sequence[Task], states: Mapping[str, JobState]) -> tuple[Task | None, str]:
    """The task that ended a cell's last attempt, and the cause.

    A job that depends on a failed one is cancelled by SLURM; the one that failed is meant.
    """
    if not tasks:
        return None, faults.LOST
    last = tasks[-1]
    before = [task for task in tasks if task.of.id in _needed(last)]
    for task in (*before, last):
        state = states.get(task.id)
        if state is not None and state.state != "COMPLETED":
            return task, faults.of_job(state.state, state.exit_code)
    return last, faults.LOST


def notes(
    folders: Iterable[Path], tasks: Mapping[str, Sequence[Task]], states: Mapping[str, JobState]
) -> dict[str, str]:
    """By cell: why its job waits, or on which node it is."""
    found = {}
    for folder in folders:
        for task in tasks.get(folder.name, ()):
            state = states.get(task.id)
            if state is None or not state.alive:
                continue
            found[folder.name] = f"job {task.id}: {state.why or 'runs on ' + state.node}"
            break
    return found


def _needed(task: Task) -> set[str]:
    """Arrays that a task must see end well; what it only waits for (``afterany``) is none."""
    needed = re.findall(r"(?:afterok|aftercorr):(\d+)", task.of.after or "")
    return set(needed)


def _awaited(task: Task, single: Mapping[str, Task]) -> list[Task]:
    """Jobs of one task that a task needs and that are not its cell's: the canary."""
    found = (single[name] for name in sorted(_needed(task)) if name in single)
    return [other for other in found if not set(other.cells) & set(task.cells)]


def _by_cell(outputs: Path) -> dict[str, list[Task]]:
    return _of_slurm(submitted.tasks(outputs))


def _of_slurm(every: Sequence[Task]) -> dict[str, list[Task]]:
    """The tasks of cells that ran last in this machine's SLURM.

    Raises:
        NoAnswerError: SLURM does not say which one that is.
    """

    def ours(task: Task) -> bool:
        return task.of.place == "slurm" and not task.of.elsewhere

    found = submitted.of_cells(every)
    last = {cell: tasks for cell, tasks in found.items() if ours(tasks[-1])}
    return {cell: [task for task in tasks if ours(task)] for cell, tasks in last.items()}


def _alive(task: Task, states: Mapping[str, JobState]) -> bool:
    return task.id in states and states[task.id].alive


def _final(folder: Path) -> bool:
    return bool(status.read(folder)["state"] in (status.DONE, status.FAILED))


def _stopped(folder: Path) -> bool:
    return bool(status.read(folder)["state"] == status.INTERRUPTED)


def _last_line(log: Path) -> str:
    """What a job said last; submitit's own lines and srun's are no cause."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip()]
    told = [line for line in told if not line.startswith(("srun:", "submitit ", "slurmstepd:"))]
    return told[-1][:300] if told else ""


def states_of(outputs: Path, names: Iterable[str]) -> dict[str, str]:
    """:func:`notes` for cells by id, for a look from another shell; empty without SLURM."""
    names = list(names)
    if not names:
        return {}
    try:
        tasks = _by_cell(outputs)
        wanted = [name for name in names if name in tasks]
        states = slurm.states(task.id for name in wanted for task in tasks[name])
    except slurm.NoAnswerError:
        return {}
    return notes([Path(name) for name in wanted], tasks, states)


def calibration_of(folder: Path) -> str:
    """The calibration that a cell's description names."""
    return str((record.read(folder / "cell.json") or {}).get("calibration", ""))
