"""The quantizer Q(x; bits, scheme, granularity, range): one class for W, A, K, V and Q.

Shapes: B batch, T tokens, C input channels, O output channels, H heads, D head dim, G groups,
g group size. A tensor is cut into rows (a token, a token's head, an output channel, the whole
tensor) and rows into groups; each group has one scale and one zero point.

=====================  ===================  ===============  ==============  ==================
scheme                 scale s              zero z           integers        used by
=====================  ===================  ===============  ==============  ==================
symmetric              max|x|/(2^(b-1)-1)   0                -2^(b-1)…       QuaRot, FlatQuant,
                                                             2^(b-1)-1       SmoothQuant
symmetric_full         2max|x|/(2^b-1)      2^(b-1)          0…2^b-1         GPTQ ``--sym``
symmetric_mirrored     max|x|/(2^(b-1)-1)   2^(b-1)-1        0…2^b-1         OmniQuant
asymmetric             (hi-lo)/(2^b-1),     round(-lo/s)     0…2^b-1         GPTQ, QuaRot,
                       lo<=0<=hi                                             FlatQuant (K, V)
asymmetric_free        (max-min)/(2^b-1)    round(-min/s)    0…2^b-1         OmniQuant
asymmetric_clamped     (max-min)/(2^b-1)    clamped to       0…2^b-1         AWQ
                                            the integers
=====================  ===================  ===============  ==============  ==================

Dequantized value: s(q-z). Rounding is half to even.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import TensorQuantization
from quantexp.quantization.pieces import PIECE, pieces


class _RoundStraightThrough(torch.autograd.Function):
    """round(x) whose gradient is the identity (straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_through(x: Tensor) -> Tensor:
    """Rounds half to even; the gradient passes as if nothing had been rounded."""
    if not (x.requires_grad and torch.is_grad_enabled()):  # GPTQ rounds column by column
        return x.round()
    rounded: Tensor = _RoundStraightThrough.apply(x)
    return rounded


def integer_range(scheme: str, bits: int) -> tuple[int, int]:
    """Smallest and largest integer of a scheme."""
    if scheme == "symmetric":
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def scale_and_zero(lo: Tensor, hi: Tensor, bits: int, scheme: str) -> tuple[Tensor, Tensor]:
    """Scale and zero point of ranges [lo, hi], by the table above; shapes as ``lo``.

    An all-zero range gets a harmless scale, never a division by zero.
    """
    levels = 2**bits - 1
    if scheme.startswith("symmetric"):
        top = torch.maximum(lo.abs(), hi.abs())
        top = torch.where(top > 0, top, torch.ones_like(top))
        if scheme == "symmetric_full":
            return 2 * top / levels, torch.full_like(top, 2 ** (bits - 1))
        zero = 0 if scheme == "symmetric" else 2 ** (bits - 1) - 1
        return top / (2 ** (bits - 1) - 1), torch.full_like(top, zero)
    if scheme == "asymmetric":
        lo, hi = lo.clamp(max=0), hi.clamp(min=0)
        empty = lo == hi
        lo = torch.where(empty, -torch.ones_like(lo), lo)
        hi = torch.where(empty, torch.ones_like(hi), hi)
        scale = (hi - lo) / levels
        return scale, round_through(-lo / scale)
    if scheme == "asymmetric_free":
        scale = ((hi - lo) / levels).clamp(1e-5, 1e4)
        return scale, round_through((-lo / scale).clamp(-1e4, 1e4))
    scale = (hi - lo).clamp(min=1e-5) / levels
    return scale, (-round_through(lo / scale)).clamp(0, levels)


def to_integers(x: Tensor, scale: Tensor, zero: Tensor, bits: int, scheme: str) -> Tensor:
    """Integers (as floats) of ``x``; ``scale`` and ``zero`` broadcast over the last dimension."""
    least, most = integer_range(scheme, bits)
    return (round_through(x / scale) + zero).clamp(least, most)


class _Extremes(torch.autograd.Function):
    """Smallest and largest value of each row; equal ones share the gradient.

    What amin and amax do, without their boolean masks, which cost more than all the rest on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        lo, hi = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        ctx.save_for_backward(x, lo, hi)
        return lo, hi

    @staticmethod
    def backward(ctx: Any, to_lo: Tensor, to_hi: Tensor) -> Tensor:
        x, lo, hi = ctx.saved_tensors
        at = x.clone().eq_(hi)  # in place, the result is a float
        to_x = at.mul_(to_hi / at.sum(-1, keepdim=True))
        at = x.clone().eq_(lo)
        out: Tensor = to_x.addcmul_(at, to_lo / at.sum(-1, keepdim=True))
        return out


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest value along the last dimension, (…, 1) each."""
    lo, hi = _Extremes.apply(x)
    return lo, hi


class _FakeQuantize(torch.autograd.Function):
    """s(clamp(round(x/s)+z) - z) with the gradients that autograd would give, in fewer passes.

    Rounding passes gradients straight through; where the integer is clamped, the output depends
    on s and z alone. Saves one tensor of the size of x instead of five.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, least: int, most: int) -> Tensor:
        v = x / scale
        ctx.save_for_backward(v, scale, zero)
        ctx.range = (least, most)
        return v.round().add_(zero).clamp_(least, most).sub_(zero).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        v, scale, zero = ctx.saved_tensors
        least, most = ctx.range
        level = v.round().add_(zero)
        # the gradient where the level is inside, else 0: in one pass, without a boolean mask
        to_x = torch.ops.aten.hardtanh_backward(gradient, level, least - 0.5, most + 0.5)
        # d out / d s is q - z, less x/s where x moves with its level
        q = level.clamp_(least, most).sub_(zero)
        to_scale = q.mul_(gradient).addcmul_(to_x, v, value=-1).sum(-1, keepdim=True)
        to_zero = None
        if ctx.needs_input_grad[2]:
            to_zero = (to_x - gradient).sum(-1, keepdim=True) * scale
        return to_x, to_scale, to_zero, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, bits: int, scheme: str) -> Tensor:
    """The values s(q-z) nearest to ``x``; ``scale`` and ``zero`` are (…, 1)."""
    out: Tensor = _FakeQuantize.apply(x, scale, zero, *integer_range(scheme, bits))
    return out


class Quantizer(nn.Module):
    """Fake quantization of one tensor; 16 bits return the input itself.

    Attributes:
        spec: Bits, scheme, granularity, group size, static or dynamic, clip ratio.
        clip: Learned range factors, or ``None`` (see :class:`~quantexp.quantization.clipping`).
        observing: Takes note of its input's range instead of quantizing it.
        bypassed: Returns its input for now (:meth:`QuantBlock.bypass`).
        zero_gradient: Whether the zero point passes a gradient to the range, straight through its
            rounding; the official codes stop it there.
        low: Stored range of a static quantizer, after :meth:`observe`.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(self, spec: TensorQuantization) -> None:
        super().__init__()
        self.spec = spec
        self.clip: nn.Module | None = None
        self.observing = False
        self.bypassed = False
        self.zero_gradient = False
        self.register_buffer("low", None)
        self.register_buffer("high", None)

    @property
    def active(self) -> bool:
        """Whether the quantizer changes its input."""
        return self.spec.active

    @property
    def before_rope(self) -> bool:
        """Whether it acts on what a projection puts out, not on keys or queries after RoPE."""
        return self.spec.granularity == "per_token_before_rope"

    def forward(self, x: Tensor) -> Tensor:
        """The dequantized tensor, same shape and dtype as ``x``."""
        if not self.active or self.bypassed:
            return x
        if self.observing:
            self.observe(x)
            return x
        if not torch.is_grad_enabled() and self._in_parts(x):
            out = torch.empty_like(x)
            rows, found = (t.view(-1, x.shape[-1]) for t in (x, out))
            for at in pieces(rows):
                found[at] = self._quantized(rows[at])
            return out
        return self._quantized(x)

    def _in_parts(self, x: Tensor) -> bool:
        """Whether rows are taken a few at a time: a processor's cache holds them, not all of x."""
        if x.numel() <= 2 * PIECE or x.device.type != "cpu" or not x.is_contiguous():
            return False
        from quantexp.quantization.clipping import LearnedRange

        alone = self.spec.granularity != "per_tensor" and not self._heads_in_one_row(x)
        return alone and isinstance(self.clip, LearnedRange | None)  # others: factors for each row

    def _quantized(self, x: Tensor) -> Tensor:
        # float16 scales of quiet tokens underflow to 0 / 0, bfloat16 has too few digits for x / s
        groups = self.groups(x.float() if x.element_size() == 2 else x)
        if torch.is_grad_enabled() and (out := self._in_one_step(groups)) is not None:
            return self._ungroup(out, x).to(x.dtype)
        scale, zero = self.parameters_of(groups)
        out = fake_quantize(groups, scale, zero, self.spec.bits, self.spec.scheme)
        return self._ungroup(out, x).to(x.dtype)

    def _in_one_step(self, groups: Tensor) -> Tensor | None:
        """Range, clip and rounding as one autograd step, where ``dynamic.py`` knows the case."""
        from quantexp.quantization import dynamic  # it reads the formulas above
        from quantexp.quantization.clipping import LearnedRange

        spec, clip = self.spec, self.clip
        fixed = self.low is not None and spec.granularity == "per_tensor"
        if spec.clip_ratio != 1.0 or fixed or self.zero_gradient:
            return None
        if spec.scheme not in dynamic.SCHEMES or not isinstance(clip, LearnedRange | None):
            return None
        upper, lower = (None, None) if clip is None else clip.factors(groups.dtype)
        return dynamic.fake_quantize_dynamic(groups, upper, lower, spec.bits, spec.scheme)

    def groups(self, x: Tensor) -> Tensor:
        """``x`` with one group along the last dimension: (…, G, g), or (1, numel) per tensor."""
        if self.spec.granularity == "per_tensor":
            return x.reshape(1, -1)
        if self._heads_in_one_row(x):
            x = x.transpose(1, 2).flatten(2)
        size = self.spec.group_size
        return x.unflatten(-1, (-1, size)) if size else x

    def parameters_of(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero of each group, (…, 1)."""
        if self.spec.dynamic or self.spec.granularity != "per_tensor" or self.low is None:
            lo, hi = extremes(groups)
        else:
            assert self.high is not None
            lo, hi = self.low.to(groups.dtype), self.high.to(groups.dtype)
        if self.clip is not None:
            lo, hi = self.clip(lo, hi)
        if self.spec.clip_ratio != 1.0:
            lo, hi = lo * self.spec.clip_ratio, hi * self.spec.clip_ratio
        scale, zero = scale_and_zero(lo, hi, self.spec.bits, self.spec.scheme)
        return scale, zero if self.zero_gradient else zero.detach()

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Widens the stored range of a static quantizer by what ``x`` holds."""
        lo, hi = x.amin().float().reshape(1, 1), x.amax().float().reshape(1, 1)
        self.low = lo if self.low is None else torch.minimum(self.low, lo)
        self.high = hi if self.high is None else torch.maximum(self.high, hi)

    def _ungroup(self, out: Tensor, x: Tensor) -> Tensor:
        if self._heads_in_one_row(x) and self.spec.granularity != "per_tensor":
            B, H, T, D = x.shape
            return out.reshape(B, T, H, D).transpose(1, 2)
        return out.reshape(x.shape)

    def _heads_in_one_row(self, x: Tensor) -> bool:
        # keys, values and queries come as (B, H, T, D); per token means over all heads
        return self.spec.granularity == "per_token" and x.dim() == 4
