"""A linear layer whose weight and input are quantized, from fitting to the packed checkpoint.

Three states. *Fitting*: the weight is transformed, clamped and fake-quantized at every call, with
gradients. *Merged*: transforms and clamps are folded into a floating-point weight. *Rounded*: the
weight is what the integers say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantexp.config import BitsConfig
from quantexp.quantization.clipping import FixedClamp, LearnedClamp, WeightRange, clamp_rows
from quantexp.quantization.packing import pack, unpack
from quantexp.quantization.quantizer import Quantizer, integer_range
from quantexp.quantization.rounding import Factors, IntegerWeight
from quantexp.quantization.transforms import Online, Transform


class QuantLinear(nn.Module):
    """y = Q(x) Q(W)ᵀ + b, and Q(y) where keys or queries are quantized before RoPE.

    Attributes:
        weight: (O, C), a parameter that is never trained.
        site: Transform of the site that this layer reads; its inverse acts on the columns.
        heads: Transform that acts on the rows, within each head (value, query, key), or ``None``.
        clamp: Learned clamp of the weight, or ``None``.
        final_clamp: Clamp of the weight as it will be rounded, or ``None``.
        clamp_first: Whether it acts on the weight as it is, before the transforms.
        online: Online transform of the input, where no norm carries it.
        fitting: Whether weights are derived from the parameters at every call.
        output_quantizer: Quantizer of the output, shared with the attention, or ``None``.
        siblings: Linears of the same site whose small weights are derived in one go, or ``None``.
        observer: Called with the quantized input (B, T, C), for Hessians and ranges.
    """

    bias: Tensor | None

    def __init__(self, linear: nn.Linear, bits: BitsConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        bias = linear.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.input_quantizer = Quantizer(bits.activation)
        self.weight_quantizer = Quantizer(bits.weight)
        self.output_quantizer: Quantizer | None = None
        self.site: Transform | None = None
        self.heads: Transform | None = None
        self.clamp: LearnedClamp | None = None
        self.final_clamp: FixedClamp | None = None
        self.clamp_first = False
        self.online: Transform | Online | None = None
        self.fitting = False
        self.siblings: Siblings | None = None
        self.integers: IntegerWeight | None = None
        self.observer: Callable[[Tensor], None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, O)."""
        if self.online is not None:
            x = self.online(x)
        x = self.input_quantizer(x)
        if self.observer is not None:
            self.observer(x)
        weight, bias = self._used()
        out = functional.linear(x, weight, bias)
        return out if self.output_quantizer is None else self.output_quantizer(out)

    def _used(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a forward pass."""
        if not self.fitting:
            return self.weight, self.bias
        if self.siblings is not None:
            return self.siblings.derived(self)
        weight, bias = self.derived()
        return self.weight_quantizer(weight), bias

    def derived(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias after input transform, clamp, output transform and final clamp.

        The clamp comes before the input transform if ``clamp_first``.
        """
        weight, bias = self._transformed()
        if self.final_clamp is not None:
            weight = self.final_clamp(weight)
        return weight, bias

    def _transformed(self) -> tuple[Tensor, Tensor | None]:
        weight: Tensor = self.weight
        bias = self.bias
        if self.clamp is not None and self.clamp_first:
            weight = self.clamp(weight)
        if self.site is not None:
            bias = self.site.bias_in(weight, bias)
            weight = self.site.weight_in(weight)
        if self.clamp is not None and not self.clamp_first:
            weight = self.clamp(weight)
        if self.heads is not None:
            weight, bias = self.heads.weight_out(weight, bias)
        return weight, bias

    @torch.no_grad()
    def merge(self) -> None:
        """Folds what fitting learned into the weight, in float64; :meth:`finish` comes later."""
        if self.site is not None or self.heads is not None or self.clamp is not None:
            own = self.weight.dtype
            self.weight.data = self.weight.data.double()
            weight, bias = self._transformed()
            self.weight.data = weight.to(own)
            if bias is not None:
                self.bias = nn.Parameter(bias.to(own), requires_grad=False)
        self.site, self.heads, self.clamp, self.siblings = None, None, None, None
        self.fitting = False

    @torch.no_grad()
    def finish(self) -> None:
        """Clamps the merged weight, once its rows have the scale in which they are rounded.

        Where a clamp cuts both ends, an asymmetric scheme's zero point is a tie (3.5 at 3 bits)
        that the last bit of the weight decides: it must be the bit that the search saw.
        """
        if self.final_clamp is not None:
            self.weight.data = self.final_clamp(self.weight.data)
            self.final_clamp = None

    def range_factors(self) -> Factors | None:
        """Learned factors of the weight's ranges, if there are any."""
        clip = self.weight_quantizer.clip
        return clip.factors() if isinstance(clip, WeightRange) else None

    @torch.no_grad()
    def set_integers(self, rounded: IntegerWeight) -> None:
        """The weight becomes what the integers say."""
        self.integers = rounded
        self.weight.data = rounded.dequantize(self.weight.dtype)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the checkpoint: packed integers, scale, zero, bias, online parts."""
        found: dict[str, Tensor] = {}
        if self.integers is None:
            found["weight"] = self.weight.data
        else:
            spec = self.integers.spec
            least, _ = integer_range(spec.scheme, spec.bits)
            found["packed"] = pack(self.integers.integers, spec.bits, least)
            found["scale"] = self.integers.scale
            if not spec.scheme.startswith("symmetric"):
                found["zero"] = self.integers.zero
            if self.integers.group_index is not None:
                found["group_index"] = self.integers.group_index
        if self.bias is not None:
            found["bias"] = self.bias.data
        return found

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        own = self.weight.dtype
        if "bias" in state:
            self.bias = nn.Parameter(state["bias"].to(own), requires_grad=False)
        if "packed" not in state:
            self.weight.data = state["weight"].to(own)
            return
        spec = self.weight_quantizer.spec
        least, _ = integer_range(spec.scheme, spec.bits)
        integers = unpack(state["packed"], spec.bits, least, self.weight.shape[1])
        zero = state.get("zero")
        if zero is None:
            fixed = {"symmetric": 0, "symmetric_full": 2 ** (spec.bits - 1)}
            constant = fixed.get(spec.scheme, 2 ** (spec.bits - 1) - 1)
            zero = torch.full_like(state["scale"], constant, dtype=torch.int16)
        group_index = state.get("group_index")
        self.set_integers(IntegerWeight(integers, state["scale"], zero, spec, group_index))


class Siblings:
    """Fitted weights of the linears of one site, derived together: once per step, on first use.

    Rows do not see each other, so the result is that of :meth:`QuantLinear.derived` and the weight
    quantizer for each. Worth it where weights are so small that starting an operation costs more
    than the operation.
    """

    LARGEST = 1 << 20  # elements of all weights together

    def __init__(self, linears: Sequence[QuantLinear]) -> None:
        self._linears = list(linears)
        self._found: dict[int, tuple[Tensor, Tensor | None]] = {}

    @classmethod
    def possible(cls, linears: Sequence[QuantLinear]) -> bool:
        """Whether the linears' weights are small and quantized by row, clamped all or none."""
        quantizer = linears[0].weight_quantizer
        return (
            len(linears) > 1
            and sum(linear.weight.numel() for linear in linears) <= cls.LARGEST
            and len({linear.clamp is None for linear in linears}) == 1
            and all(x.weight_quantizer.clip is None and x.final_clamp is None for x in linears)
            and quantizer.spec.granularity == "per_channel"
        )

    def invalidate(self) -> None:
        """Parameters have changed."""
        self._found = {}

    def derived(self, linear: QuantLinear) -> tuple[Tensor, Tensor | None]:
        """Fake-quantized weight, and bias, of one of the linears."""
        if not self._found:
            self._derive()
        return self._found[id(linear)]

    def _derive(self) -> None:
        linears = self._linears
        weight = torch.cat([linear.weight for linear in linears])
        site, clamp_first = linears[0].site, linears[0].clamp_first
        clamps: list[Tensor] = [x.clamp.logits for x in linears if x.clamp is not None]
        if clamps and clamp_first:
            weight = clamp_rows(weight, torch.cat(clamps, 1))
        if site is not None:
            weight = site.weight_in(weight)
        if clamps and not clamp_first:
            weight = clamp_rows(weight, torch.cat(clamps, 1))
        rows = [len(linear.weight) for linear in linears]
        biases = [linear.bias for linear in linears]
        if site is not None:
            biases = [site.bias_in(linear.weight, linear.bias) for linear in linears]
        if any(linear.heads is not None for linear in linears):
            parts = list(weight.split(rows))
            for i, linear in enumerate(linears):
                if linear.heads is not None:
                    parts[i], biases[i] = linear.heads.weight_out(parts[i], biases[i])
            weight = torch.cat(parts)
        parts = list(linears[0].weight_quantizer(weight).split(rows))
        found = zip(linears, parts, biases, strict=True)
        self._found = {id(linear): (part, bias) for linear, part, bias in found}
