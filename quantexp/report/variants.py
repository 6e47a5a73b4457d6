"""Variants of a method that papers print by a name of their own: ablations, recipes, texts."""

from collections.abc import Mapping
from typing import Any

from quantexp.report.collect import Row

# FlatQuant's names of what is learned (Tables 3 and 16)
_PARTS = {"method.transform": "LT", "method.per_channel_scaling": "PS", "method.clipping": "LCT"}
_TEXTS = {"c4": "C4", "pile": "Pile"}  # Table 17; WikiText-2 is the method itself
_RECIPE = "method.parametrization"
_ORDER = "gptq.act_order"


def printed(row: Row) -> tuple[str | None, frozenset[str]]:
    """The label of a row in papers, and the options that this label stands for.

    Two rows that differ in no other option than these have labels of their own. ``None`` where a
    row differs from its method in a way that no paper prints.
    """
    if row.label == "flatquant":
        return _flatquant(row.config)
    if row.label == "gptq" and _get(row.config, "protocol.paper") == "awq":
        label = "GPTQ act-order" if _get(row.config, _ORDER) else row.label  # GPTQ-R
        return label, frozenset({_ORDER})
    return row.label, frozenset()


def paper(row: Row) -> str | None:
    """The paper whose baselines a cell repeats (``protocol.paper``), if any."""
    found = _get(row.config, "protocol.paper")
    return str(found) if found else None


def _flatquant(config: Mapping[str, Any]) -> tuple[str | None, frozenset[str]]:
    names = []
    learned = [name for key, name in _PARTS.items() if _get(config, key) is not False]
    if len(learned) < len(_PARTS):
        names.append(f"FlatQuant ablation [{'+'.join(learned) or 'none'}]")
    if (text := _get(config, "data.name")) in _TEXTS:
        names.append(f"FlatQuant calibrated on {_TEXTS[text]}")
    # Qwen's rows are fitted with direct inverses and have no other name for it
    model = str(_get(config, "model.name"))
    if _get(config, _RECIPE) == "direct" and not model.startswith("qwen"):
        names.append("FlatQuant recipe [FP32 direct inverse]")
    explained = frozenset({*_PARTS, _RECIPE, "data.name", "data.corpus"})
    return (names[0] if names else "flatquant") if len(names) < 2 else None, explained


def _get(config: Mapping[str, Any], key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
