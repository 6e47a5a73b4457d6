"""Baselines as papers ran them for their own tables (``protocol.paper=NAME``), with sources.

A paper rarely states all of another method's settings. What it states is here; the rest is that
method's own, and said under ``deviations``.
"""

from typing import Any

from quantexp.protocols.entry import DEMO, LLAMA2, LLAMA3, Entry, data, forward, gptq, weight

_WEIGHT_ONLY = ("w2a16", "w2a16g128", "w2a16g64", "w3a16", "w3a16g128", "w4a16", "w4a16g128")
_C4 = data("c4", "c4", 128, 2048)
_WIKITEXT = data("wikitext2", "wikitext2", 128, 2048)


def _omniquant(scheme: str) -> dict[str, Any]:
    return {
        **weight(scheme),
        **forward("activation", scheme, "per_token"),
        **forward("key", scheme, "per_head"),
        **forward("value", scheme, "per_head"),
        **forward("query", scheme, "per_head"),
    }


def _smoothquant(models: tuple[str, ...], *more: str) -> Entry:
    return Entry(
        "smoothquant",
        models,
        ("w4a4kv4q4", "w6a6kv6q6"),
        {
            **_omniquant("asymmetric_free"),
            **_WIKITEXT,
            "method.alpha": 0.5,
            "method.alpha_grid": (),
        },
        "arXiv 2308.13137 (SmoothQuant run again: weights per channel, activations per token, "
        "queries, keys and values too), quantizers of OpenGVLab/OmniQuant (quantize/quantizer.py, "
        "models/int_llama_layer.py); FlatQuant's Table 1 prints the same numbers",
        ("alpha is not stated: SmoothQuant's default, 0.5", *more),
    )


TABLE: tuple[Entry, ...] = (
    # the bits say whose runs these are: OmniQuant's quantize queries, like all that copy them
    _smoothquant((*LLAMA2, DEMO)),
    _smoothquant(LLAMA3, "LLaMA-3 is in FlatQuant's Table 1 only, without its settings"),
    Entry(
        "rtn",
        (*LLAMA2, DEMO),
        _WEIGHT_ONLY,
        weight("asymmetric_free"),
        "arXiv 2308.13137, Table 1: the quantizer of OpenGVLab/OmniQuant without learning",
        paper="omniquant",
    ),
    Entry(
        "gptq",
        (*LLAMA2, DEMO),
        _WEIGHT_ONLY,
        {**weight("asymmetric"), **gptq(act_order=True), **_C4},
        "arXiv 2308.13137, Table 1: IST-DASLab/gptq (README: --true-sequential --act-order)",
        ("calibration text and order of columns are not stated: GPTQ's own",),
        paper="omniquant",
    ),
    Entry(
        "rtn",
        (*LLAMA2, DEMO),
        ("w3a16g128", "w4a16g128"),
        weight("asymmetric_clamped"),
        "arXiv 2306.00978, Table 4: the quantizer of mit-han-lab/llm-awq (awq/quantize)",
        paper="awq",
    ),
    Entry(
        "gptq",
        (*LLAMA2, DEMO),
        ("w3a16g128", "w4a16g128"),
        {**weight("asymmetric"), **gptq(act_order=False), **_C4},
        "arXiv 2306.00978, Table 4: IST-DASLab/gptq without (GPTQ) and with (GPTQ-R) --act-order",
        ("calibration text is not stated: GPTQ's own",),
        paper="awq",
        varied={"gptq.act_order": (False, True)},
    ),
    Entry(
        "rtn",
        (*LLAMA2, DEMO),
        ("w4a16", "w3a16", "w2a16"),
        weight("asymmetric"),
        "arXiv 2404.00456, Table 7; spcl/QuaRot (fake_quant/quant_utils.py)",
        paper="quarot",
    ),
    Entry(
        "gptq",
        (*LLAMA2, DEMO),
        ("w4a16", "w3a16", "w2a16"),
        {**weight("asymmetric"), **gptq(act_order=False), **_WIKITEXT},
        "arXiv 2404.00456, Table 7; spcl/QuaRot (fake_quant/gptq_utils.py, defaults of main.py)",
        ("whether the baseline's weights were clipped is not stated: they are not",),
        paper="quarot",
    ),
)

PAPERS = tuple(dict.fromkeys(entry.paper for entry in TABLE if entry.paper is not None))
