"""One tiny random model per architecture, built from its configuration, on disk."""

from pathlib import Path
from typing import Any

from helpers import tiny_llama

_OPT = {"ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.15}
_FALCON = {"ffn_hidden_size": 96, "bias": True, "num_kv_heads": 2}
_GEMMA = {
    "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 20.0,
}  # fmt: skip
_MOE = {"num_experts_per_tok": 2, "intermediate_size": 48}

# name → model_type, and what differs from tests/helpers.py
TRANSFORMED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 24}),
    "gemma2": ("gemma2", {**_GEMMA, "attn_logit_softcapping": 5.0, "tie_word_embeddings": True}),
    "gemma3": ("gemma3_text", {**_GEMMA, "tie_word_embeddings": True}),
    "phi3": ("phi3", {"sliding_window": 8}),
    "phi3-partial": ("phi3", {"partial_rotary_factor": 0.5}),
    "opt": ("opt", {**_OPT, "tie_word_embeddings": True}),
    "opt-projected": ("opt", {**_OPT, "word_embed_proj_dim": 32, "activation_function": "gelu"}),
    "falcon-7b": ("falcon", {**_FALCON, "multi_query": True, "parallel_attn": True}),
    "falcon-40b": ("falcon", {**_FALCON, "new_decoder_architecture": True}),
    "falcon-rw": (
        "falcon",
        {**_FALCON, "multi_query": False, "parallel_attn": False, "alibi": True,
         "num_kv_heads": 4},
    ),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0,
         "attention_multiplier": 0.2},
    ),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "mixtral": ("mixtral", {**_MOE, "num_local_experts": 4}),
    "qwen3-moe": (
        "qwen3_moe",
        {**_MOE, "num_experts": 4, "moe_intermediate_size": 48, "head_dim": 24},
    ),
}  # fmt: skip
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "opt-post-norm": ("opt", {**_OPT, "do_layer_norm_before": False}),
}


def make(name: str, path: Path, **overrides: Any) -> Path:
    """Saves the model of a name; two blocks, hidden size 64."""
    kind, settings = (TRANSFORMED | REFUSED)[name]
    sizes = {"intermediate_size": 96}
    return tiny_llama(path, kind, **sizes | settings | overrides)
