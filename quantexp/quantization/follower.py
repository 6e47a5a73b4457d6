"""A layer that reads a transformed tensor and is not quantized: a mixture's router."""

from __future__ import annotations

import torch
from torch import nn

from quantexp.quantization.transforms import Transform


class Follower:
    """Keeps a layer's function while its input is transformed: its weight (O, C) undoes that.

    Args:
        layer: Anything with a parameter ``weight`` and without a bias.
        transform: Of its input.
    """

    def __init__(self, layer: nn.Module, transform: Transform) -> None:
        weight = layer.weight
        assert isinstance(weight, nn.Parameter)
        # OmniQuant's check_model has refused what only a bias could undo
        assert transform.bias_in(weight, None) is None
        self._layer, self._transform, self._weight = layer, transform, weight
        del layer._parameters["weight"]
        self._hook = layer.register_forward_pre_hook(self._derive)

    def _derive(self, *_: object) -> None:
        self._layer.weight = self._transform.weight_in(self._weight)

    @torch.no_grad()
    def merge(self) -> None:
        """Folds the transform into the weight, in float64."""
        self._hook.remove()
        self._layer.__dict__.pop("weight", None)
        merged = self._transform.weight_in(self._weight.double()).to(self._weight.dtype)
        self._layer.weight = nn.Parameter(merged, requires_grad=False)
