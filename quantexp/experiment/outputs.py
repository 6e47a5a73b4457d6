"""The folder of results as subcommands see it: which cells are there, and which of a sweep."""

import argparse
import os
import shlex
from pathlib import Path

from quantexp.errors import ConfigError, unknown
from quantexp.experiment import record


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--outputs``, with the default of ``paths.outputs``."""
    parser.add_argument(
        "--outputs",
        metavar="FOLDER",
        type=Path,
        default=Path(os.environ.get("QUANTEXP_OUTPUTS") or "outputs"),
        help="folder of the results (default: $QUANTEXP_OUTPUTS, or ./outputs)",
    )


def option(outputs: Path) -> str:
    """`` --outputs FOLDER``, or nothing where commands look there anyway: for suggestions."""
    usual = Path(os.environ.get("QUANTEXP_OUTPUTS") or "outputs")
    return "" if outputs.resolve() == usual.resolve() else f" --outputs {shlex.quote(str(outputs))}"


def cells(outputs: Path, sweep: str | None = None) -> list[Path]:
    """Folders of all cells by name, or of a sweep's cells in its order.

    Raises:
        ConfigError: There is no such sweep; the nearest is offered.
    """
    if sweep is None:
        return sorted(path.parent for path in (outputs / "cells").glob("*/cell.json"))
    found = record.read(outputs / "sweeps" / sweep / "sweep.json")
    if found is None:
        names = [path.parent.name for path in (outputs / "sweeps").glob("*/sweep.json")]
        if not names:
            raise ConfigError(f"unknown sweep '{sweep}': {outputs.resolve()} holds no sweep yet")
        raise ConfigError(f"{unknown('sweep', sweep, names)} (in {outputs.resolve()})")
    return [outputs / "cells" / str(name) for name in found["cells"]]
