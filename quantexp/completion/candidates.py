"""What may stand at a place of the command line; imports neither torch nor Hydra."""

import argparse
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from quantexp import registry
from quantexp.config import CHOICES, ExperimentConfig
from quantexp.grid import files as sweep_files
from quantexp.help import MEANING
from quantexp.plugins import active
from quantexp.resources import GROUPS, choices

Candidate = tuple[str, str]  # what is written, and what it means or nothing

_FLAGS = {
    "-m": "run a grid",
    "--dry-run": "print the plan and start nothing",
    "--json": "with --dry-run, for programs",
    "--cfg": "print the composed configuration: --cfg job",
    "--help": "all choices",
    "--version": "",
}
_OVERRIDING = ("prefetch", "doctor", "retry")  # commands that take overrides too


def candidates(words: Sequence[str]) -> list[Candidate]:
    """All that fit the last word.

    Args:
        words: What stands behind ``python -m quantexp``; the last one is being typed, and may be
            empty.
    """
    from quantexp.__main__ import COMMANDS  # it is who imports us

    *before, last = words or [""]
    with active.active(active.given(before)):
        if before and before[0] in COMMANDS:
            found = list(_of_command(before[0], COMMANDS[before[0]][0], before[1:], last))
        else:
            found = [*_overrides(before, last), *_FLAGS.items()]
            if not before:
                found += [(name, line) for name, (_, line) in COMMANDS.items()]
    return [candidate for candidate in found if candidate[0].startswith(last)]


def _overrides(before: Sequence[str], last: str) -> Iterator[Candidate]:
    """``GROUP=`` and keys, or behind the ``=`` the choices, after a comma those not given yet."""
    key, equals, value = last.partition("=")
    if not equals:
        yield from ((f"{group}=", MEANING[group]) for group in GROUPS)
        yield "sweep=", "a named sweep"
        # hundreds of keys would hide the groups: they come with their group's name and a dot
        if last:
            dotted = "." in last
            yield from ((f"{key}=", "") for key in _keys(before) if dotted or "." not in key)
        return
    first, comma, _ = value.rpartition(",")
    given = set(first.split(","))
    for name in _values(key):
        if name not in given:
            yield f"{key}={first}{comma}{name}", ""


def _values(key: str) -> Sequence[str]:
    if key in GROUPS:
        return choices(key)
    return [*sweep_files.paths()] if key == "sweep" else CHOICES.get(key, ())


def _keys(before: Sequence[str]) -> Iterator[str]:
    """Dotted keys of the schema, with the options of the methods on the line (or of all)."""
    named = [word.partition("=")[2] for word in before if word.startswith("method=")]
    methods = named[-1].split(",") if named else registry.method_names()
    yield from _schema(ExperimentConfig)
    options = {
        field.name: None
        for name in methods
        if name in registry.method_names()
        for field in fields(registry.method(name).Options)
    }
    yield from (f"method.{name}" for name in options)


def _schema(schema: Any, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for field in fields(schema):
        key, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            if key != "method":
                yield from _schema(hint, f"{key}.")
        else:
            yield key


def _of_command(command: str, module: str, before: Sequence[str], last: str) -> Iterator[Candidate]:
    """A command's options with their choices, names of sweeps and cells, and overrides."""
    parser: argparse.ArgumentParser = importlib.import_module(module).parser()
    options = {text: action for action in parser._actions for text in action.option_strings}
    wanted = _waiting(options, before)
    if wanted is not None and not last.startswith("-"):
        yield from ((name, "") for name in _choices(wanted, before))
        return
    if last.startswith("-"):
        yield from ((text, _line(action)) for text, action in options.items())
        return
    for action in parser._actions:
        if not action.option_strings:
            yield from ((name, "") for name in _choices(action, before))
    if command in _OVERRIDING:
        yield from _overrides(before, last)


def _waiting(options: dict[str, argparse.Action], before: Sequence[str]) -> argparse.Action | None:
    """The option whose value is being typed."""
    for back, word in enumerate(reversed(before)):
        if word in options:
            action = options[word]
            if action.nargs in ("+", "*"):
                return action
            takes = 1 if action.nargs is None else action.nargs  # 0 for a switch
            return action if isinstance(takes, int) and back < takes else None
    return None


def _choices(action: argparse.Action, before: Sequence[str]) -> list[str]:
    """The action's own choices, or names of what its metavar speaks of."""
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    metavar = action.metavar if isinstance(action.metavar, tuple) else (action.metavar or "",)
    what = {part for text in metavar for part in text.split("|")}
    names: list[str] = []
    if "SWEEP" in what or action.dest == "sweep":
        names += _there(before, "sweeps/*/sweep.json")
    if "CELL" in what:
        names += _there(before, "cells/*/cell.json")
    return names


def _there(before: Sequence[str], pattern: str) -> list[str]:
    given = [b for a, b in pairwise(before) if a == "--outputs"]
    outputs = Path(given[-1] if given else os.environ.get("QUANTEXP_OUTPUTS") or "outputs")
    return sorted(path.parent.name for path in outputs.glob(pattern))


def _line(action: argparse.Action) -> str:
    """The first words of an option's help."""
    text = (action.help or "").replace("%%", "%")
    return text if len(text) <= 60 else f"{text[:59]}…"
