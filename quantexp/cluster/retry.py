"""``python -m quantexp retry SWEEP [OVERRIDES]``: runs what is missing or failed of a sweep.

The cells are those that the sweep holds, with the configurations that their records hold. How they
run is composed anew, from the sweep's ``cluster`` overrides and those given here (``cluster.*``,
``tracker*``, ``plugins=[…]``): nothing that would be executed is ever taken from a record.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp import hints, usage
from quantexp.errors import ConfigError
from quantexp.experiment import outputs, record
from quantexp.experiment.plan import Plan, without_executed
from quantexp.plugins import active
from quantexp.resources import own, show_launcher, users

_HOW = ("cluster", "tracker", "keep")  # what is composed anew


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = usage.parser("retry", __doc__)
    made.add_argument("name", metavar="SWEEP")
    made.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="cluster.memory_gb=128 …")
    made.add_argument("--json", action="store_true", help="at the end, the cells' states")
    outputs.add_argument(made)
    return made


def main(argv: Sequence[str]) -> int:
    """Runs the sweep's missing cells.

    Raises:
        ConfigError: There is no such sweep, or its cells cannot run.
    """
    arguments = parser().parse_args(argv)
    said = sys.stderr if arguments.json else sys.stdout  # programs read stdout
    with active.active(active.given(arguments.overrides)), contextlib.redirect_stdout(said):
        made = _run(arguments.outputs, arguments.name, arguments.overrides)
    if arguments.json:
        failed = {cell.id for cell in made.failed}
        states = {cell.id: "failed" if cell.id in failed else "done" for cell in made.cells}
        print(json.dumps(states, indent=1))
    return 1 if made.failed else 0


def _run(root: Path, name: str, given: Sequence[str]) -> Plan:
    folders = outputs.cells(root, name)
    stored = list((record.read(root / "sweeps" / name / "sweep.json") or {}).get("overrides", []))
    fresh = _compose(stored, given)
    grid = [_config(folder, root) | fresh for folder in folders]

    from quantexp.cluster import session

    names = [[folder.name] for folder in folders]
    configs = session.checked(grid, names, [[] for _ in names])
    # the baselines are among the sweep's cells
    return session.run_sweep(configs, stored, name, baselines=False)


def _config(folder: Path, root: Path) -> dict[str, Any]:
    found = record.read(folder / "cell.json")
    if found is None:
        raise ConfigError(f"{folder}/cell.json is missing: run the sweep's own command instead")
    config: dict[str, Any] = found["config"]
    return {**config, "paths": {"outputs": str(root)}}


def _compose(stored: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """The groups of :data:`_HOW`, composed from conf/ of now."""
    for text in given:
        if not text.startswith((*_HOW, "plugins=")):
            raise ConfigError(
                f"{text}: retry keeps the sweep's cells as they are; allowed here are "
                f"{', '.join(f'{name}…' for name in _HOW)}"
            )
    kept = [text for text in without_executed(stored) if text.startswith(_HOW)]
    show_launcher()
    folder = users("conf")
    search = [f"hydra.searchpath=['file://{folder}']"] if folder else []
    try:
        with initialize_config_dir(str(own("conf")), version_base="1.3"):
            own_words = [text for text in given if text.startswith(_HOW)]
            made = compose("config", [*search, *kept, *own_words])
            found: Any = OmegaConf.to_container(made, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(hints.explain(error, [*kept, *given])) from error
    return {name: found[name] for name in _HOW}
