"""Writes docs/architectures.md from the models' tables.

Run ``python docs/make_architectures.py`` after a change of them; a test compares the two.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quantexp.models.architectures import Architecture, Site
from quantexp.models.detect import architecture_of

TARGET = Path(__file__).with_name("architectures.md")
_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "ffn_dim": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "num_local_experts": 4, "num_experts": 4,
    "moe_intermediate_size": 48,
}  # fmt: skip
# row → what decides its table
MODELS: dict[str, dict[str, Any]] = {
    "Llama 1-3 (`llama`)": {"model_type": "llama"},
    "Mistral (`mistral`)": {"model_type": "mistral"},
    "Qwen2, Qwen2.5 (`qwen2`)": {"model_type": "qwen2"},
    "Qwen3 (`qwen3`)": {"model_type": "qwen3"},
    "Gemma 2 (`gemma2`)": {"model_type": "gemma2"},
    "Gemma 3, text (`gemma3_text`)": {"model_type": "gemma3_text"},
    "Phi-3 (`phi3`)": {"model_type": "phi3"},
    "Phi-4-mini (`phi3`, partial RoPE)": {"model_type": "phi3", "partial_rotary_factor": 0.75},
    "OPT (`opt`)": {"model_type": "opt"},
    "OPT with another activation": {"model_type": "opt", "activation_function": "gelu"},
    "OPT-350m (norms behind)": {"model_type": "opt", "do_layer_norm_before": False},
    "Falcon-7B (`falcon`, one norm)": {"model_type": "falcon"},
    "Falcon-40B (two norms)": {"model_type": "falcon", "new_decoder_architecture": True},
    "Falcon-RW (not parallel)": {
        "model_type": "falcon", "multi_query": False, "parallel_attn": False, "alibi": True,
    },
    "Mixtral (`mixtral`)": {"model_type": "mixtral"},
    "Qwen3-MoE (`qwen3_moe`)": {"model_type": "qwen3_moe"},
}  # fmt: skip
_SITES = ("attention_input", "attention_output", "mlp_input", "mlp_output")
_HEAD = """\
# Architectures

Made by `docs/make_architectures.py` from `quantexp/models/tables.py`; not edited by hand.

Weights of all linears of a block are quantized in every model below, with `rounding=rtn` or
`gptq`, and so are their inputs, keys, values and queries. What surrounds the blocks (embeddings
and their scales, learned positions, projections, rotary embeddings, masks and sliding windows,
logit softcaps, heads tied or not) is run by the model's own code and needs no table. Fused
projections (Phi-3, Falcon) and experts are quantized by their parts.

**Any other decoder** is used if its blocks hold exactly what Llama's hold (biases, norms of queries
and keys and Gemma's two more norms allowed) under Llama's names; the job prints it and the
calibration's report names it. Other tensors, or a norm that does more with its weight than
multiply, are refused by name. Not supported: models with images (their text models are), blocks
that differ from one another.

## Where scales are absorbed

A scale at a site goes into the norm or the rows named. Online transforms need no such place.
"""
_METHODS = """
## What the methods do

*Refused* is refused before any work, with the reason; what is left out of a method is printed and
stands in the calibration's report.
"""
_EXPERTS = """
## Mixtures of experts

Each expert is rounded by itself; the router keeps its precision. The report of a block has the
calibration tokens of each expert. One that no token reached has no Hessian:
`gptq.unseen_experts=rtn` rounds it to nearest and says so, `error` stops.

What all experts read is one site: its statistics are of all tokens, scales and transforms are those
of all gate and up projections together, and the router's weight undoes them. AWQ judges them by
the output of the whole mixture and clips by all tokens, wherever they are sent. What an expert's
down projection reads has neither scale nor transform, and AWQ does not clip that weight.

## Perplexity of Gemma

Gemma expects a BOS at the start of every window. The papers' protocol has one, at the start of the
text, so that Gemma's perplexities are high by it, the unquantized model's as well: judge it by
`evaluation=zeroshot`, whose contexts each begin with the tokenizer's BOS.
"""


def architectures() -> str:
    """The text of docs/architectures.md."""
    found = {name: architecture_of(_SIZES | config, ()) for name, config in MODELS.items()}
    columns = ("model", *(f"`{site}`" for site in _SITES), "q and k")
    places = [
        (name, *(_place(a, site) for site in _SITES), _queries(a)) for name, a in found.items()
    ]
    methods = [(name, *_methods(a)) for name, a in found.items()]
    names = ("model", "smoothquant", "awq", "flatquant", "omniquant")
    reasons = {a.refused: name for name, a in found.items() if a.refused}
    return "\n".join(
        (
            _HEAD,
            _table(columns, places),
            _METHODS,
            _table(names, methods),
            "",
            *(f"{name}: {text}." for text, name in reasons.items()),
            _EXPERTS,
        )
    )


def _place(a: Architecture, name: str) -> str:
    if a.refused:
        return "none"
    if name in a.unscaled and not a.has(name):
        return f"none: {a.unscaled[name]}"
    if not a.has(name):
        return "as attention_input"
    site: Site = a.site(name)
    if site.unscaled:
        return f"none: {site.unscaled}"
    place = f"`{site.norm or site.previous}`"
    return f"{place}, positive only" if site.positive else place


def _queries(a: Architecture) -> str:
    if a.query_key_norm:
        return "normed: no scale"
    return "partial RoPE: no tied scale" if a.partial_rope else "rows"


def _methods(a: Architecture) -> tuple[str, ...]:
    if a.refused:
        return ("refused",) * 4
    lacking = ", ".join(f"`{name}`" for name in a.unscaled)
    positive = [s.name for s in a.sites if s.positive]
    learned = ", ".join(f"`{name}`" for name in (*a.unscaled, *positive))
    scales = a.query_key_norm or a.partial_rope
    return (
        "yes",
        f"no scale at {lacking}" if lacking else "yes",
        f"no scale at {learned}" if learned else "yes",
        "`letqk=off` where k or q are quantized, else refused" if scales else "yes",
    )


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Writes the file."""
    TARGET.write_text(architectures())


if __name__ == "__main__":
    main()
