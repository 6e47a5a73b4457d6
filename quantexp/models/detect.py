"""A decoder that no table names, recognized by its tensors; nothing here imports torch.

Where a checkpoint's blocks hold exactly what Llama's hold (biases, norms of queries and keys and
Gemma's two more norms allowed), its modules are those of the Llama table. What multiplies
embeddings, residuals or logits needs no table: that code is the model's own. What a norm does
with its weight is checked when the model is loaded (:mod:`quantexp.models.load`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantexp.errors import ConfigError, DataError
from quantexp.models.architectures import Architecture, gated
from quantexp.models.header import read_header
from quantexp.models.tables import FAMILIES, partial_rope, shape_of

_LINEARS = r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_NORM = r"(input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)"
_EXTRA = r"(pre_feedforward_layernorm|post_feedforward_layernorm)"
_OLD = r"self_attn\.rotary_emb\.inv_freq"  # computed now, and not read
_ALLOWED = re.compile(rf"({_LINEARS}|{_NORM}|{_EXTRA})\.(weight|bias)|{_OLD}")
_NEEDED = (
    *(f"self_attn.{n}_proj.weight" for n in "qkvo"),
    *(f"mlp.{n}_proj.weight" for n in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
_DEFAULTS = {"stablelm": {"partial_rotary_factor": 0.25}}  # of keys that config.json may lack
_INTERLEAVED = ("helium",)  # RoPE turns channels 2i and 2i+1 together, not i and i+D/2
_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")


def architecture_of(config: Mapping[str, Any], files: Iterable[Path]) -> Architecture:
    """The table of a model's ``model_type``, or Llama's where its tensors are Llama's.

    Args:
        config: Its config.json.
        files: Its safetensors, whose headers are read for a ``model_type`` without a table.

    Raises:
        ConfigError: No table fits, or config.json lacks a key; says which.
    """
    kind = config.get("model_type")
    if kind in FAMILIES:
        family = FAMILIES[kind]
        config = {**family.defaults, **config}
        try:
            return family.table(config, shape_of(config))
        except KeyError as error:
            raise ConfigError(
                f"config.json of a model_type '{kind}' has no {error}: it is not one that "
                "transformers wrote; save the model anew with save_pretrained"
            ) from error
    reason, extra = _class_refusal(config), False
    names: list[str] = []
    if not reason:
        names = sorted({name for path in files for name in tensor_names(path)})
        reason, extra = _tensor_refusal(names)
    if reason:
        raise ConfigError(
            f"model_type '{kind}' is not supported: allowed {', '.join(FAMILIES)}, or a decoder "
            f"whose blocks are Llama's, which this one is not: {reason}"
        )
    found = gated(mlp_norm="pre_feedforward_layernorm") if extra else gated()
    defaults = _DEFAULTS.get(str(kind), {})
    return replace(
        found,
        query_key_norm=any(name.endswith("self_attn.q_norm.weight") for name in names),
        partial_rope=kind in _INTERLEAVED or partial_rope({**defaults, **config}),
    )


def _class_refusal(config: Mapping[str, Any]) -> str:
    """Why config.json is not a decoder's with Llama's keys; empty if it is."""
    kind = str(config.get("model_type"))
    classes = config.get("architectures") or [""]
    plain = re.sub(r"[^a-z0-9]", "", kind.lower())
    if not (classes[0].lower().startswith(plain) and classes[0].endswith("ForCausalLM")):
        return f"config.json names the class '{classes[0]}', not one of {kind} for a causal LM"
    lacking = [key for key in _SIZES if key not in config]
    if lacking:
        return f"config.json has no {lacking[0]}"
    return ""


def _tensor_refusal(names: list[str]) -> tuple[str, bool]:
    """Why the tensors are not Llama's (empty if they are); whether Gemma's two norms are there."""
    blocks: dict[str, set[str]] = {}
    for name in names:
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name):
            blocks.setdefault(match[1], set()).add(match[2])
    if not blocks:
        return "there is no tensor 'model.layers.0.…'", False
    for index, found in blocks.items():
        for name in _NEEDED:
            if name not in found:
                return f"block {index} has no '{name}'", False
        for name in sorted(found):
            if not _ALLOWED.fullmatch(name):
                return f"block {index} has '{name}', which Llama has not", False
    both = [sum(f"{n}_feedforward_layernorm.weight" in f for f in blocks.values()) for n in
            ("pre", "post")]  # fmt: skip
    if len({*both}) != 1 or both[0] not in (0, len(blocks)):
        return "some norms of the MLP are there and some are not", False
    return "", both[0] > 0


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors of a safetensors file, from its header.

    Raises:
        DataError: It has no readable header.
    """
    try:
        return list(read_header(path))
    except ValueError as error:
        raise DataError(f"{path} is no readable safetensors file: {error}") from error
