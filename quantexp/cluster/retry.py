"""``python -m quantexp retry SWEEP [OVERRIDES]``: runs what is missing or failed of a sweep.

The cells are those that the sweep holds, with the configurations that their records hold. How they
run is composed anew, from the sweep's ``cluster`` overrides and those given here (``cluster.*``,
``tracker*``): nothing that a shell would execute is ever taken from a record.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp import hints
from quantexp.errors import ConfigError
from quantexp.experiment import outputs, record
from quantexp.resources import own, users

_HOW = ("cluster", "tracker", "keep")  # what may be said anew


def main(argv: Sequence[str]) -> int:
    """Runs the sweep's missing cells.

    Raises:
        ConfigError: There is no such sweep, or its cells cannot run.
    """
    parser = argparse.ArgumentParser(
        "python -m quantexp retry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="SWEEP")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="cluster.memory_gb=128 …")
    parser.add_argument("--json", action="store_true", help="at the end, the cells' states")
    outputs.add_argument(parser)
    arguments = parser.parse_args(argv)
    folders = outputs.cells(arguments.outputs, arguments.name)
    path = arguments.outputs / "sweeps" / arguments.name / "sweep.json"
    stored = list((record.read(path) or {}).get("overrides", []))
    fresh = _compose(stored, arguments.overrides)
    grid = [_config(folder, arguments.outputs) | fresh for folder in folders]

    from quantexp.cluster import session

    names = [[folder.name] for folder in folders]
    configs = session.checked(grid, names, [[] for _ in names])
    # the baselines are among the sweep's cells
    made = session.run_sweep(configs, stored, arguments.name, baselines=False)
    if arguments.json:
        failed = {cell.id for cell in made.failed}
        states = {cell.id: "failed" if cell.id in failed else "done" for cell in made.cells}
        print(json.dumps(states, indent=1))
    return 1 if made.failed else 0


def _config(folder: Path, root: Path) -> dict[str, Any]:
    found = record.read(folder / "cell.json")
    if found is None:
        raise ConfigError(f"{folder}/cell.json is missing: run the sweep's own command instead")
    config: dict[str, Any] = found["config"]
    return {**config, "paths": {"outputs": str(root)}}


def _compose(stored: Sequence[str], given: Sequence[str]) -> dict[str, Any]:
    """The groups of :data:`_HOW`, composed from conf/ of now."""
    from quantexp.experiment.plan import without_executed

    for text in given:
        if not text.lstrip("+~").startswith(_HOW):
            raise ConfigError(
                f"{text}: retry keeps the sweep's cells as they are; allowed here are "
                f"{', '.join(f'{name}…' for name in _HOW)}"
            )
    kept = [text for text in without_executed(stored) if text.startswith(_HOW)]
    folder = users("conf")
    search = [f"hydra.searchpath=['file://{folder}']"] if folder else []
    try:
        with initialize_config_dir(str(own("conf")), version_base="1.3"):
            made = compose("config", [*search, *kept, *given])
            found: Any = OmegaConf.to_container(made, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(hints.explain(error, [*kept, *given])) from error
    return {name: found[name] for name in _HOW}
