"""Rounding: how merged weights become integers. RTN, and GPTQ (arXiv 2210.17323, algorithm 1)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import GPTQConfig, TensorQuantization
from quantexp.errors import CalibrationError
from quantexp.precision import products
from quantexp.quantization.clipping import grid_search
from quantexp.quantization.quantizer import PIECE, scale_and_zero, to_integers

_STRIP = 16  # columns that GPTQ corrects one by one; those behind them get all errors at once
_TRIANGLE = 128  # rows of a triangular matrix that is inverted by the library
_DAMPING_STEPS = 3  # damping, 10 x damping, 100 x damping

Factors = tuple[Tensor, Tensor]  # learned factors (O, G, 1) of a range's lower and upper end


@dataclass(frozen=True)
class IntegerWeight:
    """A rounded weight.

    Attributes:
        integers: (O, C) int16.
        scale: (O, G), in the checkpoint's dtype.
        zero: (O, G) int16, zero points.
        spec: How it was quantized.
        group_index: (C,) int32, the group of each column, where groups are not runs of
            neighbours (GPTQ's act order without static groups); else ``None``.
    """

    integers: Tensor
    scale: Tensor
    zero: Tensor
    spec: TensorQuantization
    group_index: Tensor | None = None

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """s(q-z) as (O, C), computed in float32 (float64 for float64)."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if self.group_index is None:  # scales spread over their groups, not copied to each weight
            integers = self.integers.unflatten(1, (self.scale.shape[1], -1))
            scale, zero = self.scale.unsqueeze(-1), self.zero.unsqueeze(-1)
        else:
            integers = self.integers
            scale, zero = (t[:, self.group_index.long()] for t in (self.scale, self.zero))
        weight = torch.empty_like(integers, dtype=dtype)
        for at in _pieces(self.integers):
            weight[at] = (integers[at] - zero[at]).to(wide).mul_(scale[at].to(wide))
        return weight.view(self.integers.shape)


@torch.no_grad()
def rtn(
    weight: Tensor, spec: TensorQuantization, stored: torch.dtype, factors: Factors | None = None
) -> IntegerWeight:
    """Rounds each weight to the nearest level.

    Args:
        weight: (O, C).
        spec: Bits, scheme, granularity.
        stored: Dtype of the scales in the checkpoint; integers are made with the stored scale.
        factors: Of the range of each group, where a method has learned them.
    """
    groups = _groups(weight, spec)
    scale, zero = _parameters(groups, spec, stored, factors)
    wide = scale.to(weight.dtype)
    q = torch.empty_like(groups, dtype=torch.int16)
    for at in _pieces(weight):
        q[at] = to_integers(groups[at], wide[at, :, None], zero[at, :, None], *_kind(spec))
    return IntegerWeight(q.flatten(1), scale, zero.to(torch.int16), spec)


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
    # transposed, (C, O): what is rounded next to each other lies next to each other
    W, H = torch.cat([w.to(hessian.dtype).T for w in weights], 1), hessian.clone()
    learned = [f for f in factors if f is not None]
    ends = None
    if learned:
        ends = torch.cat([f[0] for f in learned]), torch.cat([f[1] for f in learned])
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    W[dead] = 0
    C, rows = W.shape
    size = spec.group_size or C
    scale = torch.empty(rows, C // size, dtype=stored, device=W.device)
    zero = torch.empty(rows, C // size, dtype=W.dtype, device=W.device)
    fixed = size == C or options.static_groups
    if fixed:
        scale, zero = _parameters(_groups(W.T.contiguous(), spec), spec, stored, ends)
    scale, zero = scale.T.contiguous(), zero.T.contiguous()
    order = H.diagonal().argsort(descending=True, stable=True) if options.act_order else None
    columns = torch.arange(C, device=W.device)
    if order is not None:
        W, H = W[order], H[order][:, order]
    # static groups are neighbours in the weight, others neighbours in the order of rounding
    group_of = (columns if order is None or not fixed else order) // size
    groups = group_of.tolist()
    U, damping = _inverse_factor(H, options.damping)
    Q = torch.empty_like(W, dtype=torch.int16)
    loss = torch.zeros(rows, dtype=W.dtype, device=W.device)
    # a group that begins sees all corrections before it: strips end where groups do
    strip = math.gcd(_STRIP, options.block_size, 0 if fixed else size)
    for start in range(0, C, options.block_size):
        stop = min(start + options.block_size, C)
        errors = torch.empty_like(W[start:stop])
        for first in range(start, stop, strip):
            last = min(first + strip, stop)
            for i in range(first, last):
                group = groups[i]
                if not fixed and i % size == 0:
                    # scales of a group come from the columns as corrected so far
                    own = ends and (ends[0][:, group, None], ends[1][:, group, None])
                    now = _groups(W[i : i + size].T.contiguous(), spec)
                    s, z = _parameters(now, spec, stored, own)
                    scale[group], zero[group] = s[:, 0], z[:, 0]
                s, z = scale[group].to(W.dtype), zero[group]
                q = to_integers(W[i], s, z, *_kind(spec))
                error = (W[i] - (q - z) * s) / U[i, i]
                W[i + 1 : last] -= U[i, i + 1 : last, None] * error
                Q[i], errors[i - start] = q, error
            W[last:stop].addmm_(
                U[first:last, last:stop].T, errors[first - start : last - start], alpha=-1
            )
        W[stop:].addmm_(U[start:stop, stop:].T, errors, alpha=-1)
        loss += errors.square().sum(0) / 2
    group_index = None
    if order is not None:
        back = order.argsort()
        Q = Q[back]
        group_index = None if fixed else group_of[back].int()
    heights = [len(w) for w in weights]
    whole = (Q.T.contiguous(), scale.T.contiguous(), zero.T.to(torch.int16), loss)
    found = []
    for q, s, z, lost in zip(*(t.split(heights) for t in whole), strict=True):
        # copies: a checkpoint's tensors must not share memory
        index = None if group_index is None else group_index.clone()
        rounded = IntegerWeight(q, s.clone(), z.clone(), spec, index)
        found.append((rounded, GPTQReport(damping, int(dead.sum()), float(lost.sum()))))
    return found


class Hessian:
    """Running mean of (2/N)·Σxxᵀ over N sequences, in float32 (float64 for float64 inputs)."""

    def __init__(self, columns: int, device: torch.device, dtype: torch.dtype) -> None:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.matrix = torch.zeros(columns, columns, device=device, dtype=wide)
        self.sequences = 0

    @products("float32")
    def add(self, x: Tensor) -> None:
        """Adds the inputs (B, T, C) of B sequences."""
        count = x.shape[0]
        total = self.sequences + count
        rows = x.reshape(-1, x.shape[-1]).to(self.matrix.dtype) * (2 / total) ** 0.5
        self.matrix *= self.sequences / total
        self.matrix.addmm_(rows.T, rows)
        self.sequences = total


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


def _pieces(weight: Tensor) -> Iterator[slice]:
    """Runs of rows of (O, C) that stay in the cache of a processor between two operations."""
    rows = max(1, PIECE // weight.shape[1])
    return (slice(first, first + rows) for first in range(0, weight.shape[0], rows))


def _groups(weight: Tensor, spec: TensorQuantization) -> Tensor:
    """(O, C) → (O, G, g); one group per row, or the whole tensor's rows, without group size."""
    groups: Tensor = weight.unflatten(1, (-1, spec.group_size or weight.shape[1]))
    return groups


def _parameters(
    groups: Tensor, spec: TensorQuantization, stored: torch.dtype, factors: Factors | None
) -> tuple[Tensor, Tensor]:
    """Scale (O, G) in its stored dtype and zero (O, G) of weight groups (O, G, g)."""
    lo, hi = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    ratio: Tensor | float = spec.clip_ratio
    if spec.clip_search == "grid":
        ratio = grid_search(groups, spec)
    lo, hi = lo * ratio, hi * ratio
    if factors is not None:
        lo, hi = lo * factors[0].to(lo.dtype), hi * factors[1].to(lo.dtype)
    if spec.granularity == "per_tensor":
        lo, hi = lo.amin().expand_as(lo), hi.amax().expand_as(hi)
    scale, zero = scale_and_zero(lo, hi, *_kind(spec))
    # a 16-bit scale must not underflow to zero
    least = torch.finfo(stored).tiny * torch.finfo(stored).eps
    return scale.squeeze(-1).to(stored).clamp(min=least), zero.squeeze(-1)


def _kind(spec: TensorQuantization) -> tuple[int, str]:
    return spec.bits, spec.scheme
