"""Grids in Hydra's override language → lists of overrides, one per cell, by Hydra's own parser."""

import itertools
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Glob, Override
from hydra.errors import OverrideParseException

from quantexp import hints
from quantexp.errors import ConfigError, unknown
from quantexp.grid.compose import parse
from quantexp.grid.files import SweepFile
from quantexp.resources import GROUPS, choices

Axes = dict[str, tuple[str, ...]]  # key → the overrides that an axis goes through

# The demo model is for machines without network, and the papers' texts need one.
DEMO = {"data": "data=pydocs", "evaluation": "evaluation=pydocs"}
# Options of these groups belong to the choice that has them, not to another one.
_OWNERS = ("model", "method", "protocol")


@dataclass(frozen=True)
class GridCell:
    """Overrides of one cell.

    Attributes:
        overrides: In order.
        where: The grid that they are from, for messages.
        defaults: Those that come from the file's ``common`` line: what holds where a protocol
            does not decide the key.
    """

    overrides: tuple[str, ...]
    where: str = ""
    defaults: frozenset[str] = frozenset()


def axes(overrides: Sequence[str]) -> Axes:
    """The axes of one grid; of two with the same key the later counts, as in Hydra.

    Raises:
        ConfigError: What cannot be parsed or enumerated.
    """
    found: Axes = {}
    for text in overrides:
        try:
            override = parse(text)
        except OverrideParseException as error:
            raise ConfigError(hints.explain(error, [])) from error
        if override.is_hydra_override():
            raise ConfigError(f"'{text}': a sweep takes no hydra.* override; leave it out")
        hints.check_groups([text])
        key = override.get_key_element()
        found[key] = tuple(_values(override, text))
    return found


def expand(sweep: SweepFile, file: str, given: Sequence[str]) -> list[GridCell]:
    """All cells of a sweep, in order; equal ones once.

    An override on the command line takes the place of every grid's axis of that key. With
    ``model=`` or ``method=`` the grids' own options of that group go too, and a cell whose
    ``model=demo`` is from the command line gets :data:`DEMO`, where that is not given as well.

    Args:
        sweep: The file's content.
        file: The file's name, for messages.
        given: The command line's overrides, lists allowed.

    Raises:
        ConfigError: An error in the file (named with the grid) or on the command line, an
            exclusion that matches no cell of the file, or no cell that is left.
    """
    conditions = []
    for i, text in enumerate(sweep.exclude, 1):
        conditions.append(_located(f"{file}, exclude {i}", text))
    replacing = axes(given)
    # What the file alone says is read as well: an exclusion must mean something there.
    alone = list(_cells(sweep, file, {})) if conditions else []
    for text, condition in zip(sweep.exclude, conditions, strict=True):
        if not any(_meets(cell, condition) for _, cell, _ in alone):
            raise ConfigError(
                f"{file}: exclude '{text}' matches no cell of the grids: correct or remove it"
            )
    found: dict[tuple[str, ...], GridCell] = {}
    for where, cell, defaults in _cells(sweep, file, replacing):
        if not any(_meets(cell, condition) for condition in conditions):
            overrides = tuple(cell.values())
            found.setdefault(overrides, GridCell(overrides, where, defaults))
    if not found:
        raise ConfigError(f"{file}: with {' '.join(given)} every cell is excluded")
    _check_choices(found.values(), {text for values in replacing.values() for text in values})
    return list(found.values())


def product(overrides: Sequence[str]) -> list[GridCell]:
    """The cells of one grid given on the command line."""
    combined = itertools.product(*axes(overrides).values())
    cells = [GridCell(cell) for cell in dict.fromkeys(combined)]
    _check_choices(cells)
    return cells


def _check_choices(cells: Iterable[GridCell], given: Collection[str] = ()) -> None:
    """Refuses choices that a group does not have; only what cells use, not what is replaced."""
    known = {group: choices(group) for group in GROUPS}
    checked: set[str] = set()
    for cell in cells:
        for text in cell.overrides:
            group, _, value = text.partition("=")
            if text not in checked and group in known and value not in known[group]:
                where = f"{cell.where}: " if cell.where and text not in given else ""
                raise ConfigError(where + unknown(group, value, known[group]))
            checked.add(text)


def _cells(
    sweep: SweepFile, file: str, given: Axes
) -> Iterator[tuple[str, Mapping[str, str], frozenset[str]]]:
    common = _located(f"{file}, common", sweep.common)
    gone = tuple(f"{group}." for group in _OWNERS if group in given)
    for i, text in enumerate(sweep.grids, 1):
        where = f"{file}, grid {i}"
        chosen = _located(where, text)
        own = common | chosen
        left = [values for key, values in common.items() if key not in {*chosen, *given}]
        defaults = frozenset(item for values in left for item in values)
        merged = {k: v for k, v in own.items() if k not in given and not k.startswith(gone)} | given
        for values in itertools.product(*merged.values()):
            cell = dict(zip(merged, values, strict=True))
            if "model" in given and cell["model"] == "model=demo":
                cell |= {key: value for key, value in DEMO.items() if key not in given}
            yield where, cell, defaults


def _located(where: str, text: str) -> Axes:
    try:
        return axes(shlex.split(text))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ValueError as error:  # of shlex
        raise ConfigError(f"{where}: {error} in '{text}'") from error


def _meets(cell: Mapping[str, str], condition: Axes) -> bool:
    return all(cell.get(key) in values for key, values in condition.items())


def _values(override: Override, text: str) -> Iterator[str]:
    if override.is_delete():
        yield text
        return
    if not override.is_sweep_override():  # written as a list's elements are, to be compared
        yield f"{override.get_key_element()}={override.get_value_element_as_str()}"
        return
    if not override.is_discrete_sweep():
        raise ConfigError(f"'{text}' has no end: give a list, KEY=A,B or KEY=range(0,3)")
    key = override.get_key_element()
    value: Any = override.value()
    if isinstance(value, Glob):
        names = value.filter(choices(key)) if key in GROUPS else []
        if not names:
            raise ConfigError(f"'{text}' matches no choice")
        yield from (f"{key}={name}" for name in names)
        return
    yield from (f"{key}={value}" for value in override.sweep_string_iterator())
