"""Invertible matrices that are learned: the factors of a transform.

``matrix`` is P (n × n), ``inverse_transpose`` is P^-T; both are recomputed by ``refresh``, so that
a step computes them once however many weights use them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from quantexp.quantization.sizes import hadamard


class Factor(nn.Module, ABC):
    """Base: holds the current P and P^-T."""

    matrix: Tensor
    inverse_transpose: Tensor

    def refresh(self) -> None:
        """Recomputes P and P^-T from the parameters; part of the autograd graph."""
        self.matrix, self.inverse_transpose = self.compute()

    @torch.no_grad()
    def freeze(self, stored: torch.dtype) -> None:
        """Fixes P as it will be stored, and P^-T in float64 as the inverse of just that.

        With 16-bit storage the weights thus undo the matrix that ships, not the one before it
        was cast (the official code casts both sides, an error of about 1e-3).
        """
        self.refresh()
        self.matrix = self.matrix.to(stored).double()
        self.inverse_transpose = torch.linalg.inv(self.matrix).T.contiguous()

    @abstractmethod
    def compute(self) -> tuple[Tensor, Tensor]:
        """P and P^-T, in the parameters' dtype."""


class SVDFactor(Factor):
    """P = U diag(d) Vᵀ with orthogonal U, V: P^-T = U diag(1/d) Vᵀ needs no inversion.

    FlatQuant, section 3.1. U and V are Cayley maps of free matrices R: with the skew
    A = tril(R) - tril(R)ᵀ, U = (I - A/2)^-1 (I + A/2). d starts at 1.

    With ``base``, an orthogonal matrix, P = U diag(d) Vᵀ base: a start that no U Vᵀ may reach.
    """

    base: Tensor | None

    def __init__(self, initial: tuple[Tensor, Tensor], base: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("base", base)
        self.left = nn.Parameter(initial[0])
        self.right = nn.Parameter(initial[1])
        self.diagonal = nn.Parameter(torch.ones_like(initial[0][0]))
        self.refresh()

    def compute(self) -> tuple[Tensor, Tensor]:
        [found] = SVDFactor.compute_all([self])
        return found

    @staticmethod
    def compute_all(factors: Sequence[SVDFactor]) -> list[tuple[Tensor, Tensor]]:
        """P and P^-T of factors of one size, by one batched solve."""
        U, V = (
            cayley(torch.stack([r for f in factors for r in (f.left, f.right)]))
            .unflatten(0, (-1, 2))
            .unbind(1)
        )
        d = torch.stack([f.diagonal for f in factors]).unsqueeze(1)
        both = torch.stack([U * d, U / d]) @ V.mT
        bases = [f.base for f in factors if f.base is not None]
        if bases:  # of all or of none: the factors of a block start alike
            both = both @ torch.stack(bases)
        return list(zip(*(side.unbind() for side in both.unbind()), strict=True))


class FreeFactor(Factor):
    """A free matrix, inverted in float64 at every step (FlatQuant's ``direct_inv``)."""

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(initial)
        self.refresh()

    def compute(self) -> tuple[Tensor, Tensor]:
        inverse = torch.linalg.inv(self.weight.double())
        # a view: the parameter itself would be registered a second time, as ``matrix``
        return self.weight.view_as(self.weight), inverse.T.to(self.weight.dtype)


def refresh_all(factors: Iterable[Factor]) -> None:
    """:meth:`Factor.refresh` of all, those of one size together: a block has many small ones."""
    sizes: dict[int, list[SVDFactor]] = {}
    for factor in factors:
        if isinstance(factor, SVDFactor):
            sizes.setdefault(len(factor.left), []).append(factor)
        else:
            factor.refresh()
    for equal in sizes.values():
        for factor, found in zip(equal, SVDFactor.compute_all(equal), strict=True):
            factor.matrix, factor.inverse_transpose = found


def cayley(R: Tensor) -> Tensor:
    """Orthogonal matrices (…, n, n) from free ones, by the Cayley map of their skew part."""
    lower = R.tril()
    A = lower - lower.mT
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    # never singular: the eigenvalues of a skew matrix are imaginary. solve() would ask the device
    # whether it is, at every step of a fit
    orthogonal: Tensor = torch.linalg.solve_ex(eye - A / 2, eye + A / 2).result
    return orthogonal


def random_orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (Haar): QR of a Gaussian with the signs of R fixed."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator))
    fixed: Tensor = q * r.diagonal().sign()
    return fixed


def make_factor(n: int, parametrization: str, init: str, generator: torch.Generator) -> Factor:
    """A factor of size n.

    Args:
        n: Rows and columns.
        parametrization: ``svd`` or ``direct``.
        init: ``random`` (the official code: random orthogonal matrices, for ``svd`` as the
            free matrices of the Cayley map), ``hadamard`` (H/√n) or ``identity``.
        generator: Source of the random numbers, on the CPU so that devices agree.
    """
    if init != "random":
        start = torch.eye(n)
        if init == "hadamard":
            rows = hadamard(n)
            assert rows is not None, n
            start = torch.tensor(rows, dtype=start.dtype) / n**0.5
        if parametrization == "direct":
            return FreeFactor(start)
        base = start if init == "hadamard" else None
        return SVDFactor((torch.zeros(n, n), torch.zeros(n, n)), base)
    if parametrization == "direct":
        return FreeFactor(random_orthogonal(n, generator))
    return SVDFactor((random_orthogonal(n, generator), random_orthogonal(n, generator)))
