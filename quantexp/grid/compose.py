"""Composes many cells: Hydra once per combination of group choices, OmegaConf for plain values.

Hydra takes about 0.1 s per composition, whatever differs. It applies values to what the groups
compose to, by ``OmegaConf.update``; doing the same here gives the same configuration.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from quantexp import hints
from quantexp.errors import ConfigError
from quantexp.plugins import active

# Values at the top level; the rest there is groups.
_TOP = ("rounding", "seed", "keep", "name", "plugins")


class OverrideError(ConfigError):
    """An override that fits nothing; ``override`` says which, so that its origin can be named."""

    def __init__(self, message: str, override: str) -> None:
        super().__init__(message)
        self.override = override


class Composer:
    """Overrides of a cell → its plain configuration.

    Args:
        compose: Hydra's own composition of a list of overrides.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig]) -> None:
        self._compose = compose
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._reused: dict[tuple[tuple[str, ...], tuple[str, ...]], DictConfig] = {}
        self._templates: dict[tuple[tuple[str, ...], Any], dict[str, Any] | None] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The configuration of one cell, resolved.

        Raises:
            OverrideError: A plain value has an unknown key.
            HydraException, OmegaConfBaseException: What Hydra itself refuses.
        """
        groups, values = _divide(overrides)
        parsed = [parse(text) for text in values]
        found = [override.value() for override in parsed]
        if not all(map(_is_plain, found)):
            return self._resolved(groups, values)
        # cells that set the same keys to values of the same types differ in these values alone
        key = (groups, tuple((o.key_or_group, type(v)) for o, v in zip(parsed, found, strict=True)))
        if key not in self._templates:
            made = self._resolved(groups, values)
            self._templates[key] = None if _refers(self._base(groups)) else made
            return made
        template = self._templates[key]
        if template is None:
            return self._resolved(groups, values)
        data: dict[str, Any] = copy_plain(template)
        for override, value in zip(parsed, found, strict=True):
            *path, last = override.key_or_group.split(".")
            node = data
            for name in path:
                node = node[name]
            node[last] = value
        return data

    def _resolved(self, groups: tuple[str, ...], values: Sequence[str]) -> dict[str, Any]:
        """By OmegaConf: it refuses unknown keys and resolves references."""
        config = self._for_values(groups, [parse(value) for value in values])
        for text in values:
            override = parse(text)
            try:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
            except (ConfigAttributeError, ConfigKeyError) as error:
                known: Any = OmegaConf.to_container(self._base(groups))
                message = hints.unknown_key(override.key_or_group, known)
                raise OverrideError(message, text) from error
        data: Any = OmegaConf.to_container(config, resolve=True)
        return data  # type: ignore[no-any-return]

    def group(self, overrides: Sequence[str], name: str) -> Mapping[str, Any]:
        """What a cell's choice in one group holds before values are applied."""
        found: Any = self._base(_divide(overrides)[0])[name]
        return found  # type: ignore[no-any-return]

    def _base(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._bases:
            config = self._compose(list(groups))
            if "hydra" in config:
                with open_dict(config):
                    config.pop("hydra")
            active.add(config.plugins)
            self._bases[groups] = config
        return self._bases[groups]

    def _for_values(self, groups: tuple[str, ...], values: Sequence[Override]) -> DictConfig:
        """A configuration to write into.

        A copy takes longer than all the rest, so cells that set the same keys share one and
        overwrite each other's values; a mapping would be merged with the one before, and gets
        a copy of its own.
        """
        if not values:
            return self._base(groups)
        if any(isinstance(value.value(), dict) for value in values):
            return copy.deepcopy(self._base(groups))
        key = (groups, tuple(value.key_or_group for value in values))
        if key not in self._reused:
            self._reused[key] = copy.deepcopy(self._base(groups))
        return self._reused[key]


@cache
def parse(text: str) -> Override:
    """One override as Hydra reads it; a sweep repeats few of them often.

    Raises:
        OverrideParseException: It is none.
    """
    return OverridesParser.create().parse_overrides([text])[0]


def copy_plain(value: Any) -> Any:
    """A copy of plain data; several times faster than ``copy.deepcopy``."""
    if isinstance(value, dict):
        return {key: copy_plain(item) for key, item in value.items()}
    return [copy_plain(item) for item in value] if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
    """Whether a value means itself: no mapping or list, no reference to others, not missing."""
    if isinstance(value, str):
        return "${" not in value and value != "???"
    return value is None or type(value) in (bool, int, float)


def _refers(config: DictConfig) -> bool:
    """Whether a value of a configuration depends on another one of it."""
    text = OmegaConf.to_yaml(config)
    return "${" in re.sub(r"\$\{oc\.env:[^${}]*\}", "", text)


def _divide(overrides: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What Hydra must compose, and the plain values to apply on top, each in order."""
    groups: list[str] = []
    values: list[str] = []
    for text in overrides:
        override = parse(text)
        if override.is_add() or override.is_force_add() or override.is_delete():
            return tuple(overrides), ()  # these change what others mean: all is left to Hydra
        (values if _is_value(override) else groups).append(text)
    return tuple(groups), tuple(values)


def _is_value(override: Override) -> bool:
    key = override.key_or_group
    if override.package is not None or "/" in key or override.is_hydra_override():
        return False
    return "." in key or key in _TOP
