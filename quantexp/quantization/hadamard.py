"""Hadamard matrices: orthogonal, all entries of one size, so that an outlier is spread evenly.

Sizes are powers of two (Sylvester) times an order of Paley's two constructions; QuaRot
(arXiv 2404.00456) uses the same products with stored matrices.
"""

import math

import torch
from torch import Tensor

from quantexp.quantization.factors import Factor
from quantexp.quantization.transforms import Kronecker


class Fixed(Factor):
    """An orthogonal matrix that is not learned: P^-T = P."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("orthogonal", matrix)
        self.orthogonal: Tensor
        self.refresh()

    def compute(self) -> tuple[Tensor, Tensor]:
        """The matrix twice."""
        return self.orthogonal, self.orthogonal


def hadamard(n: int) -> Tensor:
    """An n × n Hadamard matrix over √n, in float32.

    Where the constructions do not reach n (52, 156, 172: QuaRot stores matrices for them) it is
    block-diagonal, with blocks of the largest power of two that divides n.
    """
    power = n & -n
    scale = 1
    while scale <= power:
        base = _base(n // scale)
        if base is not None:
            return _kron(base, _sylvester(scale)) / math.sqrt(n)
        scale *= 2
    return _kron(torch.eye(n // power), _sylvester(power) / math.sqrt(power))


def transform(n: int) -> Kronecker:
    """The same for activations of n channels, as two factors of about √n where there are such."""
    power = n & -n
    left = 1
    while left * left < n and 2 * left <= power and hadamard_exists(n // (2 * left)):
        left *= 2
    return Kronecker(Fixed(hadamard(left)), Fixed(hadamard(n // left)))


def hadamard_exists(n: int) -> bool:
    """Whether :func:`hadamard` gives a full matrix for n."""
    power = n & -n
    return any(_order(n >> k) for k in range(power.bit_length()))


def _order(n: int) -> int:
    """1 or 2 for n = 1, 2; 3 and 4 for Paley's constructions; 0 where there is none."""
    if n in (1, 2):
        return n
    if n % 4:
        return 0
    if _prime(n - 1):
        return 3  # q = n - 1 ≡ 3 (mod 4)
    return 4 if _prime(n // 2 - 1) and (n // 2 - 1) % 4 == 1 else 0


def _base(n: int) -> Tensor | None:
    """A matrix of ±1 that is no Sylvester double, or ``None``."""
    kind = _order(n)
    if kind == 0:
        return None
    if kind < 3:
        return _sylvester(n)
    q = n - 1 if kind == 3 else n // 2 - 1
    squares = {x * x % q for x in range(1, q)}
    residue = torch.tensor([0.0] + [1.0 if x in squares else -1.0 for x in range(1, q)])
    index = (torch.arange(q)[:, None] - torch.arange(q)[None, :]) % q
    core = torch.zeros(q + 1, q + 1)
    core[0, 1:], core[1:, 0], core[1:, 1:] = 1.0, -1.0 if kind == 3 else 1.0, residue[index]
    if kind == 3:  # skew conference matrix: H = I + S
        return torch.eye(q + 1) + core
    # symmetric conference matrix: each entry becomes a 2 × 2 block
    entry, diagonal = (
        torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
        torch.tensor([[1.0, -1.0], [-1.0, -1.0]]),
    )
    return _kron(core, entry) + _kron(torch.eye(q + 1), diagonal)


def _sylvester(n: int) -> Tensor:
    found = torch.ones(1, 1)
    while len(found) < n:
        found = _kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), found)
    return found


def _kron(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.kron(a, b)
    return product


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
