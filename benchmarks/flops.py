"""Floating-point operations that a method needs for one block, counted from shapes.

Matrix products alone, two operations per multiplication and addition; attention as causal: half of
its square. What an implementation does twice, or in vain, is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

from quantexp.quantization.sizes import kronecker_sizes


class Shape(NamedTuple):
    """Widths of a Llama block, in channels, and its numbers of heads."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads

    @property
    def attention_weights(self) -> int:
        """Elements of q, k, v."""
        return self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)

    @property
    def weights(self) -> int:
        """Elements of all linears."""
        return self.attention_weights + self.hidden**2 + 3 * self.hidden * self.intermediate


def forward(shape: Shape, windows: int, length: int) -> float:
    """One pass of all windows."""
    return 2 * shape.weights * windows * length + _attention(shape, windows, length)


def _attention(shape: Shape, windows: int, length: int) -> float:
    return 2 * shape.hidden * length * windows * length


def gptq(shape: Shape, windows: int, length: int) -> float:
    """Two passes; per distinct input a Hessian (one triangle) and its factors; the updates."""
    C, inner = shape.hidden, shape.intermediate
    inputs = (C, C, C, inner)
    hessians = sum(windows * length * c**2 for c in inputs)
    factors = sum(4 / 3 * c**3 for c in inputs)  # Cholesky, inverse, Cholesky
    updates = C * (shape.weights - C * inner) + inner * C * inner  # rows × columns² each
    return 2 * forward(shape, windows, length) + hessians + factors + updates


def awq(shape: Shape, windows: int, length: int, grid: int) -> float:
    """One pass, and of each candidate one of the module that it is judged by.

    That is all of attention, all of the MLP, and down; o has no candidates under grouped queries.
    """
    tokens = windows * length
    attention: float = 2 * tokens * (shape.attention_weights + shape.hidden**2)
    attention += _attention(shape, windows, length)
    down = 2 * tokens * shape.hidden * shape.intermediate
    if shape.heads == shape.kv_heads:
        attention += 2 * tokens * shape.hidden**2
    return 2 * forward(shape, windows, length) + grid * (attention + 4 * down)


def learned(shape: Shape, windows: int, length: int, epochs: int) -> float:
    """Each epoch a pass forward and two backward: to inputs, and to weights that are derived."""
    return (2 + 3 * epochs) * forward(shape, windows, length)


def flatquant(shape: Shape, windows: int, length: int, epochs: int, batch: int) -> float:
    """The same, with Kronecker products on the inputs, on keys and values, and on all weights."""
    tokens = windows * length
    at_hidden, at_inner = (sum(kronecker_sizes(n)) for n in (shape.hidden, shape.intermediate))
    heads = shape.heads + shape.head_dim  # P_o ⊗ P_v at the input of o
    per_token = shape.hidden * (2 * at_hidden + shape.heads) + shape.intermediate * at_inner
    per_token += (shape.heads + shape.kv_heads) * shape.head_dim**2  # P_h on queries and keys
    down = shape.hidden * shape.intermediate
    per_weight = (shape.weights - down - shape.hidden**2) * at_hidden
    per_weight += down * at_inner + shape.hidden**2 * heads
    per_weight += shape.hidden * shape.kv_heads * shape.head_dim**2  # P_v on the rows of v
    steps = -(-windows // batch) * epochs
    own = 6 * (tokens * epochs * per_token + steps * per_weight)  # forward and both backward
    return learned(shape, windows, length, epochs) + own
