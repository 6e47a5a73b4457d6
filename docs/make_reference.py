"""Writes docs/reference.md from the schema of the configuration and the comments in conf/.

Run ``python docs/make_reference.py`` after a change of either; a test compares the two.
"""

import argparse
import importlib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from quantexp import registry
from quantexp.__main__ import COMMANDS
from quantexp.config import ExperimentConfig
from quantexp.grid.files import descriptions
from quantexp.help import MEANING
from quantexp.resources import GROUPS, own

TARGET = Path(__file__).with_name("reference.md")
_HEAD = """\
# Reference

Made by `docs/make_reference.py` from the schema, the comments in `conf/` and the commands' own
arguments; not edited by hand.

Every key can be given on the command line as `KEY=VALUE`; a comma list with `-m` is an axis of a
grid. `python -m quantexp … --cfg job` prints a command's whole configuration.
"""


def reference() -> str:
    """The text of docs/reference.md."""
    parts = [_HEAD, "## Groups\n"]
    for group in GROUPS:
        parts.append(f"### `{group}=`: {MEANING[group]}\n")
        lines = [(f"`{name}`", text) for name, text in _choices(group)]
        parts.append(_table(("choice", ""), lines))
    parts.append("## Options of the methods\n")
    for name in registry.own_names():
        options = registry.method(name).Options
        comments = _comments(own("conf") / "method" / f"{name}.yaml")
        rows = [
            (f"`method.{f.name}`", _type(hint), f"`{_value(f.default)}`", comments.get(f.name, ""))
            for f, hint in _typed(options)
        ]
        if rows:
            parts.append(f"### `method={name}`\n")
            parts.append(_table(("key", "type", "default", ""), rows))
    parts.append("## All other keys\n")
    comments = _comments(own("conf") / "config.yaml")
    for group in GROUPS:
        files = sorted((own("conf") / group).glob("*.yaml"))
        for path in sorted(files, key=lambda path: not path.stem.startswith("_")):
            for key, text in _comments(path).items():
                comments.setdefault(f"{group}.{key}", text)
    rows = [(f"`{key}`", kind, comments.get(key, "")) for key, kind in _keys(ExperimentConfig)]
    parts.append(_table(("key", "type", ""), rows))
    parts.append("## Sweeps\n")
    sweeps = [(f"`sweep={name}`", text) for name, text in descriptions().items()]
    parts.append(_table(("sweep", ""), sweeps))
    parts.append("## Commands\n")
    for name, (module, line) in COMMANDS.items():
        parts.append(f"### `{name}`: {line}\n")
        rows = list(_arguments(importlib.import_module(module).parser()))
        parts.append(_table(("argument", ""), rows))
    return "\n".join(parts)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Each argument as one types it, and its help."""
    for action in parser._actions:
        if "--help" in action.option_strings:
            continue
        metavar = action.metavar or (action.choices and "|".join(map(str, action.choices)))
        value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            value = ""
        names = ", ".join(action.option_strings) or str(value or action.dest)
        words = f"{names} {value or action.dest.upper()}" if value != "" else names
        yield (
            f"`{words if action.option_strings else names}`",
            (action.help or "").replace("%%", "%"),
        )


def _choices(group: str) -> Iterator[tuple[str, str]]:
    """Name and first comment of each choice that we ship."""
    for path in sorted((own("conf") / group).glob("*.yaml")):
        if not path.stem.startswith("_"):
            comment = re.findall(r"^# (?!@)(.*)$", path.read_text(), re.MULTILINE)
            yield path.stem, comment[0] if comment else ""


def _comments(path: Path) -> dict[str, str]:
    """Dotted key → the comment behind it; a key without one has none."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        match = re.match(r"^( *)(?:- )?(\w+):[^#]*(?:# (.*))?$", line)
        if match is None:
            continue
        depth = len(match[1])
        parents = [(d, key) for d, key in parents if d < depth]
        key = ".".join([*(key for _, key in parents), match[2]])
        parents.append((depth, match[2]))
        if match[3]:
            found.setdefault(key, match[3])
    return found


def _keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their types, nested ones in place."""
    for field, hint in _typed(schema):
        key = prefix + field.name
        if field.name == "method":
            yield "method.name", "str"
        elif is_dataclass(hint):
            yield from _keys(hint, f"{key}.")
        else:
            yield key, _type(hint)


def _typed(schema: Any) -> Iterator[tuple[Any, Any]]:
    hints = get_type_hints(schema)
    return ((field, hints[field.name]) for field in fields(schema))


def _type(hint: Any) -> str:
    name = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    name = re.sub(r"[\w.]+\.(\w+)", r"\1", name)
    return name.replace("tuple[", "list[").replace(", ...", "").replace("|", "or")


def _value(default: Any) -> str:
    if isinstance(default, tuple):
        default = list(default)
    return yaml.safe_dump(default, default_flow_style=True).splitlines()[0]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, tuple("---" for _ in head), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
