"""``python -m quantexp cancel SWEEP|CELL``: stops its jobs of SLURM; what is finished is kept."""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from quantexp.cluster import choose, follow, slurm
from quantexp.cluster.submitted import Task
from quantexp.errors import ConfigError
from quantexp.experiment import faults, status
from quantexp.waiting import Waiting

_PATIENCE = 90  # seconds that SLURM may take to end a job (KillWait is 30 by default)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    return choose.parser("cancel", __doc__, "SWEEP|CELL")


def main(argv: Sequence[str]) -> int:
    """Cancels what waits or runs.

    Raises:
        ConfigError: There is no such sweep or cell, or SLURM does not answer.
    """
    arguments = parser().parse_args(argv)
    named = choose.tasks(arguments.outputs, arguments.name)
    try:
        away = {task.of.cluster for task in named if task.of.elsewhere and task.open}
        live = [task for task in follow.live(arguments.outputs) if not task.of.elsewhere]
        wanted = {task.id for task in named if not task.of.elsewhere}
        found = [task for task in live if task.id in wanted]
        others = {task.of.id for task in live if task.id not in wanted}
        # an array whose tasks all go is one order to SLURM
        slurm.cancel(list(dict.fromkeys(t.id if t.of.id in others else t.of.id for t in found)))
        _wait(found)
    except slurm.NoAnswerError as error:
        raise ConfigError(f"SLURM does not answer ({error}): try again later") from error
    for name in sorted(map(str, away)):
        print(
            f"warning: {arguments.name} has jobs on cluster {name}: cancel it there as well",
            file=sys.stderr,
        )
    cells = sorted({cell for task in found for cell in task.cells})
    for cell in cells:
        folder = arguments.outputs / "cells" / cell
        if status.read(folder)["state"] not in (status.DONE, status.FAILED):
            status.lost(folder, "cancelled", faults.CANCELLED, status.INTERRUPTED)
    if arguments.json:
        print(json.dumps({"jobs": [task.id for task in found], "cells": cells}, indent=1))
        return 0
    if not found:
        print(f"no job of {arguments.name} waits or runs")
        return 0
    print(f"cancelled {len(found)} jobs of {len(cells)} cells: {' '.join(t.id for t in found)}")
    print(f"again    python -m quantexp retry {arguments.name}")
    return 0


def _wait(tasks: Sequence[Task]) -> None:
    """Until SLURM has ended them: before that, a running cell writes over what is noted here."""
    end = time.monotonic() + _PATIENCE
    with Waiting("jobs ended", len(tasks)) as told:
        while time.monotonic() < end:
            states = slurm.states(task.id for task in tasks)
            alive = sum(state.alive for state in states.values())
            if not alive:
                return
            told(len(tasks) - alive)
            time.sleep(1)
