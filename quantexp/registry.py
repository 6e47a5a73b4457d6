"""Names → methods. A method is found by its file name, so that adding one edits no list.

Ours are the modules of ``quantexp.methods``, a user's own those of plugins.
"""

import importlib
import pkgutil
from functools import cache

from quantexp import methods
from quantexp.errors import ConfigError, unknown
from quantexp.methods.base import Method
from quantexp.plugins import known
from quantexp.plugins.folder import PluginMethod
from quantexp.plugins.load import load


def method_names() -> list[str]:
    """Names of all methods, those of plugins included.

    Raises:
        ConfigError: A plugin cannot be read.
    """
    return sorted({*own_names(), *known.methods()})


@cache
def own_names() -> tuple[str, ...]:
    """Names of our methods: the modules of ``quantexp.methods`` without the base."""
    found = (m.name for m in pkgutil.iter_modules(methods.__path__))
    return tuple(sorted(name for name in found if name != "base"))


def plugin(name: str) -> PluginMethod | None:
    """The plugin that brings a method; ``None`` for our own.

    Raises:
        ConfigError: The name is taken by several.
    """
    return known.find(name)


def method(name: str) -> type[Method]:
    """The method class of a name; its options are readable without torch.

    Raises:
        ConfigError: The name is unknown (the nearest name is offered), or a plugin's module is
            broken.
    """
    if found := plugin(name):
        return load(found)
    if name not in own_names():
        raise ConfigError(unknown("method", name, method_names()))
    return _own(name)


@cache
def _own(name: str) -> type[Method]:
    module = importlib.import_module(f"quantexp.methods.{name}")
    return next(
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Method)
        and item.__module__ == module.__name__
    )
