"""``python -m quantexp status``: what each cell is doing, read from records; no torch."""

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from quantexp.cluster import watch
from quantexp.experiment import outputs, status


def main(argv: Sequence[str]) -> int:
    """Prints the state of all cells, or of a sweep's.

    Raises:
        ConfigError: There is no such sweep.
    """
    parser = argparse.ArgumentParser("python -m quantexp status", description=__doc__)
    outputs.add_argument(parser)
    parser.add_argument("--sweep", metavar="NAME", help="only the cells of this sweep")
    parser.add_argument("--json", action="store_true", help="each cell's status.json, as a list")
    arguments = parser.parse_args(argv)
    folders = outputs.cells(arguments.outputs, arguments.sweep)
    if arguments.json:
        found = [{"cell": folder.name, **status.read(folder)} for folder in folders]
        print(json.dumps(found, indent=1))
        return 0
    lines = [watch.read(folder) for folder in folders]
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not lines:
        console.print(f"no cells in {arguments.outputs.resolve()}", markup=False)
        return 0
    console.print(watch.table(lines))
    for line in lines:
        if line.cause:
            print(f"{line.cell}: {line.cause}")
    return 0
