"""A plan on SLURM: what is not under way is submitted, then watched. The jobs need no watcher."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from quantexp.cluster import follow, slurm, submitted
from quantexp.cluster.needs import EVALUATE
from quantexp.cluster.submit import submit
from quantexp.cluster.watch import Watch
from quantexp.errors import ConfigError, Detached
from quantexp.experiment import plan as planning
from quantexp.experiment import status
from quantexp.experiment.plan import Job, Plan
from quantexp.experiment.run import is_done


def run(made: Plan, folder: Path, overrides: Sequence[str], console: Console) -> None:
    """Submits a plan and watches it to its end.

    Cells that wait or run in a job already, of this sweep or another, are not submitted again,
    only watched; so the same command twice at once is one sweep with two watchers.

    Raises:
        ConfigError: SLURM refused the jobs, or does not answer; nothing is left in the queue.
        Detached: With ``cluster.detach=true``, when all is submitted.
        KeyboardInterrupt: The watcher was told to go; the jobs go on, and the message says so.
    """
    outputs = made.cells[0].outputs
    cluster = made.cells[0].config.cluster
    with submitted.claim(outputs):
        jobs, busy, watched = _not_under_way(made, outputs)
        planning.write(replace(made, jobs=tuple(jobs)), folder, overrides)
        if jobs:
            for item in submit(jobs, cluster, folder / "jobs", busy):
                what = f"{len(item.tasks)} x {item.kind}"
                console.print(f"job      {item.id}  {what}", highlight=False)
    if watched:
        console.print(f"watching {watched} cells that are under way already", highlight=False)
    cells = list(dict.fromkeys(cell.folder for job in made.jobs for cell in job.cells))
    if cluster.detach and cells:
        raise Detached(_come_back(folder, outputs))
    try:
        with Watch(cells, console) as watch:

            def tell(notes: Mapping[str, str]) -> None:
                watch.notes = dict(notes)

            follow.follow(cells, outputs, cluster.poll_s, tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_come_back(folder, outputs)) from None
    done = {cell.id for cell in made.cells if is_done(cell)}
    submitted.tidy(submitted.tasks(outputs, folder.name), done)


def _not_under_way(made: Plan, outputs: Path) -> tuple[list[Job], dict[str, tuple[str, ...]], int]:
    """The jobs to submit, calibrations that a job is at, and how many cells are under way."""
    try:
        tasks = follow.live(outputs)
        follow.settle_all(outputs, (cell.folder for job in made.jobs for cell in job.cells))
    except slurm.NoAnswerError as error:
        raise ConfigError(f"SLURM does not answer ({error}): try again later") from error
    busy: dict[str, list[str]] = {}
    for task in tasks:
        if task.of.kind == EVALUATE or task.of.elsewhere:
            continue  # a job of another cluster cannot be waited for
        for calibration in {follow.calibration_of(outputs / "cells" / c) for c in task.cells}:
            busy.setdefault(calibration, []).append(task.id)
    # a cell whose own attempt has failed is not under way, though others of its task are
    states = {
        (outputs / "cells" / name).name: status.read(outputs / "cells" / name)["state"]
        for task in tasks
        for name in task.cells
    }
    under_way = {
        name for name, state in states.items() if state not in (status.DONE, status.FAILED)
    }
    jobs = []
    watched = 0
    for job in made.jobs:
        left = tuple(cell for cell in job.cells if cell.id not in under_way and not is_done(cell))
        watched += sum(cell.id in under_way for cell in job.cells)
        if left:
            jobs.append(Job(left))
    return jobs, {name: tuple(ids) for name, ids in busy.items()}, watched


def _come_back(folder: Path, outputs: Path) -> str:
    sweep = folder.name
    where = f" --outputs {outputs.resolve()}"
    return "\n".join(
        (
            f"the sweep goes on in SLURM without this command: {sweep}",
            f"  look     python -m quantexp status --sweep {sweep} --watch{where}",
            f"  stop     python -m quantexp cancel {sweep}{where}",
            f"  table    python -m quantexp report --sweep {sweep}{where}",
            "  the same command again watches it, and runs what is missing or failed",
        )
    )
