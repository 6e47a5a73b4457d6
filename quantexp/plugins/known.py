"""Which plugins this process knows: of ``$QUANTEXP_PLUGINS``, and of installed distributions.

A process learns of folders from that variable alone (:mod:`quantexp.plugins.active` writes it), so
nothing is ever imported because a stored configuration says so. Nothing is imported here.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from quantexp.errors import ConfigError
from quantexp.plugins.folder import PluginMethod, read
from quantexp.resources import files

VARIABLE = "QUANTEXP_PLUGINS"
GROUP = "quantexp.plugins"


@dataclass
class _Known:
    """Name → method; ``refused``: name → why it is refused where it is used, although listed."""

    methods: dict[str, PluginMethod] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def methods() -> Mapping[str, PluginMethod]:
    """All methods of plugins, by name.

    Raises:
        ConfigError: A folder of ``$QUANTEXP_PLUGINS`` is no plugin, or its names are taken.
    """
    return _known(tuple(folders())).methods


def find(name: str) -> PluginMethod | None:
    """The plugin's method of that name, or ``None``.

    Raises:
        ConfigError: An installed plugin uses a name that is taken: nobody can know who is meant.
    """
    known = _known(tuple(folders()))
    if name in known.refused:
        raise ConfigError(known.refused[name])
    return known.methods.get(name)


def folders() -> list[str]:
    """What the variable holds."""
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def forget() -> None:
    """Has files read anew: they may have changed since the last command of this process."""
    _known.cache_clear()


@cache
def _known(paths: tuple[str, ...]) -> _Known:
    known = _Known()
    for path in paths:
        folder = Path(path).absolute()
        for method in read(folder, str(folder)):
            if reason := _taken(method, known):
                raise ConfigError(reason)
            known.methods[method.name] = method
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            found = _installed(point)
        except ConfigError as error:  # it must not stop a command that does not use it
            print(f"warning: {error}", file=sys.stderr)
            continue
        for method in found:
            if reason := _taken(method, known):
                known.refused[method.name] = reason
            else:  # its package tells more than its folder, where both are given
                known.methods[method.name] = method
    return known


def _taken(method: PluginMethod, known: _Known) -> str | None:
    """Why a plugin's method cannot have its name."""
    other = known.methods.get(method.name)
    owner = f"plugin {other.origin}" if other and other.folder != method.folder else None
    path = files("method").get(method.name)
    if path and not path.samefile(method.options):  # a plugin may lie in the user's conf/method
        owner = str(path)
    if owner is None:
        return None
    return (
        f"plugin {method.origin}: the method name '{method.name}' is taken by {owner}: "
        f"rename {method.name}.py and {method.name}.yaml"
    )


def _installed(point: EntryPoint) -> list[PluginMethod]:
    """The methods of an entry point's package, which is located, not imported."""
    distribution = point.dist
    origin = f"{distribution.name} {distribution.version}" if distribution else point.name
    top, *rest = point.module.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location, *rest).absolute()
        if folder.is_dir():
            return read(folder, origin, point.module)
    raise ConfigError(
        f"plugin {origin} is not used: its entry point {GROUP}: {point.name} = {point.value} "
        "names no package that is installed"
    )
