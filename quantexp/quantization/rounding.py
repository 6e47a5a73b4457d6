"""Merged weights become integers: the nearest ones (RTN), and what a rounded weight is."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantexp.config import TensorQuantization
from quantexp.quantization.clipping import grid_search
from quantexp.quantization.pieces import pieces
from quantexp.quantization.quantizer import scale_and_zero, to_integers

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
        for at in pieces(self.integers):
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
    groups = weight_groups(weight, spec)
    scale, zero = range_parameters(groups, spec, stored, factors)
    wide = scale.to(weight.dtype)
    q = torch.empty_like(groups, dtype=torch.int16)
    for at in pieces(weight):
        s, z = wide[at, :, None], zero[at, :, None]
        q[at] = to_integers(groups[at], s, z, spec.bits, spec.scheme)
    return IntegerWeight(q.flatten(1), scale, zero.to(torch.int16), spec)


def weight_groups(weight: Tensor, spec: TensorQuantization) -> Tensor:
    """(O, C) → (O, G, g); one group per row, or the whole tensor's rows, without group size."""
    groups: Tensor = weight.unflatten(1, (-1, spec.group_size or weight.shape[1]))
    return groups


def range_parameters(
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
    scale, zero = scale_and_zero(lo, hi, spec.bits, spec.scheme)
    # a 16-bit scale must not underflow to zero
    least = torch.finfo(stored).tiny * torch.finfo(stored).eps
    return scale.squeeze(-1).to(stored).clamp(min=least), zero.squeeze(-1)
