"""The papers' own settings, one entry per method, models and bits, each with its source.

Only what a paper or its official code states is here; where this package cannot do the same, the
entry says so under ``deviations``. Seeds are no setting: they stay an axis of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LLAMA2 = ("llama2_7b", "llama2_13b", "llama2_70b")
LLAMA3 = ("llama3_8b", "llama3_70b")
DEMO = "demo"  # stands for any model, with its own text: the papers' windows are too long for it


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
    """

    label: str
    models: tuple[str, ...]
    bits: tuple[str, ...]
    settings: Mapping[str, Any]
    source: str
    deviations: tuple[str, ...] = ()


def _weight(scheme: str) -> dict[str, Any]:
    return {
        "bits.weight.scheme": scheme,
        "bits.weight.granularity": "per_channel",
        "bits.weight.clip_ratio": 1.0,
        "bits.weight.clip_search": "none",
    }


def _forward(tensor: str, scheme: str, granularity: str) -> dict[str, Any]:
    return {
        f"bits.{tensor}.scheme": scheme,
        f"bits.{tensor}.granularity": granularity,
        f"bits.{tensor}.group_size": None,
        f"bits.{tensor}.dynamic": True,
        f"bits.{tensor}.clip_ratio": 1.0,
    }


def _data(name: str, corpus: str, count: int, length: int) -> dict[str, Any]:
    return {
        "data.name": name,
        "data.corpus": corpus,
        "data.path": None,
        "data.num_samples": count,
        "data.seq_len": length,
    }


def _gptq(act_order: bool) -> dict[str, Any]:
    return {
        "gptq.damping": 0.01,
        "gptq.block_size": 128,
        "gptq.act_order": act_order,
        "gptq.static_groups": False,
        "gptq.true_sequential": True,
    }


_ACTIVATION = _forward("activation", "symmetric", "per_token")
_CACHE = {
    **_forward("key", "asymmetric", "per_head"),
    **_forward("value", "asymmetric", "per_head"),
}

# --- FlatQuant (2410.09426) ---------------------------------------------------------------------

_FLATQUANT = {
    **_weight("symmetric"),
    **_ACTIVATION,
    **_CACHE,
    **_data("wikitext2", "wikitext2_flatquant", 128, 2048),
    "method.epochs": 15,
    "method.batch_size": 4,
    "method.lr": 5e-3,
    "method.clip_lr_multiplier": 10.0,
    "method.alpha": 0.3,
    "method.transform": True,
    "method.per_channel_scaling": True,
    "method.clipping": True,
    "method.parametrization": "svd",
    "method.init": "random",
}
_FLATQUANT_SOURCE = (
    "arXiv 2410.09426 and ruikangliu/FlatQuant (main.py, flatquant/train_utils.py, scripts/)"
)
_AMP = "fitted in float32 (official: float16 autocast, parameters in float32)"
_SEPARATE = "P_v is merged into v_proj (official for LLaMA-3-70B: applied online)"
_CACHE_BITS = ("kv4", "kv3", "kv2")
_MIXED_CACHE_BITS = ("k4v3", "k4v2", "k3v4", "k3v2", "k2v4", "k2v3")


def _flatquant(label: str, models: tuple[str, ...], bits: tuple[str, ...]) -> tuple[Entry, ...]:
    settings = {**_FLATQUANT, **(_gptq(act_order=False) if label.endswith("gptq") else {})}
    large = "llama3_70b"
    common = tuple(name for name in models if name != large)
    found = [Entry(label, common, bits, settings, _FLATQUANT_SOURCE, (_AMP,))]
    if large in models:
        found.append(Entry(label, (large,), bits, settings, _FLATQUANT_SOURCE, (_AMP, _SEPARATE)))
    return tuple(found)


# --- SmoothQuant (2211.10438) -------------------------------------------------------------------


def _smoothquant(models: tuple[str, ...], alpha: float) -> Entry:
    return Entry(
        "smoothquant",
        models,
        ("w8a8",),
        {
            **_weight("symmetric"),
            **_ACTIVATION,
            **_data("pile", "pile_smoothquant", 512, 512),
            "method.alpha": alpha,
        },
        "mit-han-lab/smoothquant (README, examples/ppl_eval.sh, smoothquant/calibration.py)",
        (
            "outputs of q, k and v stay at 16 bits (official LLaMA runs: 8, before RoPE)",
            "documents shorter than 512 tokens are passed over (official: taken as they are)",
        ),
    )


# --- the table ----------------------------------------------------------------------------------

TABLE: tuple[Entry, ...] = (
    Entry(
        "rtn",
        (*LLAMA2, *LLAMA3, DEMO),
        ("w4a16", "w3a16", "w4a4", "w4a4kv4"),
        {**_weight("symmetric"), **_ACTIVATION, **_CACHE},
        "RTN has no paper: the quantizers of FlatQuant's RTN rows "
        "(ruikangliu/FlatQuant, flatquant/quant_utils.py)",
    ),
    Entry(
        "gptq",
        (*LLAMA2, *LLAMA3, DEMO),
        ("w4a16", "w3a16", "w4a16g128", "w3a16g128"),
        {**_weight("asymmetric"), **_gptq(act_order=True), **_data("c4", "c4", 128, 2048)},
        "IST-DASLab/gptq (llama.py, quant.py, datautils.py; README: --true-sequential --act-order)",
        ("the README gives these options for LLaMA-1",),
    ),
    _smoothquant(("llama2_7b", "llama2_13b", *LLAMA3, DEMO), 0.85),
    _smoothquant(("llama2_70b",), 0.9),
    *_flatquant("flatquant", (*LLAMA2, *LLAMA3, DEMO), ("w4a4kv4", "w4a16")),
    *_flatquant("flatquant", ("llama3_8b", DEMO), ("w3a16", "w3a3kv3", *_MIXED_CACHE_BITS)),
    *_flatquant("flatquant", ("llama2_7b", "llama2_13b", "llama3_8b", DEMO), _CACHE_BITS),
    *_flatquant("flatquant+gptq", (*LLAMA2, *LLAMA3, DEMO), ("w4a4kv4",)),
    *_flatquant("flatquant+gptq", ("llama3_8b", DEMO), ("w4a16", "w3a16")),
    Entry(
        "flatquant",
        ("qwen2_5_7b",),
        ("w4a4kv4",),
        {**_FLATQUANT, "method.parametrization": "direct"},
        _FLATQUANT_SOURCE,
        ("published for Qwen2.5-7B-Instruct",),
    ),
)
