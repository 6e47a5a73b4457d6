"""Fake quantization by the data's own range, in one autograd step with its gradient by hand.

The values are those of ``Quantizer``'s general path, to the bit. The gradient is what autograd
gives for it, but in a third of the passes: no boolean masks over the data, which are slower on a
CPU than all arithmetic together, and one extreme per row where the scheme is symmetric.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantexp.quantization.quantizer import integer_range, scale_and_zero

SCHEMES = ("symmetric", "asymmetric")


class _Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, upper: Tensor | None, lower: Tensor | None, bits: int, scheme: str
    ) -> Tensor:
        lo = x.amin(-1, keepdim=True).clamp_(max=0)
        hi = x.amax(-1, keepdim=True).clamp_(min=0)
        if upper is None or lower is None:
            bottom, top = lo, hi
        else:
            bottom, top = lo * lower, hi * upper
        scale, zero = scale_and_zero(bottom, top, bits, scheme)
        v = x / scale
        q = v.round()
        if scheme == "asymmetric":
            q.add_(zero).clamp_(*integer_range(scheme, bits)).sub_(zero)
        else:
            q.clamp_(*integer_range(scheme, bits))
        ctx.save_for_backward(v, scale, zero, lo, hi, bottom, top, upper, lower)
        ctx.bits, ctx.scheme = bits, scheme
        return q.mul_(scale)

    @staticmethod
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Any, Any]:
        v, scale, zero, lo, hi, bottom, top, upper, lower = ctx.saved_tensors
        least, most = integer_range(ctx.scheme, ctx.bits)
        symmetric = ctx.scheme == "symmetric"
        level = v.round() if symmetric else v.round().add_(zero)
        # rounding passes the gradient straight through where the level is inside the integers
        to_x = torch.ops.aten.hardtanh_backward(gradient, level, least - 0.5, most + 0.5)
        level.clamp_(least, most)
        q = level if symmetric else level.sub_(zero)
        to_scale = q.mul_(gradient).addcmul_(to_x, v, value=-1).sum(-1, keepdim=True)
        if symmetric:  # s = max(-bottom, top) / most
            to_end = to_scale / most
            above = (top >= -bottom).to(v.dtype)
            to_top, to_bottom = to_end * above, to_end * (above - 1)
        else:  # s = (top - bottom) / most; the official code stops the gradient of the zero point
            to_top = to_scale / most
            to_bottom = -to_top
        to_upper = (to_top * hi).sum() if upper is not None else None
        to_lower = (to_bottom * lo).sum() if lower is not None else None
        if upper is not None and lower is not None:
            to_top, to_bottom = to_top * upper, to_bottom * lower
        if symmetric:
            _to_extreme(to_x, v, torch.where(above > 0, hi, lo) / scale, to_top + to_bottom)
        else:
            _to_extreme(to_x, v, hi / scale, to_top)
            _to_extreme(to_x, v, lo / scale, to_bottom)
        return to_x, to_upper, to_lower, None, None


def _to_extreme(to_x: Tensor, v: Tensor, extreme: Tensor, gradient: Tensor) -> None:
    """Adds the gradient of each row's extreme to where it is; equal ones share it."""
    at = v.clone().eq_(extreme)  # in place, the result is a float and no boolean
    # a range that begins or ends at 0 because no value is below or above may be nobody's
    to_x.addcmul_(at, gradient / at.sum(-1, keepdim=True).clamp_(min=1))


def fake_quantize_dynamic(
    x: Tensor, upper: Tensor | None, lower: Tensor | None, bits: int, scheme: str
) -> Tensor:
    """``x`` (…, g) quantized by each row's range, its ends times ``upper`` and ``lower`` (scalars).

    Args:
        x: Groups along the last dimension.
        upper: Factor of the largest value if positive; ``None`` for 1, with ``lower``.
        lower: Factor of the smallest value if negative.
        bits: 2 to 8.
        scheme: One of :data:`SCHEMES`.
    """
    out: Tensor = _Dynamic.apply(x, upper, lower, bits, scheme)
    return out
