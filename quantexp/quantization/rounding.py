"""Rounding: how merged weights become integers. RTN, and GPTQ (arXiv 2210.17323, algorithm 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import GPTQConfig, TensorQuantization
from quantexp.errors import CalibrationError
from quantexp.precision import products
from quantexp.quantization.clipping import grid_search
from quantexp.quantization.quantizer import scale_and_zero, to_integers

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
        weight: Tensor = (integers - zero).to(wide).mul_(scale.to(wide))
        return weight.view(self.integers.shape).to(dtype)


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
    q = to_integers(groups, scale.to(weight.dtype).unsqueeze(-1), zero.unsqueeze(-1), *_kind(spec))
    return IntegerWeight(q.flatten(1).to(torch.int16), scale, zero.to(torch.int16), spec)


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
    W, H = torch.cat([w.to(hessian.dtype) for w in weights]), hessian.clone()
    learned = [f for f in factors if f is not None]
    ends = None
    if learned:
        ends = torch.cat([f[0] for f in learned]), torch.cat([f[1] for f in learned])
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    W[:, dead] = 0
    rows, C = W.shape
    size = spec.group_size or C
    scale = torch.empty(rows, C // size, dtype=stored, device=W.device)
    zero = torch.empty(rows, C // size, dtype=W.dtype, device=W.device)
    fixed = size == C or options.static_groups
    if fixed:
        scale, zero = _parameters(_groups(W, spec), spec, stored, ends)
    order = H.diagonal().argsort(descending=True, stable=True) if options.act_order else None
    columns = torch.arange(C, device=W.device)
    if order is not None:
        W, H = W[:, order], H[order][:, order]
    # static groups are neighbours in the weight, others neighbours in the order of rounding
    group_of = (columns if order is None or not fixed else order) // size
    groups = group_of.tolist()
    U, damping = _inverse_factor(H, options.damping)
    Q = torch.empty_like(W)
    loss = torch.zeros(rows, dtype=W.dtype, device=W.device)
    for start in range(0, C, options.block_size):
        stop = min(start + options.block_size, C)
        errors = torch.empty_like(W[:, start:stop])
        for i in range(start, stop):
            group = groups[i]
            if not fixed and i % size == 0:
                # scales of a group come from the columns as corrected so far
                own = ends and (ends[0][:, group, None], ends[1][:, group, None])
                s, z = _parameters(_groups(W[:, i : i + size], spec), spec, stored, own)
                scale[:, group], zero[:, group] = s[:, 0], z[:, 0]
            s, z = scale[:, group].to(W.dtype), zero[:, group]
            Q[:, i] = to_integers(W[:, i], s, z, *_kind(spec))
            error = (W[:, i] - (Q[:, i] - z) * s) / U[i, i]
            W[:, i:stop] -= error.unsqueeze(1) * U[i, i:stop]
            errors[:, i - start] = error
        W[:, stop:] -= errors @ U[start:stop, stop:]
        loss += errors.square().sum(1) / 2
    group_index = None
    if order is not None:
        back = order.argsort()
        Q = Q[:, back]
        group_index = None if fixed else group_of[back].int()
    heights = [len(w) for w in weights]
    whole = (Q.to(torch.int16), scale, zero.to(torch.int16), loss)
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
    """Upper Cholesky factor of (H + λ·mean(diag H)·I)^-1 and the damping λ that was needed."""
    mean = H.diagonal().mean()
    for step in range(_DAMPING_STEPS):
        used = damping * 10**step
        damped = H.clone()
        damped.diagonal().add_(used * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if info.item() == 0:
            upper, info = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if info.item() == 0 and torch.isfinite(upper).all():
                return upper, used
    raise CalibrationError(
        f"GPTQ's Hessian is not positive definite even with damping {used:g}: "
        "use more calibration windows (data.num_samples) or a larger gptq.damping"
    )


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
