"""GPTQ (arXiv 2210.17323, algorithm 1): weights become integers that make up for each other.

Matrices lie transposed here, (C, O): what is rounded one after the other lies in one piece.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import GPTQConfig, TensorQuantization
from quantexp.errors import CalibrationError
from quantexp.precision import products
from quantexp.quantization.quantizer import integer_range
from quantexp.quantization.rounding import (
    Factors,
    IntegerWeight,
    range_parameters,
    weight_groups,
)

_STRIP = 16  # columns that are corrected one by one; those behind them get all errors at once
_BANDS = 8  # of rows of a Hessian; from its diagonal block on, each: 9/16 of the products
_TRIANGLE = 128  # rows of a triangular matrix that is inverted by the library
_DAMPING_STEPS = 3  # damping, 10 x damping, 100 x damping


@dataclass(frozen=True)
class GPTQReport:
    """What GPTQ met: damping that it needed, columns no token ever touched, the error it left."""

    damping: float
    dead_columns: int
    loss: float


@torch.no_grad()
@products("float32")
def gptq(
    weights: Sequence[Tensor],
    hessian: Tensor,
    spec: TensorQuantization,
    options: GPTQConfig,
    stored: torch.dtype,
    factors: Sequence[Factors | None] = (),
) -> list[tuple[IntegerWeight, GPTQReport]]:
    """Rounds column by column and spreads each error over the columns that are left.

    Args:
        weights: (O, C) each, merged, of linears that read the same inputs. They are rounded as one
            matrix; with one scale per tensor it can only be one.
        hessian: (C, C), (2/N)·Σxxᵀ of the inputs; any positive factor gives the same result.
        spec: Bits, scheme, granularity.
        options: Damping, block size, act order, static groups.
        stored: Dtype of the scales in the checkpoint.
        factors: Of the range of each group of each weight, where a method has learned them.

    Raises:
        CalibrationError: The Hessian is not finite, or not positive definite at any damping.
    """
    if not torch.isfinite(hessian).all():
        raise CalibrationError(
            "the Hessian of GPTQ is not finite: the inputs overflowed; use model.dtype=bfloat16 "
            "or float32"
        )
    W, H = torch.cat([w.to(hessian.dtype).T for w in weights], 1), hessian.clone()
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    W[dead] = 0
    learned = [f for f in factors if f is not None]
    ends = None
    if learned:
        ends = torch.cat([f[0] for f in learned]), torch.cat([f[1] for f in learned])
    scales = _Scales(W, spec, stored, ends, options.static_groups)
    order = H.diagonal().argsort(descending=True, stable=True) if options.act_order else None
    group_of = torch.arange(len(W), device=W.device) // scales.size
    if order is not None:
        W, H = W[order], H[order][:, order]
        # static groups are neighbours in the weight, others neighbours in the order of rounding
        if scales.fixed:
            group_of = group_of[order]
    U, damping = _inverse_factor(H, options.damping)
    Q, loss = _round(W, U, scales, group_of.tolist(), options.block_size)
    group_index = None
    if order is not None:
        back = order.argsort()
        Q = Q[back]
        group_index = None if scales.fixed else group_of[back].int()
    heights = [len(w) for w in weights]
    whole = (Q, scales.scale.to(stored), scales.zero.to(torch.int16))
    found = []
    parts = (*(t.T.contiguous().split(heights) for t in whole), loss.split(heights))
    for q, s, z, lost in zip(*parts, strict=True):
        # copies: a checkpoint's tensors must not share memory
        index = None if group_index is None else group_index.clone()
        rounded = IntegerWeight(q, s.clone(), z.clone(), spec, index)
        found.append((rounded, GPTQReport(damping, int(dead.sum()), float(lost.sum()))))
    return found


class _Scales:
    """Scales and zero points of the groups: of the weight as it was, or as it is corrected so far.

    Attributes:
        size: Columns of a group.
        fixed: All groups are known before the first column is rounded.
        scale: (G, O), rounded to the checkpoint's dtype, in the weight's.
        zero: (G, O).
    """

    def __init__(
        self,
        W: Tensor,
        spec: TensorQuantization,
        stored: torch.dtype,
        factors: Factors | None,
        static: bool,
    ) -> None:
        self._spec, self._stored, self._factors = spec, stored, factors
        self._range = integer_range(spec.scheme, spec.bits)
        C, rows = W.shape
        self.size = spec.group_size or C
        self.fixed = static or self.size == C
        if self.fixed:
            scale, zero = self._of(W, factors)
            self.scale, self.zero = scale.to(W.dtype).T.contiguous(), zero.T.contiguous()
        else:
            self.scale, self.zero = (W.new_empty(C // self.size, rows) for _ in range(2))

    def begin(self, group: int, W: Tensor) -> None:
        """A group that is not fixed takes its range from its columns (g, O)."""
        ends = self._factors
        own = ends and (ends[0][:, group, None], ends[1][:, group, None])
        scale, zero = self._of(W, own)
        self.scale[group], self.zero[group] = scale[:, 0], zero[:, 0]

    def _of(self, W: Tensor, factors: Factors | None) -> tuple[Tensor, Tensor]:
        groups = weight_groups(W.T.contiguous(), self._spec)
        return range_parameters(groups, self._spec, self._stored, factors)

    def split(self, column: Tensor, group: int, q: Tensor, rest: Tensor) -> None:
        """Writes a column's (O,) integers to ``q``, and what is left of it to ``rest``."""
        scale, zero = self.scale[group], self.zero[group]
        torch.div(column, scale, out=q).round_()
        # as few operations as there can be: to start them takes longer than they do
        if self._spec.scheme == "symmetric":  # its zero is 0
            torch.mul(q.clamp_(*self._range), scale, out=rest)
        else:
            torch.sub(q.add_(zero).clamp_(*self._range), zero, out=rest).mul_(scale)
        torch.sub(column, rest, out=rest)


def _round(
    W: Tensor, U: Tensor, scales: _Scales, groups: Sequence[int], block_size: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1; errors reach the columns behind a strip, and those behind a block, at once.

    Args:
        W: (C, O), overwritten.
        U: (C, C), upper Cholesky factor of the inverse Hessian.
        scales: Of the groups.
        groups: The group of each column.
        block_size: Columns of a block.

    Returns:
        Integers (C, O), and the loss (O,) that is left of each row.
    """
    Q = torch.empty_like(W, dtype=torch.int16)
    loss, diagonal = torch.zeros_like(W[0]), U.diagonal()
    # a group that begins sees all corrections before it: strips end where groups do
    strip = math.gcd(_STRIP, block_size, 0 if scales.fixed else scales.size)
    for start in range(0, len(W), block_size):
        stop = min(start + block_size, len(W))
        integers, errors = (torch.empty_like(W[start:stop]) for _ in range(2))
        for first in range(start, stop, strip):
            last = min(first + strip, stop)
            here = slice(first - start, last - start)
            columns, factors = W[first:last], U[first:last, first:last, None]
            rows = zip(columns, integers[here], errors[here], diagonal[first:last], strict=True)
            for i, (column, q, error, own) in enumerate(rows):
                if not scales.fixed and (first + i) % scales.size == 0:
                    scales.begin(groups[first + i], W[first + i : first + i + scales.size])
                scales.split(column, groups[first + i], q, error)
                error.div_(own)
                columns[i + 1 :].addcmul_(factors[i, i + 1 :], error, value=-1)
            W[last:stop].addmm_(U[first:last, last:stop].T, errors[here], alpha=-1)
        Q[start:stop] = integers
        W[stop:].addmm_(U[start:stop, stop:].T, errors, alpha=-1)
        loss += errors.square().sum(0) / 2
    return Q, loss


class Hessian:
    """Running mean of (2/N)·Σxxᵀ over N sequences, in float32 (float64 for float64 inputs).

    It is symmetric: what lies left of the diagonal's blocks is copied when it is read.
    """

    def __init__(self, columns: int, device: torch.device, dtype: torch.dtype) -> None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self._sum = torch.zeros(columns, columns, device=device, dtype=wide)
        self._band = max(_TRIANGLE, -(-columns // _BANDS))
        self.sequences = 0

    @property
    def matrix(self) -> Tensor:
        """(C, C), whole."""
        for start, stop in self._bands():
            self._sum[stop:, start:stop] = self._sum[start:stop, stop:].T
        return self._sum

    @products("float32")
    def add(self, x: Tensor) -> None:
        """Adds the inputs (B, T, C) of B sequences."""
        count = x.shape[0]
        total = self.sequences + count
        rows = x.reshape(-1, x.shape[-1]).to(self._sum.dtype) * (2 / total) ** 0.5
        for start, stop in self._bands():
            band = self._sum[start:stop, start:]
            band.addmm_(rows[:, start:stop].T, rows[:, start:], beta=self.sequences / total)
        self.sequences = total

    def _bands(self) -> Iterator[tuple[int, int]]:
        columns = len(self._sum)
        for start in range(0, columns, self._band):
            yield start, min(start + self._band, columns)


def _inverse_factor(H: Tensor, damping: float) -> tuple[Tensor, float]:
    """Upper Cholesky factor of (H + λ·mean(diag H)·I)^-1 and the damping λ that was needed.

    With its rows and columns in reverse, the matrix has the factor LLᵀ; turned round, it is RRᵀ
    with R upper triangular, and R^-1 is what is asked for: one factorization, no full inverse.
    """
    mean = H.diagonal().mean()
    for step in range(_DAMPING_STEPS):
        used = damping * 10**step
        damped = H.flip(0, 1)
        damped.diagonal().add_(used * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if info.item() == 0:
            upper = _inverse_triangular(lower.flip(0, 1))
            if torch.isfinite(upper).all():
                return upper, used
    raise CalibrationError(
        f"GPTQ's Hessian is not positive definite even with damping {used:g}: "
        "use more calibration windows (data.num_samples) or a larger gptq.damping"
    )


def _inverse_triangular(R: Tensor) -> Tensor:
    """The inverse of an upper triangular matrix, by halves: most of it is matrix products."""
    half = len(R) // 2
    if half < _TRIANGLE:
        one = torch.eye(len(R), dtype=R.dtype, device=R.device)
        alone: Tensor = torch.linalg.solve_triangular(R, one, upper=True)
        return alone
    found = torch.zeros_like(R)
    found[:half, :half] = _inverse_triangular(R[:half, :half])
    found[half:, half:] = _inverse_triangular(R[half:, half:])
    found[:half, half:] = -found[:half, :half] @ (R[:half, half:] @ found[half:, half:])
    return found
