"""Clipping: learned range factors, clamps of weights (learned, given), and the MSE grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantexp.config import TensorQuantization
from quantexp.quantization.quantizer import extremes, scale_and_zero, to_integers

INITIAL_LOGIT = 4.0  # sigmoid(4) = 0.982: both papers start a little inside the range


class LearnedRange(nn.Module):
    """Range factors σ(logit) for the upper and the lower end (LCT on A, K, V; FlatQuant §3.1).

    One pair of scalars per quantizer; they shrink the parts above and below zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((2,), INITIAL_LOGIT))

    def forward(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """Shrinks the range; shapes as given."""
        upper, lower = self.factors(lo.dtype)
        return lo.clamp(max=0) * lower, hi.clamp(min=0) * upper

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Factors of the upper and the lower end."""
        upper, lower = torch.sigmoid(self.logits.to(dtype)).unbind()
        return upper, lower


class WeightRange(nn.Module):
    """Range factors σ(logit) of each weight row or group (LWC; OmniQuant, equation 2).

    They decide scale and zero point; the weight itself is not clamped first. A range need not
    hold zero, so that both ends are scaled as they are.
    """

    def __init__(self, rows: int, groups: int = 1) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((2, rows, groups, 1), INITIAL_LOGIT))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Factors (O, G, 1) of the lower and of the upper end."""
        upper, lower = torch.sigmoid(self.logits)
        return lower, upper

    def forward(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """Scales the ends, (O, G, 1), or (O, 1) of rows that are not cut into groups."""
        lower, upper = (f.to(lo.dtype) for f in self.factors())
        if lo.dim() == 2:
            lower, upper = lower.squeeze(-1), upper.squeeze(-1)
        return lo * lower, hi * upper


class LearnedClamp(nn.Module):
    """Clamps each weight row to [σ(l_min)·min, σ(l_max)·max] (FlatQuant's clipping of weights).

    The scale is computed from the clamped row afterwards. ``groups`` pairs per row where the
    weights are quantized in groups.
    """

    def __init__(self, rows: int, groups: int = 1) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((2, rows, groups, 1), INITIAL_LOGIT))

    def forward(self, weight: Tensor) -> Tensor:
        """The clamped weight, (O, C)."""
        return clamp_rows(weight, self.logits)


def clamp_rows(weight: Tensor, logits: Tensor) -> Tensor:
    """A weight (O, C) clamped by the thresholds of ``logits`` (2, O, G, 1)."""
    cut = weight.unflatten(-1, (logits.shape[2], -1))
    upper, lower = torch.sigmoid(logits.to(weight.dtype))
    low, high = extremes(cut)
    return torch.clamp(cut, lower * low, upper * high).flatten(1)


class FixedClamp(nn.Module):
    """Clamps each weight to ±ratio·max|w| of its group (AWQ's clip)."""

    ratio: Tensor

    def __init__(self, ratio: Tensor) -> None:
        """Takes ratios (O, G, 1) in (0, 1]."""
        super().__init__()
        self.register_buffer("ratio", ratio)

    def forward(self, weight: Tensor) -> Tensor:
        """The clamped weight, (O, C); a ratio of 1 leaves a group exactly as it is."""
        cut = weight.unflatten(-1, (self.ratio.shape[1], -1))
        limit = cut.abs().amax(-1, keepdim=True) * self.ratio.to(weight.dtype)
        return torch.minimum(torch.maximum(cut, -limit), limit).flatten(1)


@torch.no_grad()
def grid_search(groups: Tensor, spec: TensorQuantization) -> Tensor:
    """Range factors that minimize Σ|Q(w)-w|^2.4 of each group (GPTQ's and QuaRot's MSE grid).

    Args:
        groups: Weights (…, g), one group along the last dimension.
        spec: How they will be quantized.

    Returns:
        Factors in [0.21, 1], shape (…, 1); 1 wherever no smaller range is better.
    """
    lo, hi = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    best = torch.ones_like(lo)
    least = torch.full_like(lo, torch.inf)
    for i in range(80):
        ratio = 1 - i / 100
        scale, zero = scale_and_zero(lo * ratio, hi * ratio, spec.bits, spec.scheme)
        q = to_integers(groups, scale, zero, spec.bits, spec.scheme)
        error = ((q - zero) * scale - groups).abs().pow(2.4).sum(-1, keepdim=True)
        better = error < least
        best = torch.where(better, torch.full_like(best, ratio), best)
        least = torch.where(better, error, least)
    return best
