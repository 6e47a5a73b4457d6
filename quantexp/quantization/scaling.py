"""OmniQuant's learnable equivalent transformation (LET): channel scales s and shifts δ.

The parameters are s and δ themselves: s divides activations and multiplies weights. No factor
comes nearer to zero than 0.01, so that neither side explodes while it is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quantexp.quantization.transforms import Online, Transform, ValueTransform, repeat_heads

LEAST = 1e-2  # of |s|, before every forward pass


class Scaling(Transform):
    """x̃ = (x - δ)/s, W̃ = W·s and b̃ = b + Wδ (equation 3): (x̃, W̃, b̃) gives x Wᵀ + b.

    1/s is absorbed into what precedes the site, and -δ/s into the bias of its norm; where that
    has none (LLaMA), it stays there as a shift.
    """

    def __init__(self, scale: Tensor, shift: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)
        self.shift = nn.Parameter(torch.zeros_like(scale)) if shift else None

    def prepare(self) -> None:
        keep_from_zero(self.scale)

    def freeze(self, stored: torch.dtype) -> None:
        self.prepare()

    def act(self, x: Tensor) -> Tensor:
        if self.shift is not None:
            x = x - self.shift.to(x.dtype)
        return x / self.scale.to(x.dtype)

    def normed(self, norm: nn.Module, x: Tensor, offset: float = 0.0) -> Tensor:
        """As after merging: the norm takes 1/s, which is cheaper than dividing every token."""
        c = 1 / self.scale
        scaled = {name: p * c.to(p.dtype) for name, p in norm.named_parameters()}
        if offset:
            scaled["weight"] = scaled["weight"] + offset * (c.to(scaled["weight"].dtype) - 1)
        out: Tensor = functional_call(norm, scaled, (x,))
        return out if self.shift is None else out - (self.shift * c).to(out.dtype)

    def weight_in(self, weight: Tensor) -> Tensor:
        return weight * self.scale.to(weight.dtype)

    def bias_in(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        if self.shift is None:
            return bias
        moved = weight @ self.shift.to(weight.dtype)
        return moved if bias is None else bias + moved

    def channel_scale(self) -> Tensor | None:
        return 1 / self.scale.detach().double()

    def online(self) -> Online | None:
        if self.shift is None:
            return None
        return Online(None, None, shift=-self.shift * (1 / self.scale))

    def conditions(self) -> dict[str, float]:
        size = self.scale.detach().abs()
        return {"diagonal": float(size.max() / size.min())}


class ValueScaling(Scaling, ValueTransform):
    """The same between values and the output projection: softmax rows sum to one, so v passes δ.

    The values already carry it, by the rows of their projection (:meth:`weight_out`). s and δ
    have one entry per channel of a value head (H_kv·D); the query heads that share it share them.
    """

    def __init__(self, scale: Tensor, repeats: int, head_dim: int, shift: bool = False) -> None:
        super().__init__(scale, shift)
        self.repeats = repeats
        self.head_dim = head_dim

    def act(self, x: Tensor) -> Tensor:
        return x

    def weight_in(self, weight: Tensor) -> Tensor:
        return weight * self._for_queries(self.scale).to(weight.dtype)

    def bias_in(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        if self.shift is None:
            return bias
        moved = weight @ self._for_queries(self.shift).to(weight.dtype)
        return moved if bias is None else bias + moved

    def weight_out(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        s = self.scale.to(weight.dtype)
        if self.shift is not None:
            shift = self.shift.to(weight.dtype)
            bias = -shift if bias is None else bias - shift
        return weight / s.unsqueeze(1), None if bias is None else bias / s

    def channel_scale(self) -> Tensor | None:
        return None

    def online(self) -> Online | None:
        return None

    def _for_queries(self, vector: Tensor) -> Tensor:
        return repeat_heads(vector, self.repeats, self.head_dim)


class RowScaling(Transform):
    """Scale of query rows (÷ s) or key rows (· s), which cancels in q kᵀ.

    ``scale`` is shared by both sides: (H_kv, D), or (H_kv, D/2) for s_i = s_{i+D/2}, which RoPE
    leaves alone since it turns just these two channels into each other.
    """

    def __init__(self, scale: nn.Parameter, head_dim: int, repeats: int, divide: bool) -> None:
        super().__init__()
        self.scale = scale
        self.head_dim = head_dim
        self.repeats = repeats
        self.divide = divide

    def prepare(self) -> None:
        keep_from_zero(self.scale)

    def freeze(self, stored: torch.dtype) -> None:
        self.prepare()

    def weight_out(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        s = self.scale.to(weight.dtype)
        s = s.repeat(1, self.head_dim // s.shape[1]).flatten()
        s = repeat_heads(s, self.repeats, self.head_dim)
        if self.divide:
            s = 1 / s
        return weight * s.unsqueeze(1), None if bias is None else bias * s


@torch.no_grad()
def keep_from_zero(scale: Tensor) -> None:
    """Moves entries nearer to zero than :data:`LEAST` out to ±LEAST, in place."""
    far = torch.full_like(scale, LEAST).copysign(scale)
    scale.copy_(torch.where(scale.abs() < LEAST, far, scale))
