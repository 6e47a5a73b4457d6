"""Hydra's and OmegaConf's errors, said so that the next command line is right."""

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quantexp.errors import unknown
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
        return _unknown_key(found["key"], overrides)
    if "Ambiguous value for argument" in message or "requires --multirun" in message:
        item = (re.search(r"'([^']+)'", message) or ["", ""])[1]
        return f"{item} is a grid: add -m to run it, or write a list as KEY=[a,b]"
    return message


def _syntax(error: OverrideParseException) -> str:
    item = error.override
    if "=" not in item:
        return f"'{item}' is no override: write KEY=VALUE, for example bits=w4a4"
    return (
        f"'{item}' cannot be read as KEY=VALUE: quote values that hold spaces, commas, "
        f"brackets or '=' ('key=\"value\"'), and leave no space around '='"
    )


def _unknown_key(key: str, overrides: list[str]) -> str:
    known = list(_keys(_composed(overrides)))
    ranked = sorted(known, key=lambda k: _similarity(key, k), reverse=True)
    near = ranked[0] if ranked and _similarity(key, ranked[0]) >= _NEAR else None
    parent = key.rpartition(".")[0]
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    if not siblings:
        siblings = [k for k in known if "." not in k]
    hint = f"did you mean '{near}'? " if near else ""
    return f"unknown key '{key}': {hint}allowed here: {', '.join(siblings)}"


def _similarity(key: str, candidate: str) -> float:
    whole = SequenceMatcher(None, key, candidate).ratio()
    last = SequenceMatcher(None, key.rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
    return max(whole, 0.9 * last)


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
