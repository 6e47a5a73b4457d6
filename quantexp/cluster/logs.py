"""``python -m quantexp logs CELL``: what a cell's last job printed, and prints with ``-f``."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from quantexp.cluster import choose, submitted
from quantexp.errors import ConfigError
from quantexp.experiment import faults, status


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = choose.parser("logs", __doc__, "CELL")
    made.add_argument("-f", "--follow", action="store_true", help="until the cell has ended")
    return made


def main(argv: Sequence[str]) -> int:
    """Prints the log.

    Raises:
        ConfigError: There is no such cell, or no job of it has printed anything yet.
    """
    arguments = parser().parse_args(argv)
    folder = choose.cell(arguments.outputs, arguments.name)
    found = submitted.of_cells(submitted.tasks(arguments.outputs)).get(folder.name, [])
    if arguments.json:
        jobs = [{"job": t.id, "kind": t.of.kind, "log": str(t.log.resolve())} for t in found]
        print(json.dumps(jobs, indent=1))
        return 0
    written = [task.log for task in found if task.log.exists()]
    if not written and not (found and arguments.follow):
        state = status.read(folder)["state"]
        raise ConfigError(f"no job of {folder.name} has printed anything yet (it is {state})")
    _print(written[-1] if written else found[-1].log, folder, arguments.follow)
    return 0


def _print(log: Path, folder: Path, follow: bool) -> None:
    place = 0
    while True:
        state = status.read(folder)
        cancelled = state["state"] == status.INTERRUPTED and state.get("fault") == faults.CANCELLED
        ended = cancelled or state["state"] in (status.DONE, status.FAILED)
        if log.exists():
            with log.open(errors="replace") as file:
                file.seek(place)
                print(file.read(), end="", flush=True)
                place = file.tell()
        if ended or not follow:
            return
        time.sleep(0.5)
