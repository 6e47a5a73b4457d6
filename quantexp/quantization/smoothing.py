"""The per-channel scale that SmoothQuant proposes and FlatQuant and OmniQuant start from."""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 1e-5


def smoothing_scale(x_max: Tensor, weights: Sequence[Tensor], alpha: float) -> Tensor:
    """s_j = max|X_j|^α / max|W_j|^(1-α) (SmoothQuant, equation 4).

    Args:
        x_max: (C,) largest |x| of each input channel.
        weights: (O, C) weights of all linears that read the input.
        alpha: Migration strength in [0, 1].

    Returns:
        (C,) scale; activations are divided by it, weight columns multiplied. Silent channels
        and zero columns are floored at 1e-5, so that nothing divides by zero.
    """
    w_max = torch.stack([w.abs().amax(0) for w in weights]).amax(0).clamp(min=FLOOR)
    return (x_max.clamp(min=FLOOR) ** alpha / w_max ** (1 - alpha)).clamp(min=FLOOR)
