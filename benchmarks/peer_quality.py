"""How far a quantized model is from the one it was made of, by one code for all packages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from transformers.utils import logging


class Judge:
    """Perplexity and logits of dequantized weights on the same windows.

    Attributes:
        exact: Logits (B, T, V) of the unquantized model.
        perplexity: Its perplexity.
    """

    def __init__(self, model: str, windows: Tensor) -> None:
        logging.disable_progress_bar()
        self._path, self._windows = model, windows
        self.exact = self._logits(self._load())
        self.perplexity = self._perplexity(self.exact)

    def __call__(self, weights: Path, activation_bits: int) -> dict[str, float]:
        """``perplexity``, and ``logit_error`` = ‖ŷ - y‖/‖y‖.

        Args:
            weights: Dequantized weights and norms of all blocks; each must be in the model.
            activation_bits: Inputs of the blocks' linears, one symmetric range per token.
        """
        model, state = self._load(), load_file(weights)
        expected = {k for k in model.state_dict() if k.startswith("model.layers.")}
        if set(state) != expected:
            raise ValueError(f"{weights}: not the blocks' weights: {set(state) ^ expected}")
        model.load_state_dict(state, strict=False)
        if activation_bits < 16:
            for module in model.model.layers.modules():
                if isinstance(module, nn.Linear):
                    module.register_forward_pre_hook(
                        lambda _, args: (_by_token(args[0], activation_bits), *args[1:])
                    )
        found = self._logits(model)
        error = float((found - self.exact).norm() / self.exact.norm())
        return {"perplexity": self._perplexity(found), "logit_error": error}

    def _load(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self._path, dtype=torch.float32).eval()

    @torch.no_grad()
    def _logits(self, model: Any) -> Tensor:
        parts = torch.split(self._windows, 8)
        return torch.cat([model(part).logits for part in parts])

    def _perplexity(self, logits: Tensor) -> float:
        nll = cross_entropy(logits[:, :-1].transpose(1, 2), self._windows[:, 1:])
        return math.exp(float(nll))


def _by_token(x: Tensor, bits: int) -> Tensor:
    top = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / top
    rounded: Tensor = (x / scale).round().clamp(-top - 1, top) * scale
    return rounded
