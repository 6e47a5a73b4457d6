"""The papers' own settings, one entry per method, models and bits, each with its source.

Only what a paper or its official code states is here; where this package cannot do the same, the
entry says so under ``deviations``. Seeds are no setting: they stay an axis of their own. How papers
ran the methods of others for their tables is in :mod:`quantexp.protocols.baselines`.
"""

from typing import Any

from quantexp.protocols import baselines
from quantexp.protocols.entry import DEMO, LLAMA2, LLAMA3, Entry
from quantexp.protocols.entry import data as _data
from quantexp.protocols.entry import forward as _forward
from quantexp.protocols.entry import gptq as _gptq
from quantexp.protocols.entry import weight as _weight

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
    "method.clipping_position": "after",
    "method.init": "random",
    "method.scale_init": "smoothquant",
    "method.value_transform": "merged",
    "method.precision": "fp32",
    "method.zero_point_gradient": False,
}
_FLATQUANT_SOURCE = (
    "arXiv 2410.09426 and ruikangliu/FlatQuant (main.py, flatquant/train_utils.py, scripts/)"
)
# Tables 3 and 16 (what is learned), 4 (recipe), 17 (calibration text), 18 (clips): LLaMA-3-8B at
# W4A4KV4. Kronecker sizes (figure 5) are not named above: they are the user's.
_FLATQUANT_VARIED = {
    "method.transform": (True, False),
    "method.per_channel_scaling": (True, False),
    "method.clipping": (True, False),
    "method.parametrization": ("svd", "direct"),
    "method.precision": ("fp32", "fp16"),
    "method.clipping_position": ("after", "before"),
    "bits.activation.clip_ratio": (1.0, 0.9),
    "bits.key.clip_ratio": (1.0, 0.95),
    "bits.value.clip_ratio": (1.0, 0.95),
    "data.name": ("wikitext2", "c4", "pile"),
    "data.corpus": ("wikitext2_flatquant", "c4", "pile"),
}
_AMP = "fitted in float32 unless method.precision=fp16 is given (official: float16 autocast)"
_CACHE_BITS = ("kv4", "kv3", "kv2")
_MIXED_CACHE_BITS = ("k4v3", "k4v2", "k3v4", "k3v2", "k2v4", "k2v3")


def _flatquant(label: str, models: tuple[str, ...], bits: tuple[str, ...]) -> tuple[Entry, ...]:
    settings = {**_FLATQUANT, **(_gptq(act_order=False) if label.endswith("gptq") else {})}
    large = "llama3_70b"
    common = tuple(name for name in models if name != large)
    found = [Entry(label, common, bits, settings, _FLATQUANT_SOURCE, (_AMP,))]
    if large in models:  # --separate_vtrans
        online = {**settings, "method.value_transform": "online"}
        found.append(Entry(label, (large,), bits, online, _FLATQUANT_SOURCE, (_AMP,)))
    return tuple(found)


# --- SmoothQuant (2211.10438) -------------------------------------------------------------------


def _smoothquant(models: tuple[str, ...], alpha: float) -> tuple[Entry, ...]:
    settings = {
        **_weight("symmetric"),
        **_ACTIVATION,
        **_data("pile", "pile_smoothquant", 512, 512),
        "method.alpha": alpha,
        "method.alpha_grid": (),
    }
    # q, k and v as they leave their linears (quantize_bmm_input): whole tokens
    outputs = {
        **_forward("key", "symmetric", "per_token_before_rope"),
        **_forward("value", "symmetric", "per_token"),
        **_forward("query", "symmetric", "per_token_before_rope"),
    }
    source = "mit-han-lab/smoothquant (README, examples/ppl_eval.sh, smoothquant/calibration.py)"
    short = "documents shorter than 512 tokens are passed over (official: taken as they are)"
    linears = "outputs of q, k and v stay at 16 bits (official LLaMA runs: bits=w8a8kv8q8)"
    # the demo model stands for any of them
    varied = {"method.alpha": (0.85, 0.9)} if DEMO in models else {}
    return (
        Entry("smoothquant", models, ("w8a8",), settings, source, (linears, short)),
        Entry(
            "smoothquant",
            models,
            ("w8a8kv8q8",),
            {**settings, **outputs},
            source,
            (short,),
            varied=varied,
        ),
    )


# --- AWQ (2306.00978) ---------------------------------------------------------------------------

_AWQ = Entry(
    "awq",
    (*LLAMA2, *LLAMA3, DEMO),
    tuple(f"w{bits}a16{group}" for bits in (4, 3, 2) for group in ("", "g128", "g64", "g32")),
    {
        **_weight("asymmetric_clamped"),
        **_data("pile", "pile_smoothquant", 128, 512),
        "method.scaling": True,
        "method.clipping": True,
        "method.grid": 20,
        "method.gqa": "skip",
    },
    "mit-han-lab/llm-awq (awq/entry.py, awq/quantize/, scripts/), with any --q_group_size",
    (
        "the first 512 tokens of 128 documents that have them (official: 128 documents of at most "
        "512 tokens each, joined and cut into windows of 512, about half as many tokens)",
    ),
    varied={"method.scaling": (True, False), "method.clipping": (True, False)},
)


# --- OmniQuant (2308.13137) ---------------------------------------------------------------------

_OMNIQUANT_SOURCE = "OpenGVLab/OmniQuant (main.py, quantize/omniquant.py, scripts/Llama-2/)"


def _omniquant(
    models: tuple[str, ...],
    bits: tuple[str, ...],
    deviations: tuple[str, ...] = (),
    **options: Any,
) -> Entry:
    free = "asymmetric_free"
    settings = {
        **_weight(free),
        **_forward("activation", free, "per_token"),
        **_forward("key", free, "per_head"),
        **_forward("value", free, "per_head"),
        **_forward("query", free, "per_head"),
        **_data("wikitext2", "wikitext2", 128, 2048),
        "method.epochs": 20,
        "method.batch_size": 1,
        "method.lwc": True,
        "method.lwc_lr": 1e-2,
        "method.let": "off",
        "method.let_lr": 5e-3,
        "method.letqk": "tied",  # nothing is learned there without LET
        "method.letvo": True,
        "method.shift": False,
        "method.init": "smoothquant",
        "method.alpha": 0.5,
        "method.aug_loss": False,
        "method.zero_point_gradient": False,
        **{f"method.{name}": value for name, value in options.items()},
    }
    fitted = "fitted in float32 (official: float16 autocast, and weights in float16 when merged)"
    return Entry("omniquant", models, bits, settings, _OMNIQUANT_SOURCE, (fitted, *deviations))


def _omniquant_weights(models: tuple[str, ...], groups: tuple[str, ...]) -> tuple[Entry, ...]:
    """Weight-only: LWC alone; 2 bits learn longer, with the second target."""
    three, four, two = (tuple(f"w{bits}a16{group}" for group in groups) for bits in (3, 4, 2))
    longer: dict[str, Any] = {"epochs": 40, "aug_loss": True}
    large = "Llama-2-70B at W2A16 without groups has no script: the smaller models' options"
    deviations = (large,) if "llama2_70b" in models else ()
    return (_omniquant(models, three + four), _omniquant(models, two, deviations, **longer))


def _omniquant_activations(models: tuple[str, ...]) -> tuple[Entry, ...]:
    """Their W6A6 and W4A4, which quantize queries, keys and values too."""
    let: dict[str, Any] = {"let": "on", "letqk": "untied"}
    large: tuple[str, ...] = ("w6a6kv6q6",)
    deviations: tuple[str, ...] = ()
    if DEMO in models:
        # the official code's scales at v, o, q and k do not run with grouped keys and values
        let |= {"letqk": "off", "letvo": False}
        large = ("w8a8kv8q8", *large)
        deviations = ("scales at the norms alone, as the official code must under GQA",)
    return (
        _omniquant(models, large, deviations, **let),
        _omniquant(models, ("w4a4kv4q4",), deviations, **let, let_lr=1e-3, alpha=0.75),
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
    *_smoothquant(("llama2_7b", "llama2_13b", *LLAMA3), 0.85),
    *_smoothquant((DEMO,), 0.85),
    *_smoothquant(("llama2_70b",), 0.9),
    Entry(
        "flatquant",
        ("llama3_8b", DEMO),
        ("w4a4kv4",),
        _FLATQUANT,
        f"{_FLATQUANT_SOURCE}, Tables 1, 3, 4, 16 and 17",
        (_AMP,),
        varied=_FLATQUANT_VARIED,
    ),
    *_flatquant("flatquant", (*LLAMA2, "llama3_70b", "llama3_1_8b_instruct"), ("w4a4kv4",)),
    *_flatquant("flatquant", (*LLAMA2, *LLAMA3, DEMO), ("w4a16",)),
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
    Entry(
        "flatquant",
        ("qwen2_5_7b_instruct", "qwen2_5_32b_instruct"),
        ("w4a4kv4",),
        {**_FLATQUANT, "method.parametrization": "direct"},
        f"{_FLATQUANT_SOURCE}, Table 8",
    ),
    _AWQ,
    *_omniquant_weights(LLAMA2, ("", "g128", "g64")),
    *_omniquant_weights((DEMO,), ("", "g128", "g64", "g32")),
    *_omniquant_activations(("llama2_7b", "llama2_13b")),
    *_omniquant_activations((DEMO,)),
    *baselines.TABLE,
)
