"""One line of the official table, and the parts that many lines share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LLAMA2 = ("llama2_7b", "llama2_13b", "llama2_70b")
LLAMA3 = ("llama3_8b", "llama3_70b")
DEMO = "demo"  # stands for any model that no paper names, with its own calibration text


@dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
        label: The method with its rounding, as tables call it (``flatquant+gptq``).
        models: Names of ``conf/model``.
        bits: Labels of bits.
        settings: Dotted configuration key → value.
        source: Where the settings are stated.
        deviations: What is not as in the source.
        paper: Whose table prints the method like this (``protocol.paper``), where it is a baseline
            that was run otherwise than by its authors; ``None``: the method's own settings.
        varied: Keys of ``settings`` that the source itself varies → the values that it tried.
            One of these that the configuration holds stays; anything else becomes the setting.
    """

    label: str
    models: tuple[str, ...]
    bits: tuple[str, ...]
    settings: Mapping[str, Any]
    source: str
    deviations: tuple[str, ...] = ()
    paper: str | None = None
    varied: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def weight(scheme: str) -> dict[str, Any]:
    """Scheme of weights per output channel, without clips."""
    return {
        "bits.weight.scheme": scheme,
        "bits.weight.granularity": "per_channel",
        "bits.weight.clip_ratio": 1.0,
        "bits.weight.clip_search": "none",
    }


def forward(tensor: str, scheme: str, granularity: str) -> dict[str, Any]:
    """Scheme of a tensor whose range is found as it runs."""
    return {
        f"bits.{tensor}.scheme": scheme,
        f"bits.{tensor}.granularity": granularity,
        f"bits.{tensor}.group_size": None,
        f"bits.{tensor}.dynamic": True,
        f"bits.{tensor}.clip_ratio": 1.0,
    }


def data(name: str, corpus: str, count: int, length: int) -> dict[str, Any]:
    """Calibration windows: choice of ``conf/data``, corpus, count and length."""
    return {
        "data.name": name,
        "data.corpus": corpus,
        "data.path": None,
        "data.num_samples": count,
        "data.seq_len": length,
    }


def gptq(act_order: bool) -> dict[str, Any]:
    """GPTQ's options."""
    return {
        "gptq.damping": 0.01,
        "gptq.block_size": 128,
        "gptq.act_order": act_order,
        "gptq.static_groups": False,
        "gptq.true_sequential": True,
    }
