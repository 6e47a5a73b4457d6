"""The models that are known, each a short table; nothing here imports torch.

Names are those of transformers' modules. A table is a function of config.json, since some sizes
and switches decide which rows of a fused projection are which, and where the norms stand.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quantexp.errors import ConfigError
from quantexp.models.architectures import (
    LLAMA,
    Architecture,
    Experts,
    Fused,
    Ranges,
    Shape,
    Site,
    gated,
)

Config = Mapping[str, Any]

_Q, _K, _V = LLAMA.query, LLAMA.key, LLAMA.value
GEMMA = gated(mlp_norm="pre_feedforward_layernorm", norm_offset=1.0)


def _llama(config: Config, shape: Shape) -> Architecture:
    return replace(LLAMA, partial_rope=partial_rope(config))


def _qwen3(config: Config, shape: Shape) -> Architecture:
    return replace(LLAMA, query_key_norm=True)


def _gemma2(config: Config, shape: Shape) -> Architecture:
    return GEMMA


def _gemma3(config: Config, shape: Shape) -> Architecture:
    return replace(GEMMA, query_key_norm=True)


def _phi3(config: Config, shape: Shape) -> Architecture:
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv = Fused("self_attn.qkv_proj", _runs(q=q, k=kv, v=kv))
    gate_up = Fused("mlp.gate_up_proj", _runs(gate=shape.intermediate, up=shape.intermediate))
    return gated(
        *qkv.linears,
        *gate_up.linears,
        fused=(qkv, gate_up),
        partial_rope=partial_rope(config),
    )


def _opt(config: Config, shape: Shape) -> Architecture:
    o = "self_attn.out_proj"
    norms: tuple[str | None, str | None] = ("self_attn_layer_norm", "final_layer_norm")
    refused = ""
    if not config.get("do_layer_norm_before", True):
        norms = (None, None)
        refused = (
            "its norms stand behind attention and MLP (do_layer_norm_before=false) and feed the "
            "residual stream too, so nothing can be absorbed into them"
        )
    elif not config.get("layer_norm_elementwise_affine", True):
        refused = (
            "its norms have no weights (layer_norm_elementwise_affine=false) to absorb a scale"
        )
    activation = config.get("activation_function", "relu")
    relu = activation == "relu"
    return Architecture(
        layers="model.decoder.layers",
        attention="self_attn",
        query=_Q,
        key=_K,
        value=_V,
        sites=(
            Site("attention_input", (_Q, _K, _V), norm=norms[0], inspected="self_attn"),
            Site("attention_output", (o,), previous=_V),
            Site("mlp_input", ("fc1",), norm=norms[1]),
            Site(
                "mlp_output", ("fc2",), previous="fc1" if relu else None, positive=relu,
                unscaled="" if relu else _bent(activation),
            ),
        ),
        sequential=((_Q, _K, _V), (o,), ("fc1",), ("fc2",)),
        refused=refused,
    )  # fmt: skip


def _falcon(config: Config, shape: Shape) -> Architecture:
    fused = Fused("self_attention.query_key_value", _falcon_rows(config, shape))
    q, k, v = fused.linears
    o, up, down = "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
    attention_norm, mlp_norm = "input_layernorm", "post_attention_layernorm"
    grouped = config.get("new_decoder_architecture", False)
    parallel = config.get("parallel_attn", True)
    if parallel and grouped and config.get("num_ln_in_parallel_attn") in (None, 2):
        attention_norm, mlp_norm = "ln_attn", "ln_mlp"
    elif parallel:
        mlp_norm = attention_norm
    if mlp_norm == attention_norm:  # one norm, one site: what all four read has one transform
        inputs = (Site("attention_input", (q, k, v, up), norm=attention_norm, inspected=""),)
        mlp_input: tuple[Site, ...] = ()
    else:
        inputs = (
            Site("attention_input", (q, k, v), norm=attention_norm, inspected="self_attention"),
        )
        mlp_input = (Site("mlp_input", (up,), norm=mlp_norm),)
    return Architecture(
        layers="transformer.h",
        attention="self_attention",
        query=q,
        key=k,
        value=v,
        sites=(
            *inputs,
            Site("attention_output", (o,), previous=v),
            *mlp_input,
            Site("mlp_output", (down,), unscaled=_bent(config.get("activation", "gelu"))),
        ),
        sequential=((q, k, v), (o,), (up,), (down,)),
        fused=(fused,),
        interface=False,
        returns_tuple=True,
    )


def _falcon_rows(config: Config, shape: Shape) -> tuple[tuple[str, Ranges], ...]:
    """Rows of q, k and v: in each group of heads, its queries, its key, its value."""
    group, D = shape.heads // shape.kv_heads, shape.head_dim
    size = (group + 2) * D
    starts = [i * size for i in range(shape.kv_heads)]
    return (
        ("q", tuple((s, s + group * D) for s in starts)),
        ("k", tuple((s + group * D, s + (group + 1) * D) for s in starts)),
        ("v", tuple((s + (group + 1) * D, s + size) for s in starts)),
    )


def _mixtral(config: Config, shape: Shape) -> Architecture:
    return _mixture(Experts("mlp.experts", shape.experts, "block_sparse_moe", ("w1", "w3", "w2")))


def _qwen3_moe(config: Config, shape: Shape) -> Architecture:
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ConfigError(
            "model_type 'qwen3_moe' with mlp_only_layers or decoder_sparse_step: blocks with and "
            "without experts in one model are not supported; allowed are mlp_only_layers=[] and "
            "decoder_sparse_step=1"
        )
    names = ("gate_proj", "up_proj", "down_proj")
    found = _mixture(Experts("mlp.experts", shape.experts, "mlp", names))
    return replace(found, query_key_norm=True)


def _mixture(experts: Experts) -> Architecture:
    read = experts.linears("gate", "up")
    mixture = Site(
        "mlp_input", read, norm="post_attention_layernorm", inspected=experts.parent,
        followers=(f"{experts.parent}.gate",),
    )  # fmt: skip
    return replace(
        LLAMA,
        sites=(*LLAMA.sites[:2], mixture),
        sequential=(*LLAMA.sequential[:2], read, experts.linears("down")),
        experts=experts,
    )


def _runs(**sizes: int) -> tuple[tuple[str, Ranges], ...]:
    """Parts that follow one another."""
    found, start = [], 0
    for name, size in sizes.items():
        found.append((name, ((start, start + size),)))
        start += size
    return tuple(found)


def _bent(activation: str) -> str:
    return f"{activation} stands before it, and no scale passes that unchanged"


def partial_rope(config: Config) -> bool:
    """Whether config.json says that RoPE turns a part of each head only."""
    factors = (config, config.get("rope_parameters") or {}, config.get("rope_scaling") or {})
    return any(f.get("partial_rotary_factor") not in (None, 1) for f in factors)


def _shape(config: Config) -> Shape:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    return Shape(
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        blocks=int(config["num_hidden_layers"]),
    )


def _opt_shape(config: Config) -> Shape:
    sizes = {"intermediate_size": config["ffn_dim"], "num_key_value_heads": None, "head_dim": None}
    return replace(_shape({**config, **sizes}), gated=False)


def _falcon_shape(config: Config) -> Shape:
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    kv_heads = heads
    if config.get("new_decoder_architecture", False):
        kv_heads = config.get("num_kv_heads") or heads
    elif config.get("multi_query", True):
        kv_heads = 1
    inner = config.get("ffn_hidden_size") or 4 * hidden
    sizes = {"intermediate_size": inner, "num_key_value_heads": kv_heads, "head_dim": None}
    return replace(_shape({**config, **sizes}), gated=False)


def _mixtral_shape(config: Config) -> Shape:
    return replace(_shape(config), experts=int(config["num_local_experts"]))


def _qwen3_moe_shape(config: Config) -> Shape:
    shape = _shape({**config, "intermediate_size": config["moe_intermediate_size"]})
    return replace(shape, experts=int(config.get("num_experts") or config["num_local_experts"]))


@dataclass(frozen=True)
class Family:
    """A ``model_type``.

    Attributes:
        table: config.json and sizes → architecture.
        shape: config.json → sizes.
        defaults: What transformers takes for keys that config.json lacks.
    """

    table: Callable[[Config, Shape], Architecture]
    shape: Callable[[Config], Shape] = _shape
    defaults: Config = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "llama": Family(_llama),
    "mistral": Family(_llama),
    "qwen2": Family(_llama),
    "qwen3": Family(_qwen3, defaults={"head_dim": 128}),
    "gemma2": Family(_gemma2, defaults={"head_dim": 256}),
    "gemma3_text": Family(_gemma3, defaults={"head_dim": 256}),
    "phi3": Family(_phi3),
    "opt": Family(_opt, _opt_shape),
    "falcon": Family(_falcon, _falcon_shape),
    "mixtral": Family(_mixtral, _mixtral_shape),
    "qwen3_moe": Family(_qwen3_moe, _qwen3_moe_shape),
}


def shape_of(config: Config) -> Shape:
    """Sizes of a model.

    Args:
        config: Its config.json.
    """
    family = FAMILIES.get(config["model_type"])
    return _shape(config) if family is None else family.shape({**family.defaults, **config})
