"""``sweeps/NAME.yaml``: which sweeps there are and what is written in them; no Hydra here.

The schema is :class:`SweepFile`. A grid is what one would write on the command line, in one string:

    description: RTN and GPTQ at 4 bits, and at 3 bits on the small model only
    common: bits=w4a16
    grids:
      - model=llama2_7b,llama2_13b method=rtn,gptq
      - model=llama2_7b method=rtn,gptq bits=w3a16
    exclude:
      - model=llama2_13b method=gptq
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quantexp.config import EXECUTED
from quantexp.errors import ConfigError, unknown
from quantexp.resources import own, users
from quantexp.typed import build


@dataclass(frozen=True)
class SweepFile:
    """The union of ``grids`` without what ``exclude`` matches.

    Attributes:
        description: One line for ``--help``; a paper's table says paper and number.
        grids: Overrides in Hydra's language, separated by spaces and quoted as in a shell.
        common: Overrides of every grid; a grid's own override of the same key wins.
        exclude: Conditions ``KEY=VALUE[,VALUE] …``; cells that meet all of one are left out.
    """

    description: str
    grids: tuple[str, ...]
    common: str = ""
    exclude: tuple[str, ...] = ()


def paths() -> dict[str, Path]:
    """Name → file of all sweeps. The user's ./sweeps adds to ours; as in conf/, ours go first."""
    found: dict[str, Path] = {}
    for folder in (own("sweeps"), users("sweeps")):
        for path in sorted(folder.glob("*.yaml")) if folder else ():
            if not path.stem.startswith("_"):
                found.setdefault(path.stem, path)
    return found


def descriptions() -> dict[str, str]:
    """Name → one line, for ``--help``; a file that cannot be read says so and stops nobody."""
    found = {}
    for name, path in paths().items():
        try:
            found[name] = _read(path).description
        except ConfigError:
            found[name] = f"(cannot be read: sweep={name} says why)"
    return found


def read(name: str) -> tuple[SweepFile, Path]:
    """The sweep of that name and its file.

    Raises:
        ConfigError: There is none, or the file breaks the schema; the message names the file.
    """
    known = paths()
    if name not in known:
        raise ConfigError(
            f"{unknown('sweep', name, known)}; your own go into ./sweeps/NAME.yaml"
            if known
            else f"unknown sweep '{name}': there is none"
        )
    folder = users("sweeps")
    if folder and (folder / f"{name}.yaml").is_file() and known[name].parent != folder:
        print(
            f"warning: sweeps/{name}.yaml is not read, quantexp has a sweep of that name: "
            "rename yours",
            file=sys.stderr,
        )
    return _read(known[name]), known[name]


def _read(path: Path) -> SweepFile:
    where = f"sweeps/{path.name}"
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must hold keys: description and grids, see sweeps/README.md")
    try:
        found = build(SweepFile, data)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not found.grids:
        raise ConfigError(f"{where}: 'grids' is empty: add one, such as 'method=rtn,gptq'")
    for text in (found.common, *found.grids):
        for name in EXECUTED:
            if f"cluster.{name}" in text:
                raise ConfigError(
                    f"{where}: cluster.{name} would be executed, and sweeps are passed around: "
                    "put it into your own ./conf/cluster/NAME.yaml, or on the command line"
                )
    return found
