"""Names → methods. A method is found by its file name, so that adding one edits no list."""

import importlib
import pkgutil
from functools import cache

from quantexp import methods
from quantexp.errors import ConfigError, unknown
from quantexp.methods.base import Method


def method_names() -> list[str]:
    """Names of all methods: the modules of ``quantexp.methods`` without the base."""
    found = (m.name for m in pkgutil.iter_modules(methods.__path__))
    return sorted(name for name in found if name != "base")


@cache
def method(name: str) -> type[Method]:
    """The method class of a name; its options are readable without torch.

    Raises:
        ConfigError: The name is unknown; the nearest name is offered.
    """
    if name not in method_names():
        raise ConfigError(unknown("method", name, method_names()))
    module = importlib.import_module(f"quantexp.methods.{name}")
    return next(
        item
        for item in vars(module).values()
        if isinstance(item, type)
        and issubclass(item, Method)
        and item.__module__ == module.__name__
    )
