"""Plain data → frozen dataclasses, with errors that name the key, the value and the nearest key."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from quantexp.errors import ConfigError, did_you_mean

T = TypeVar("T")


def build(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Builds the dataclass ``cls`` from plain data.

    Args:
        cls: A dataclass whose fields are scalars, optionals, tuples or dataclasses.
        data: The mapping to read; every key must be a field.
        where: Dotted path of ``data`` in the configuration, for messages.

    Raises:
        ConfigError: An unknown or missing key, or a value of the wrong type.
    """
    hints, fields = _described(typing.cast(Any, cls))
    for key in data:
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            allowed = f"{hint}allowed: {', '.join(fields)}" if fields else "it has no options"
            raise ConfigError(f"unknown key '{_join(where, str(key))}': {allowed}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"missing key '{_join(where, name)}': give it a value")
    return cls(**values)


@cache
def _described(cls: Any) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    """Types and fields by name; a sweep builds the same few classes thousands of times."""
    return typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}


def plain(value: Any) -> Any:
    """The inverse of :func:`build`: dataclasses → dicts and lists that JSON can hold."""
    if value is None or type(value) in _NAMES:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if value is None or value == "???":
        raise ConfigError(f"'{where}' has no value: set it on the command line, {where}=…")
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{where}' must be a mapping of keys, not {value!r}")
        key = (hint, where, repr(value))
        if key not in _shared:
            _shared[key] = build(typing.cast(type[Any], hint), value, where)
        return _shared[key]
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"'{where}' must be a list, not {value!r}: write {where}=[…]")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and type(value) is int:  # a revision or a name may be digits only
        return str(value)
    if isinstance(hint, type) and hint is not Any:
        # bool is an int in Python, but never what a user meant by one
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            raise ConfigError(f"'{where}' must be {_NAMES.get(hint, hint.__name__)}, not {value!r}")
        return value
    return value


# Parts that are equal in the cells of a sweep are one object: all of them are frozen.
_shared: dict[tuple[Any, str, str], Any] = {}

_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}
