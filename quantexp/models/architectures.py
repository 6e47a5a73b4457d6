"""Architectures as data: which norm feeds which linears, which linear feeds which.

Methods ask for sites by the names of ``docs/architecture.md``, never for attribute names:

=================  ====================================================  ==================
site               tensor                                                diag absorbed into
=================  ====================================================  ==================
attention_input    input of q, k, v (S1)                                 input norm
attention_output   input of o (S2)                                       rows of v
mlp_input          input of gate, up (S4)                                post-attention norm
mlp_output         input of down (S5)                                    rows of up
=================  ====================================================  ==================

Keys and queries after RoPE (S3) belong to the attention module itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A place in a decoder block where an equivalent transform may sit.

    Attributes:
        name: One of the names above.
        linears: Paths, within the block, of the linears that read the tensor.
        norm: Path of the norm that makes the tensor, or ``None``.
        previous: Path of the linear whose output rows scale the tensor, or ``None``.
    """

    name: str
    linears: tuple[str, ...]
    norm: str | None = None
    previous: str | None = None


@dataclass(frozen=True)
class Architecture:
    """Paths of a decoder-only model; block paths are relative to one block.

    Attributes:
        layers: Path of the list of blocks in the model.
        attention: Path of the attention module in a block.
        query: Path of its query projection (likewise ``key``, ``value``).
        sites: The sites of a block, in the order in which they are computed.
        sequential: Linears in the order in which GPTQ rounds them (true sequential).
    """

    layers: str
    embedding: str
    rotary: str
    final_norm: str
    attention: str
    query: str
    key: str
    value: str
    sites: tuple[Site, ...]
    sequential: tuple[tuple[str, ...], ...]

    def site(self, name: str) -> Site:
        """The site of a name."""
        return next(s for s in self.sites if s.name == name)

    @property
    def linears(self) -> tuple[str, ...]:
        """All quantized linears of a block, in order."""
        return tuple(path for group in self.sequential for path in group)


_Q, _K, _V, _O = (f"self_attn.{n}_proj" for n in "qkvo")
_GATE, _UP, _DOWN = (f"mlp.{n}_proj" for n in ("gate", "up", "down"))

LLAMA = Architecture(
    layers="model.layers",
    embedding="model.embed_tokens",
    rotary="model.rotary_emb",
    final_norm="model.norm",
    attention="self_attn",
    query=_Q,
    key=_K,
    value=_V,
    sites=(
        Site("attention_input", (_Q, _K, _V), norm="input_layernorm"),
        Site("attention_output", (_O,), previous=_V),
        Site("mlp_input", (_GATE, _UP), norm="post_attention_layernorm"),
        Site("mlp_output", (_DOWN,), previous=_UP),
    ),
    sequential=((_Q, _K, _V), (_O,), (_GATE, _UP), (_DOWN,)),
)

# Mistral and Qwen2 have Llama's names; sliding windows and biases need nothing more here.
ARCHITECTURES: dict[str, Architecture] = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA}
