"""``python -m quantexp status``: what each cell is doing, read from records; no torch."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from quantexp.cluster import watch
from quantexp.experiment import outputs


def main(argv: Sequence[str]) -> int:
    """Prints the state of all cells, or of a sweep's.

    Raises:
        ConfigError: There is no such sweep.
    """
    parser = argparse.ArgumentParser("python -m quantexp status", description=__doc__)
    outputs.add_argument(parser)
    parser.add_argument("--sweep", metavar="NAME", help="only the cells of this sweep")
    parser.add_argument("--json", action="store_true", help="as a list of JSON objects")
    arguments = parser.parse_args(argv)
    folders = outputs.cells(arguments.outputs, arguments.sweep)
    lines = [watch.read(folder) for folder in folders]
    if arguments.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not lines:
        console.print(f"no cells in {arguments.outputs.resolve()}", markup=False)
        return 0
    console.print(watch.table(lines))
    for line in lines:
        if line.cause:
            print(f"{line.cell}: {line.cause}")
    return 0
