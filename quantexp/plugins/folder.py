"""A plugin: a folder with one ``NAME.py`` and one ``NAME.yaml`` for each method of a user's own.

Files whose names begin with ``_`` are helpers. Nothing here imports a plugin's code.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from quantexp.errors import ConfigError, did_you_mean
from quantexp.plugins.source import source_hash


@dataclass(frozen=True)
class PluginMethod:
    """One method of a plugin.

    Attributes:
        name: The stem of both files.
        folder: Where they are, absolute.
        origin: Who brought it, for messages and records: the folder, or the distribution.
        package: Dotted name of the folder where it is part of an installed package.
    """

    name: str
    folder: Path
    origin: str
    package: str | None = None

    @property
    def code(self) -> Path:
        """The Python file."""
        return self.folder / f"{self.name}.py"

    @property
    def options(self) -> Path:
        """The YAML file."""
        return self.folder / f"{self.name}.yaml"

    @cached_property
    def source(self) -> str:
        """sha256 (hex) of the code: part of the calibration fingerprint."""
        return source_hash(self.code, self.package)

    def describe(self) -> dict[str, str]:
        """What records say of it."""
        return {"name": self.name, "source": self.source, "origin": self.origin}


def read(folder: Path, origin: str, package: str | None = None) -> list[PluginMethod]:
    """The methods of a plugin's folder, by name.

    Args:
        folder: Absolute.
        origin: What messages call the plugin.
        package: See :class:`PluginMethod`.

    Raises:
        ConfigError: It is no folder, a file lacks its other half, or a YAML file cannot be used.
    """
    if not folder.is_dir():
        what = f"is a file: give its folder, {folder.parent}" if folder.is_file() else "is missing"
        raise ConfigError(f"plugin {origin}: the folder {folder} {what}")
    stems = {end: _stems(folder, end) for end in (".py", ".yaml")}
    for end, other in ((".py", ".yaml"), (".yaml", ".py")):
        for stem in sorted(stems[end] - stems[other]):
            raise ConfigError(
                f"plugin {origin}: {stem}{end} has no {stem}{other} beside it: "
                f"{did_you_mean(stem, stems[other])}a method is one NAME.py and one NAME.yaml; "
                f"call it _{stem}{end} if it is no method"
            )
    if not stems[".py"]:
        raise ConfigError(
            f"plugin {origin}: {folder} holds no method: put NAME.py and NAME.yaml there"
        )
    found = [PluginMethod(stem, folder, origin, package) for stem in sorted(stems[".py"])]
    for method in found:
        _check(method)
    return found


def _stems(folder: Path, end: str) -> set[str]:
    return {path.stem for path in folder.glob(f"*{end}") if not path.name.startswith("_")}


def _check(method: PluginMethod) -> None:
    if not method.name.isidentifier():
        raise ConfigError(
            f"plugin {method.origin}: '{method.name}' is no Python name: "
            "allowed are letters, digits and '_'"
        )
    try:
        data: Any = yaml.safe_load(method.options.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{method.options} cannot be read: {error}") from error
    data = data if isinstance(data, dict) else {}
    inner = data.get("method")  # of a file with "# @package _global_", which sets other keys too
    named = (inner if isinstance(inner, dict) else data).get("name")
    if named != method.name:
        raise ConfigError(
            f"{method.options} has name: {named}, but its file is {method.name}.yaml: "
            f"write 'name: {method.name}'"
        )
