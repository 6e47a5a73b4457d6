"""Hydra's part of the command line: overrides → composed configurations → cells that run."""

import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from hydra import main as hydra_main
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp import hints
from quantexp.errors import CellError, ConfigError, QuantexpError, unknown
from quantexp.plugins import active
from quantexp.resources import own, show_launcher, users

if TYPE_CHECKING:
    from quantexp.grid.command import Grid

# Hydra's own flags that are of use here, with the number of values each takes.
_FLAGS = {"--multirun": 0, "--resolve": 0, "--hydra-help": 0, "--shell-completion": 0}
_OWN = ("--dry-run", "--json")  # flags of ours, which Hydra does not know
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
    with active.active(active.given(overrides)):
        return _run(flags, overrides)


def _run(flags: list[str], overrides: list[str]) -> int:
    hints.check_groups(overrides)
    show_launcher()
    sweeps = [item for item in overrides if item.startswith("sweep=")]
    # Hydra's sweeper composes every cell by itself, which takes minutes for a thousand; the same
    # grid is ours in seconds. Where the command line speaks of Hydra (a sweeper), it is Hydra's.
    plain = flags == ["--multirun"] and not any(item.startswith("hydra") for item in overrides)
    if sweeps or plain or {*_OWN} & set(flags):
        return _grid(flags, sweeps, [item for item in overrides if item not in sweeps])
    refused: list[QuantexpError] = []

    def one_cell(config: DictConfig) -> None:
        from quantexp.cluster import session

        try:
            active.add(config.plugins)
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


def _grid(flags: list[str], sweeps: list[str], overrides: list[str]) -> int:
    """What Hydra's app has no part in: a named sweep, and the plan of any command."""
    from quantexp.cluster import session
    from quantexp.grid import dry_run

    dry = "--dry-run" in flags
    for flag in flags:
        if flag not in ("--multirun", *_OWN) or (flag == "--json" and not dry):
            raise ConfigError(f"{flag} does not go with {' '.join(sweeps) or 'this'}: leave it out")
    grid = grid_of(sweeps, overrides, "--multirun" in flags)
    if dry:
        return dry_run.show(grid, bool(sweeps) or "--multirun" in flags, "--json" in flags)
    configs = session.checked(grid.data, grid.overrides, grid.asked)
    if grid.note:
        print(f"note     {grid.note}")
    return 1 if session.run_sweep(configs, grid.given, grid.name).failed else 0


def grid_of(sweeps: list[str], overrides: list[str], multirun: bool) -> "Grid":
    """The cells of a command line, composed outside of Hydra's app.

    Args:
        sweeps: Its ``sweep=NAME``, one at most.
        overrides: The rest.
        multirun: Whether it has ``-m``.

    Raises:
        ConfigError: Names the override, or the sweep's file.
    """
    from quantexp.grid import command

    hints.check_groups(overrides)
    show_launcher()
    if len(sweeps) > 1 or any("," in item for item in sweeps):
        raise ConfigError(f"{' '.join(sweeps)}: one sweep at a time")
    search_path = _search_path(overrides)
    if sweeps:
        return command.named(sweeps[0].partition("=")[2], overrides, search_path)
    if not multirun:
        command.refuse_lists(overrides)
    return command.anonymous(overrides, search_path)


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
            if name in _OWN and not equals:
                flags.append(name)
                continue
            known = (*_FLAGS, *_VALUED, *_OWN, "--help", "--version")
            raise ConfigError(unknown("option", item, known))
        flags.append(name + item[len(item.partition("=")[0]) :])
        if name in _VALUED and not equals:
            if not rest:
                raise ConfigError(f"option {item} needs a value")
            flags.append(rest.pop(0))
    return flags, overrides
