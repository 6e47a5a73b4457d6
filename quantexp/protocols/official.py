"""``protocol=official``: the table's settings become the configuration, before it is hashed.

The table decides every key that it names; an override on the command line that says otherwise is
refused (:func:`conflicts`), since the result would not be the paper's any more. Keys that it does
not name (seeds, evaluation, where it runs) stay the user's, and so does what the paper itself
varies, within the values that it tried. A model that no paper names, the demo model for one, gets
the method's settings and keeps its own calibration text; its records say so.

``protocol.paper=NAME`` asks for a baseline as that paper ran it for its own tables, where it says
how; every other method has its own paper's settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quantexp.config import ExperimentConfig
from quantexp.errors import ConfigError
from quantexp.protocols.entry import DEMO, Entry
from quantexp.protocols.table import TABLE
from quantexp.resources import GROUPS
from quantexp.typed import plain

NAME = "official"


def apply(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration with the paper's settings; unchanged for the baseline.

    Raises:
        ConfigError: The table has no entry for method, model and bits.
    """
    if config.method.name == "none":
        return config
    for key, value in settings(config).items():
        config = _set(config, _path(key), value)
    return config


def settings(config: ExperimentConfig) -> Mapping[str, Any]:
    """Dotted key → value that the protocol gives this cell."""
    found = entry(config)
    wanted = {}
    for key, value in found.settings.items():
        if _listed(config) == DEMO and key.startswith("data."):
            continue
        own = _get(config, _path(key))
        wanted[key] = own if own in found.varied.get(key, ()) else value
    return wanted


def entry(config: ExperimentConfig) -> Entry:
    """The table's entry for a cell.

    Raises:
        ConfigError: There is none; what there is for the method is listed.
    """
    model, bits = _listed(config), config.bits.label
    paper = config.protocol.paper
    rows = [row for row in TABLE if row.label == config.label and row.paper in (None, paper)]
    fitting = [row for row in rows if model in row.models and bits in row.bits]
    if fitting:
        return max(fitting, key=lambda row: row.paper is not None)
    name = config.model.name
    asked = f"protocol=official has no settings for {config.label}, model {name}, bits {bits}"
    if not rows:
        labels = ", ".join(dict.fromkeys(row.label for row in TABLE))
        raise ConfigError(f"{asked}: it has {labels}; or use protocol=uniform")
    there = "; ".join(
        f"{', '.join(r.models).replace(DEMO, 'any other model')} at {', '.join(r.bits)}"
        for r in rows
    )
    raise ConfigError(f"{asked}: for {config.label} it has {there}; or use protocol=uniform")


def _listed(config: ExperimentConfig) -> str:
    """The model's name where the method's papers have it, else what stands for all others."""
    name = config.model.name
    named = any(name in row.models for row in TABLE if row.label == config.label)
    return name if named else DEMO


def describe(config: ExperimentConfig) -> dict[str, Any]:
    """Source and deviations of a cell's settings, for its records."""
    if config.protocol.name != NAME or config.method.name == "none":
        return {}
    found = entry(config)
    deviations = list(found.deviations)
    if _listed(config) == DEMO:
        deviations.append("no model of the paper: its calibration text is not the paper's")
    return {"protocol_source": found.source, "protocol_deviations": deviations}


def conflicts(config: ExperimentConfig, overrides: Sequence[str]) -> list[str]:
    """Overrides that contradict the protocol, each with the value that it has and the fix.

    Args:
        config: The configuration, with the protocol applied.
        overrides: The command line's, in Hydra's language.
    """
    if config.protocol.name != NAME or config.method.name == "none":
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser

    wanted = settings(config)
    found = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = str(override.key_or_group)
        if override.is_sweep_override():
            continue
        value = override.value()
        if key in GROUPS and not isinstance(value, Mapping):
            key = f"{key}.name"
        for name, given in _flat(key, value):
            if name in wanted and given != plain(wanted[name]):
                found.append(
                    f"{override.input_line}: protocol=official sets {name}={wanted[name]} for "
                    f"{config.label} ({entry(config).source}): leave it out, or use "
                    "protocol=uniform"
                )
    return found


def _flat(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [pair for k, v in value.items() for pair in _flat(f"{key}.{k}", v)]
    return [(key, value)]


def _get(node: Any, path: Sequence[str]) -> Any:
    for name in path:
        node = getattr(node, name)
    return node


def _path(key: str) -> list[str]:
    """``method.alpha`` is a field of the method's options."""
    head, *rest = key.split(".")
    return [head, "options", *rest] if head == "method" else [head, *rest]


def _set(node: Any, path: Sequence[str], value: Any) -> Any:
    head, *rest = path
    return replace(node, **{head: _set(getattr(node, head), rest, value) if rest else value})
