"""Weights that a model keeps together and that are quantized apart: fused projections, experts.

Query, key and value rows of one matrix have scales, clips and transforms of their own, and so has
each expert of a mixture. Split into linears, every method treats them like those of other models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quantexp.config import BitsConfig
from quantexp.models.architectures import Fused, Ranges
from quantexp.quantization.linear import QuantLinear


class FusedLinear(nn.Module):
    """One linear (C → O) as its parts, whose outputs are put where the model expects them."""

    order: Tensor | None

    def __init__(self, linear: nn.Linear, fused: Fused, bits: BitsConfig) -> None:
        super().__init__()
        rows = []
        for name, ranges in fused.parts:
            index = _index(ranges, linear.weight.device)
            rows.append(index)
            bias = None if linear.bias is None else linear.bias[index]
            self.add_module(name, _linear(linear.weight[index], bias, bits))
        joined = torch.cat(rows)
        assert len(joined) == len(linear.weight), f"{fused.path}: parts are not the whole"
        order = joined.argsort()
        in_order = bool((order[1:] > order[:-1]).all())
        self.register_buffer("order", None if in_order else order, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → (…, O)."""
        out = torch.cat([part(x) for part in self.children()], -1)
        return out if self.order is None else out.index_select(-1, self.order)


class QuantExperts(nn.Module):
    """The experts of a mixture, each a gated MLP of three linears."""

    def __init__(self, experts: nn.Module, bits: BitsConfig) -> None:
        super().__init__()
        self.act_fn: Any = experts.act_fn
        gate_up, down = experts.gate_up_proj, experts.down_proj
        assert isinstance(gate_up, Tensor)
        assert isinstance(down, Tensor)
        self.count = len(down)
        for index, (first, second) in enumerate(zip(gate_up, down, strict=True)):
            gate, up = first.chunk(2)
            parts = {"gate": gate, "up": up, "down": second}
            made = {name: _linear(weight.clone(), None, bits) for name, weight in parts.items()}
            self.add_module(str(index), nn.ModuleDict(made))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Tokens (N, C) with their experts (N, K) and the experts' weights (N, K) → (N, C)."""
        out = torch.zeros_like(x)
        for index in range(self.count):
            expert = self.get_submodule(str(index))
            assert isinstance(expert, nn.ModuleDict)
            place, token = torch.where((chosen == index).T)
            if len(token):
                inner = x[token]
                inner = expert["down"](self.act_fn(expert["gate"](inner)) * expert["up"](inner))
                inner = inner * weights[token, place, None]
                out = out.index_add(0, token, inner.to(out.dtype))
        return out


def _linear(weight: Tensor, bias: Tensor | None, bits: BitsConfig) -> QuantLinear:
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return QuantLinear(linear, bits)


def _index(ranges: Ranges, device: torch.device) -> Tensor:
    return torch.cat([torch.arange(first, end, device=device) for first, end in ranges])
