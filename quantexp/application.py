"""Hydra's part of the command line: overrides → composed configurations → cells that run."""

import os
import sys
import tempfile
from typing import Any

from hydra import main as hydra_main
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp import hints
from quantexp.errors import CellError, ConfigError, QuantexpError, unknown
from quantexp.resources import PACKAGE, own, users

# Hydra's own flags that are of use here, with the number of values each takes.
_FLAGS = {"--multirun": 0, "--resolve": 0, "--hydra-help": 0, "--shell-completion": 0}
_VALUED = ("--cfg", "--package", "--info", "--config-dir")
_SHORT = {"-m": "--multirun", "-c": "--cfg", "-p": "--package", "-i": "--info"}
_SHORT |= {"-sc": "--shell-completion", "-cd": "--config-dir"}


def run(arguments: list[str]) -> int:
    """Composes and runs what the command line asks for.

    Args:
        arguments: Overrides and Hydra's flags, in any order.

    Returns:
        0 when all cells are done, 1 when some failed.

    Raises:
        QuantexpError: What the user can fix, before any work.
    """
    flags, overrides = _split(arguments)
    hints.check_groups(overrides)
    plugins = str(PACKAGE / "_plugins")
    if plugins not in sys.path:
        sys.path.append(plugins)
    refused: list[QuantexpError] = []

    def one_cell(config: DictConfig) -> None:
        from quantexp.cluster import session

        try:
            data: Any = OmegaConf.to_container(config, resolve=True)
            session.run_one(data, overrides)
        except QuantexpError as error:  # Hydra would print it before raising it again
            refused.append(error)

    with tempfile.TemporaryDirectory(prefix="quantexp-") as scratch:
        # Hydra leaves multirun.yaml in its directories; sweep.json says the same and more.
        places = [f"hydra.run.dir='{scratch}'", f"hydra.sweep.dir='{scratch}'"]
        try:
            _hydra([*flags, *places, *_search_path(overrides), *overrides], one_cell)
            if refused:
                raise refused[0]
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(hints.explain(error, overrides)) from error
        except CellError:
            return 1
    return 0


def _hydra(arguments: list[str], task: Any) -> None:
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    # Hydra reads sys.argv, and prints and exits by itself unless asked for full errors.
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["quantexp", *arguments], "1"
    try:
        hydra_main(version_base="1.3", config_path=str(own("conf")), config_name="config")(task)()
    finally:
        sys.argv = before[0]
        del os.environ["HYDRA_FULL_ERROR"]
        if before[1] is not None:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _search_path(overrides: list[str]) -> list[str]:
    """The user's ./conf, after ours: an unrelated project's folder must not replace our files."""
    folder = users("conf")
    if folder is None or any(o.startswith("hydra.searchpath") for o in overrides):
        return []
    path = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{path}']"]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Flags first, since argparse does not accept them between overrides."""
    flags, overrides, rest = [], [], list(arguments)
    while rest:
        item = rest.pop(0)
        if not item.startswith("-"):
            overrides.append(item)
            continue
        name, equals, _ = item.partition("=")
        name = _SHORT.get(name, name)
        if name not in _FLAGS and name not in _VALUED:
            known = (*_FLAGS, *_VALUED, "--help", "--version")
            raise ConfigError(unknown("option", item, known))
        flags.append(name + item[len(item.partition("=")[0]) :])
        if name in _VALUED and not equals:
            if not rest:
                raise ConfigError(f"option {item} needs a value")
            flags.append(rest.pop(0))
    return flags, overrides
