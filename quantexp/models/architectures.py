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

Keys and queries after RoPE (S3) belong to the attention module itself. The models' own tables are
in :mod:`quantexp.models.tables`.
"""

from dataclasses import dataclass
from typing import Any

from quantexp.errors import ConfigError

Ranges = tuple[tuple[int, int], ...]  # of rows: first, behind the last


@dataclass(frozen=True)
class Site:
    """A place in a decoder block where an equivalent transform may sit.

    Attributes:
        name: One of the names above.
        linears: Paths, within the block, of the linears that read the tensor.
        norm: Path of the norm that makes the tensor, or ``None``.
        previous: Path of the linear whose output rows scale the tensor, or ``None``.
        positive: Only positive factors pass what stands behind ``previous`` (ReLU).
        unscaled: Why no scale can be absorbed before the site; empty where one can.
        inspected: Module whose output shows what the site's linears do together (AWQ); ``None``:
            the first linear itself.
        followers: Paths of layers that read the tensor as well and are not quantized (the router
            of a mixture): their weights undo the transform.
    """

    name: str
    linears: tuple[str, ...]
    norm: str | None = None
    previous: str | None = None
    positive: bool = False
    unscaled: str = ""
    inspected: str | None = None
    followers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fused:
    """A linear that holds several projections; each part becomes a linear ``<path>.<part>``.

    Attributes:
        path: Path of the linear within the block.
        parts: Name of each part with its rows, which need not lie together.
    """

    path: str
    parts: tuple[tuple[str, Ranges], ...]

    @property
    def linears(self) -> tuple[str, ...]:
        """Paths of the parts."""
        return tuple(f"{self.path}.{name}" for name, _ in self.parts)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts, whose weights transformers keep as 3-D parameters.

    Each expert becomes linears ``<path>.<index>.gate``, ``.up`` and ``.down``.

    Attributes:
        path: Path of the module with ``gate_up_proj`` (E, 2I, C) and ``down_proj`` (E, C, I).
        count: Number of experts.
        stored: What the module before ``path`` is called in the checkpoint.
        names: What gate, up and down are called in the checkpoint.
    """

    path: str
    count: int
    stored: str
    names: tuple[str, str, str]

    @property
    def parent(self) -> str:
        """Path of the module that holds the experts and their router."""
        return self.path.rpartition(".")[0]

    def stored_parts(self, name: str) -> tuple[tuple[str, ...], ...]:
        """For each expert the stored matrices whose rows make its part of a 3-D parameter.

        Args:
            name: The parameter's name in the model; empty for any other.
        """
        prefix, _, leaf = name.rpartition(".")
        gate, up, down = self.names
        rows = {"gate_up_proj": (gate, up), "down_proj": (down,)}.get(leaf, ())
        if not rows or not prefix.endswith(f".{self.path}"):
            return ()
        folder = f"{prefix.removesuffix(self.path)}{self.stored}.experts"
        return tuple(tuple(f"{folder}.{i}.{row}.weight" for row in rows) for i in range(self.count))

    def linears(self, *parts: str) -> tuple[str, ...]:
        """Paths of these parts of all experts."""
        return tuple(f"{self.path}.{i}.{part}" for i in range(self.count) for part in parts)


@dataclass(frozen=True)
class Architecture:
    """Paths of a decoder-only model; block paths are relative to one block.

    Attributes:
        layers: Path of the list of blocks in the model.
        attention: Path of the attention module in a block.
        query: Path of its query projection (likewise ``key``, ``value``).
        sites: The sites of a block, in the order in which they are computed.
        sequential: Linears in the order in which GPTQ rounds them (true sequential).
        fused: Linears that hold several projections.
        experts: The mixture of experts in the MLP's place, or ``None``.
        norm_offset: What norms add to their weight (Gemma: x·(1 + w)).
        query_key_norm: Queries and keys are normed between their projections and RoPE.
        partial_rope: RoPE turns a part of a head's channels only.
        interface: Attention goes through transformers' registered function; else what it hands
            to ``scaled_dot_product_attention`` is caught there.
        returns_tuple: A block returns a tuple, the hidden states first.
        refused: Why no transform is defined at the sites of a block; empty where they are.
    """

    layers: str
    attention: str
    query: str
    key: str
    value: str
    sites: tuple[Site, ...]
    sequential: tuple[tuple[str, ...], ...]
    fused: tuple[Fused, ...] = ()
    experts: Experts | None = None
    norm_offset: float = 0.0
    query_key_norm: bool = False
    partial_rope: bool = False
    interface: bool = True
    returns_tuple: bool = False
    refused: str = ""

    def site(self, name: str) -> Site:
        """The site of a name.

        Raises:
            ConfigError: The architecture has no such site.
        """
        for site in self.sites:
            if site.name == name:
                return site
        there = ", ".join(site.name for site in self.sites)
        raise ConfigError(f"no site '{name}' in a block of this architecture: there are {there}")

    def has(self, name: str) -> bool:
        """Whether there is a site of this name."""
        return any(site.name == name for site in self.sites)

    @property
    def linears(self) -> tuple[str, ...]:
        """All quantized linears of a block, in order."""
        return tuple(path for group in self.sequential for path in group)

    def input_of(self, path: str) -> str:
        """A name of what a linear reads, the same for all linears that read the same."""
        if self.of_expert(path):  # each expert reads the tokens that are sent to it
            owner, _, part = path.rpartition(".")
            return path if part == "down" else owner
        return next((site.name for site in self.sites if path in site.linears), path)

    def of_expert(self, path: str) -> bool:
        """Whether a linear is an expert's."""
        return self.experts is not None and path.startswith(f"{self.experts.path}.")

    def module_of(self, path: str) -> str:
        """Path of the model's own module that is given the input of the linear ``path``.

        Of experts that is the whole mixture, for what gate and up read before tokens are sent.
        """
        if self.experts is not None and self.of_expert(path):
            return self.experts.parent
        return next((fused.path for fused in self.fused if path in fused.linears), path)

    @property
    def unscaled(self) -> dict[str, str]:
        """Sites before which no scale can be absorbed, with the reason."""
        found = {site.name: site.unscaled for site in self.sites if site.unscaled}
        if self.experts is not None:
            found["mlp_output"] = "inside an expert nothing is scaled or transformed"
        return found


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, in channels or counts.

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the MLP's (of an expert's) inner activation.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Channels of one head.
        blocks: Decoder blocks.
        gated: The MLP has a gate beside up.
        experts: Experts in a block; 0 without a mixture.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    blocks: int
    gated: bool = True
    experts: int = 0

    @property
    def block_weights(self) -> int:
        """Weights of one block's quantized linears."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        mlp = (3 if self.gated else 2) * self.hidden * self.intermediate
        return attention + max(1, self.experts) * mlp


_Q, _K, _V, _O = (f"self_attn.{n}_proj" for n in "qkvo")
_GATE, _UP, _DOWN = (f"mlp.{n}_proj" for n in ("gate", "up", "down"))


def gated(
    query: str = _Q,
    key: str = _K,
    value: str = _V,
    gate: str = _GATE,
    up: str = _UP,
    mlp_norm: str = "post_attention_layernorm",
    **more: Any,
) -> Architecture:
    """Norm, attention, norm, gated MLP, with Llama's module names but for those given."""
    return Architecture(
        layers="model.layers",
        attention="self_attn",
        query=query,
        key=key,
        value=value,
        sites=(
            Site(
                "attention_input", (query, key, value), norm="input_layernorm",
                inspected="self_attn",
            ),
            Site("attention_output", (_O,), previous=value),
            Site("mlp_input", (gate, up), norm=mlp_norm, inspected="mlp"),
            Site("mlp_output", (_DOWN,), previous=up),
        ),
        sequential=((query, key, value), (_O,), (gate, up), (_DOWN,)),
        **more,
    )  # fmt: skip


LLAMA = gated()
