"""Hydra's and OmegaConf's errors, said so that the next command line is right."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import SequenceMatcher
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp import registry
from quantexp.errors import ConfigError, unknown
from quantexp.resources import GROUPS, choices, own

_KEY = re.compile(r"[Cc]ould not (?:override|delete from config\.) '(?P<key>[^']+)'")
_NEAR = 0.6  # similarity from which a key is worth offering


def explain(error: Exception, overrides: list[str]) -> str:
    """One message for an error of composition.

    Args:
        error: What Hydra or OmegaConf raised.
        overrides: The command line, to know which method's options are in use.
    """
    if isinstance(error, OverrideParseException):
        return _syntax(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group in GROUPS:
            return unknown(group, name, choices(group)).replace("allowed:", "allowed here:")
    message = _chain(error)
    if found := _KEY.search(message):
        return unknown_key(found["key"], _composed(overrides))
    if "Ambiguous value for argument" in message or "requires --multirun" in message:
        item = (re.search(r"'([^']+)'", message) or ["", ""])[1]
        return f"{item} is a grid: add -m to run it, or write a list as KEY=[a,b]"
    return message


def check_groups(overrides: list[str]) -> None:
    """Refuses what Hydra would take for a group but cannot run: nothing, a list, or two of them.

    Raises:
        ConfigError: With the choices of the group.
    """
    for item in overrides:
        key, equals, value = item.partition("=")
        group = key.lstrip("+~")
        if group not in GROUPS:
            continue
        if key.startswith("~") or not equals or value in ("", "null") or value[0] in "[{":
            raise ConfigError(
                f"'{item}' leaves no {group}: {unknown(group, value, choices(group))}"
            )
        if key.startswith("+"):
            raise ConfigError(f"'{item}': every cell has one {group}; write {group}={value}")


def _syntax(error: OverrideParseException) -> str:
    item = error.override
    if "=" not in item:
        hint = "".join(f"did you mean {g}={item}? " for g in GROUPS if item in choices(g))
        return f"'{item}' is no override: {hint}write KEY=VALUE, for example bits=w4a4"
    return (
        f"'{item}' cannot be read as KEY=VALUE: quote values that hold spaces, commas, "
        f"brackets or '=' ('key=\"value\"'), and leave no space around '='"
    )


def unknown_key(key: str, composed: Mapping[str, Any]) -> str:
    """One sentence for a key that a composed configuration does not have."""
    group, _, option = key.partition(".")
    owners = [name for name in registry.method_names() if option in options(name)]
    if group == "method" and owners:
        name = composed.get("method", {}).get("name")
        return f"unknown key '{key}': {option} belongs to {', '.join(owners)}, not to {name}"
    known = list(_keys(composed))
    others = [k for k in known if not key.startswith(f"{k}.")]  # what it lies in, it does not mean
    ranked = sorted(others, key=lambda k: _similarity(key, k), reverse=True)
    near = ranked[0] if ranked and _similarity(key, ranked[0]) >= _NEAR else None
    parent = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    if not siblings:
        siblings = [k for k in known if "." not in k]
    hint = f"did you mean '{near}'? " if near else ""
    return f"unknown key '{key}': {hint}allowed here: {', '.join(siblings)}"


def options(method: str) -> set[str]:
    """Names of a method's options; none for what is no method."""
    try:
        return {f.name for f in fields(registry.method(method).Options)}
    except ConfigError:  # a plugin that is broken, but not in use
        return set()


def _similarity(key: str, candidate: str) -> float:
    parent, _, last = key.rpartition(".")
    candidate_parent, _, candidate_last = candidate.rpartition(".")
    same_last = SequenceMatcher(None, last, candidate_last).ratio()
    if parent == candidate_parent:  # a common prefix is no likeness
        return same_last
    return max(SequenceMatcher(None, key, candidate).ratio(), 0.75 * same_last)


def _composed(overrides: list[str]) -> Any:
    """The default configuration with the group choices of the command line that are valid."""
    chosen = []
    for item in overrides:
        group, _, name = item.partition("=")
        name = name.split(",")[0]
        if group in GROUPS and name in choices(group):
            chosen.append(f"{group}={name}")
    try:
        with initialize_config_dir(str(own("conf")), version_base="1.3"):
            return OmegaConf.to_container(compose("config", chosen))
    except (HydraException, OmegaConfBaseException):
        return {}


def _keys(data: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield f"{prefix}{name}"
            yield from _keys(value, f"{prefix}{name}.")


def _chain(error: BaseException | None) -> str:
    """All messages of a chain of causes: Hydra often hides the reason one level down."""
    parts: list[str] = []
    while error is not None:
        text = str(error).split("\nSee https://")[0].strip()
        if text and text not in "\n".join(parts):
            parts.append(text)
        error = error.__cause__
    return "\n".join(parts) or type(error).__name__
