"""Grids that are composed outside of Hydra's app: ``sweep=NAME``, and what ``--dry-run`` shows."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from quantexp import hints, registry
from quantexp.errors import ConfigError
from quantexp.experiment.plan import sweep_name
from quantexp.grid import files
from quantexp.grid.compose import Composer, OverrideError, parse
from quantexp.grid.expand import DEMO, GridCell, axes, expand, product
from quantexp.plugins import active
from quantexp.resources import own


@dataclass(frozen=True)
class Grid:
    """The distinct cells of one command.

    Attributes:
        overrides: Of each cell; options that its method does not have are left out.
        asked: Those of them that a protocol must not contradict: all but a sweep file's ``common``.
        data: The composed configuration of each cell, plain.
        given: The command line's overrides, for ``sweep.json``.
        name: The sweep's name.
        note: What the command line changed besides what it says, or nothing.
    """

    overrides: tuple[tuple[str, ...], ...]
    asked: tuple[tuple[str, ...], ...]
    data: tuple[dict[str, Any], ...]
    given: tuple[str, ...]
    name: str
    note: str = ""


def named(name: str, given: Sequence[str], search_path: Sequence[str] = ()) -> Grid:
    """The cells of ``sweep=NAME`` with the command line's overrides.

    With overrides that can change a number the sweep gets a name of its own, so that
    ``model=demo`` and the paper's models never share a table.

    Args:
        name: The sweep file's name.
        given: The command line's overrides; lists are axes.
        search_path: Hydra's override for the user's ./conf.

    Raises:
        ConfigError: Names the file and the grid, or the override on the command line.
    """
    sweep, path = files.read(name)
    active.add(_plugins(sweep))
    cells = expand(sweep, f"sweeps/{path.name}", given)
    overrides, asked, data = _compose(cells, given, search_path)
    full = sweep_name(data[0]["name"], given, base=name)
    chosen = axes(given)
    demo = [item for key, item in DEMO.items() if key not in chosen]
    note = ""
    if demo and "model=demo" in chosen.get("model", ()):
        note = f"model=demo brings {' '.join(demo)} (no network), unless you give others"
    return Grid(overrides, asked, data, (f"sweep={name}", *given), full, note)


def anonymous(given: Sequence[str], search_path: Sequence[str] = ()) -> Grid:
    """The cells of one grid on the command line."""
    overrides, asked, data = _compose(product(given), (), search_path)
    return Grid(overrides, asked, data, tuple(given), sweep_name(data[0]["name"], given))


def refuse_lists(given: Sequence[str]) -> None:
    """Refuses lists where one cell is asked for.

    Raises:
        ConfigError: Says what to write instead.
    """
    for text, values in zip(given, (axes([text]) for text in given), strict=True):
        if any(parse(text).is_sweep_override() for _ in values):
            raise ConfigError(f"{text} is a grid: add -m to run it, or write a list as KEY=[a,b]")


def _plugins(sweep: files.SweepFile) -> list[str]:
    """The plugins that a sweep's file names: its methods must be known before it is expanded."""
    words: list[str] = []
    for text in (sweep.common, *sweep.grids):
        with suppress(ValueError):  # what cannot be split is told with its place, by expand
            words += shlex.split(text)
    return active.given(words)


def _compose(
    cells: Sequence[GridCell], given: Sequence[str], search_path: Sequence[str]
) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...], tuple[dict[str, Any], ...]]:
    """Composes distinct cells; an option on the command line goes to the methods that have it."""
    from_line = {item for items in axes(given).values() for item in items}
    unused = {key for key in axes(given) if key.startswith("method.")}
    composer = Composer(lambda overrides: compose("config", [*search_path, *overrides]))
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    asked: dict[tuple[str, ...], tuple[str, ...]] = {}
    methods: dict[str, list[str]] = {}
    cell = cells[0]
    try:
        with initialize_config_dir(str(own("conf")), version_base="1.3"):
            for cell in cells:
                overrides = cell.overrides
                if from_line:
                    method = str(composer.group(overrides, "method")["name"])
                    methods.setdefault(method, _options(method))
                    overrides, used = _fitting(overrides, from_line, methods[method])
                    unused -= used
                if overrides not in found:
                    found[overrides] = composer(overrides)
                    asked[overrides] = tuple(o for o in overrides if o not in cell.defaults)
    except OverrideError as error:
        text = "" if cell.where else _of_some_methods(error.override, cells)
        if text:
            raise ConfigError(text) from error
        origin = "" if error.override in from_line or not cell.where else f"{cell.where}: "
        raise ConfigError(f"{origin}{error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        origin = f"{cell.where}: " if cell.where else ""
        raise ConfigError(origin + hints.explain(error, list(cell.overrides))) from error
    for key in sorted(unused):
        known = {option: None for options in methods.values() for option in options}
        known_here = {"method": {**known, "name": ", ".join(methods)}}
        raise ConfigError(f"no cell of the sweep has it: {hints.unknown_key(key, known_here)}")
    return tuple(found), tuple(asked.values()), tuple(found.values())


def _of_some_methods(text: str, cells: Sequence[GridCell]) -> str:
    """What to do where one grid gives an option of some methods to others; empty if it does not."""
    override = parse(text)
    head, _, option = override.key_or_group.partition(".")
    chosen = dict.fromkeys(o for cell in cells for o in cell.overrides if o.startswith("method="))
    names = [item.removeprefix("method=") for item in chosen]
    having = [name for name in names if option in hints.options(name)]
    others = [name for name in names if name not in having]
    if head != "method" or not having or not others:
        return ""
    given = dict.fromkeys(o for cell in cells for o in cell.overrides)
    values = [o.partition("=")[2] for o in given if o.partition("=")[0] == text.partition("=")[0]]
    text = f"{override.key_or_group}={','.join(values)}"
    grids = [f"method={','.join(others)}", f"method={','.join(having)} {text}"]
    return (
        f"unknown key '{override.key_or_group}' of {', '.join(others)}: {', '.join(having)} "
        f"{'has' if len(having) == 1 else 'have'} it, and one grid gives every option to each of "
        "its methods. Write two grids into ./sweeps/NAME.yaml and run sweep=NAME:\n"
        f"         description: {' and '.join([*others, *having])}\n"
        f"         grids: [{', '.join(repr(grid) for grid in grids)}]"
    )


def _options(method: str) -> list[str]:
    return ["name", *(field.name for field in fields(registry.method(method).Options))]


def _fitting(
    overrides: tuple[str, ...], from_line: set[str], options: Sequence[str]
) -> tuple[tuple[str, ...], set[str]]:
    """Overrides without the command line's options of other methods; and which ones fitted."""
    kept, used = [], set()
    for text in overrides:
        key = parse(text).key_or_group
        if text in from_line and key.startswith("method."):
            if key.removeprefix("method.") not in options:
                continue
            used.add(key)
        kept.append(text)
    return tuple(kept), used
