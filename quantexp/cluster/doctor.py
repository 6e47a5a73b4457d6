"""``python -m quantexp doctor``: can cells run, here and in a job? If not, what to do."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from quantexp.cluster.health import FAILED, OK, Check, Request, checks
from quantexp.cluster.place import resolve
from quantexp.config import ExperimentConfig, from_plain
from quantexp.errors import ConfigError
from quantexp.plugins import active
from quantexp.typed import plain
from quantexp.usage import description

# A configuration → what a job of its cluster found; None where cells run on this machine.
JobChecks = Callable[[ExperimentConfig], list[Check] | None]

_STYLES = {OK: "green", FAILED: "bold red"}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser("python -m quantexp doctor", description=description(__doc__))
    made.add_argument(
        "overrides", nargs="*", help="as for a sweep: cluster=… cluster.partition=… paths.outputs=…"
    )
    made.add_argument("--json", action="store_true", help="all findings, as one JSON object")
    return made


def main(argv: Sequence[str]) -> int:
    """Checks and reports.

    Returns:
        0 when nothing failed, else 1; warnings do not count.

    Raises:
        ConfigError: The overrides are no configuration.
    """
    arguments = parser().parse_intermixed_args(argv)
    with active.active(active.given(arguments.overrides)):
        from quantexp.application import grid_of

        config = from_plain(grid_of([], arguments.overrides, False).data[0])
        return report(config, arguments.json, in_job)


def report(config: ExperimentConfig, as_json: bool, job: JobChecks) -> int:
    """Prints what was found here and, where there is a cluster, in a job of it."""
    here = checks(Request(config.paths.outputs, tracker=config.tracker.mode))
    there = job(config) if not any(check.state == FAILED for check in here) else None
    places = {"here": here} if there is None else {"here": here, "job": there}
    good = not any(check.state == FAILED for found in places.values() for check in found)
    if as_json:
        listed = {place: [plain(check) for check in found] for place, found in places.items()}
        print(
            json.dumps({"ok": good, "outputs": str(Path(config.paths.outputs)), **listed}, indent=1)
        )
    else:
        _print(places, good)
    return 0 if good else 1


def in_job(config: ExperimentConfig) -> list[Check] | None:
    """What a job of SLURM found; ``None`` where cells run on this machine."""
    try:
        if resolve(config.cluster.name) != "slurm":
            return None
        from quantexp.cluster import doctor_job

        return doctor_job.run(config)
    except ConfigError as error:
        return [Check("SLURM", FAILED, str(error), "ask again when it does, or use cluster=local")]


def _print(places: dict[str, list[Check]], good: bool) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, pad_edge=False)
    for title in ("where", "check", "state", "found"):
        table.add_column(title, overflow="fold")
    fixes = []
    for place, found in places.items():
        for check in found:
            style = _STYLES.get(check.state, "yellow")
            state = f"[{style}]{check.state}[/{style}]"
            table.add_row(place, check.name, state, check.text.replace("[", "\\["))
            if check.fix:
                fixes.append(f"{check.state:<8} {place}, {check.name}: {check.fix}")
    console.print(table)
    for line in fixes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if good:
        said = "cells can run: python -m quantexp sweep=quickstart, or --help for what else"
    else:
        said = "cells cannot run as things are: mend what failed, then the same command again"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
