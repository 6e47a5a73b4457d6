"""``python -m quantexp status``: what each cell is doing, or why it failed, from records alone."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from quantexp.cluster import follow, slurm, watch
from quantexp.experiment import outputs, status
from quantexp.experiment.claim import BusyError
from quantexp.usage import description

_EVERY = 10.0  # seconds between two questions to SLURM
_MANY = 500  # cells above which the table has no colours: drawing them would take seconds


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser("python -m quantexp status", description=description(__doc__))
    outputs.add_argument(made)
    made.add_argument("name", metavar="SWEEP", nargs="?", help="the same as --sweep SWEEP")
    made.add_argument("--sweep", metavar="NAME", help="only the cells of this sweep")
    made.add_argument("--json", action="store_true", help="each cell's status.json, as a list")
    made.add_argument("--watch", action="store_true", help="until all cells have ended; Ctrl-C")
    return made


def main(argv: Sequence[str]) -> int:
    """Prints the state of all cells, or of a sweep's.

    Raises:
        ConfigError: There is no such sweep.
    """
    arguments = parser().parse_args(argv)
    sweep = arguments.sweep or arguments.name
    folders = outputs.cells(arguments.outputs, sweep)
    if not folders and not arguments.json:
        print(f"no cells in {arguments.outputs.resolve()}; --outputs names another folder")
        return 0
    if arguments.watch and not arguments.json:
        return _watch(folders, arguments.outputs)
    # the table is shown all the same
    with suppress(slurm.NoAnswerError, OSError, BusyError):
        follow.settle_ended(arguments.outputs, folders)
    notes = follow.states_of(arguments.outputs, _open(folders))
    if arguments.json:
        print(json.dumps([_plain(folder, notes) for folder in folders], indent=1))
        return 0
    lines = [watch.read(folder, notes.get(folder.name, "")) for folder in folders]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if len(lines) > _MANY:
        print(watch.plain_table(lines))
    else:
        console.print(watch.table(lines))
    for line in lines:
        if line.cause:
            print(f"{line.cell}: {line.cause}")
    print(_next([line.state for line in lines], arguments.outputs, sweep))
    return 0


def _next(states: Sequence[str], root: Path, sweep: str | None) -> str:
    """What one would do with cells in these states."""
    there = outputs.option(root)
    of = f" --sweep {sweep}" if sweep else ""
    if status.FAILED in states:
        why = f"why: python -m quantexp logs CELL{there}"
        return f"{why}; again: python -m quantexp retry {sweep or 'SWEEP'}{there}"
    if set(states) == {status.DONE}:
        return f"all done: python -m quantexp report{of}{there}"
    return f"until all have ended: python -m quantexp status{of}{there} --watch"


def _watch(folders: Sequence[Path], root: Path) -> int:
    """The live table; it can be left and taken up again, nothing hangs on it."""
    console = Console()
    with watch.Watch(folders, console) as view:

        def tell(notes: Mapping[str, str]) -> None:
            view.notes = dict(notes)

        waiting = [root / "cells" / name for name in _open(folders)]
        follow.follow(waiting, root, _EVERY, tell)
    failed = [folder for folder in folders if status.read(folder)["state"] != status.DONE]
    console.print(watch.table([watch.read(folder) for folder in folders]))
    return 1 if failed else 0


def _open(folders: Sequence[Path]) -> list[str]:
    ended = (status.DONE, status.FAILED)
    return [folder.name for folder in folders if status.read(folder)["state"] not in ended]


def _plain(folder: Path, notes: Mapping[str, str]) -> dict[str, Any]:
    found = {"cell": folder.name, **status.read(folder)}
    if folder.name in notes:
        found["slurm"] = notes[folder.name]
    if earlier := status.attempts(folder):
        found["attempts"] = earlier
    return found
