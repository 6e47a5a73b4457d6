"""O19: with all bits at 16, what a method makes of a model computes the same function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    calibrated,
    logits,
    make_config,
    plain_blocks,
    quick,
    stored_blocks,
    streamed,
    windows,
)
from torch import Tensor

from quantexp.calibration.passes import run
from quantexp.calibration.weights import WeightRounding
from quantexp.config import ExperimentConfig
from quantexp.errors import ConfigError
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.quantizer import Quantizer

TOKENS = windows()


@dataclass
class Followed:
    """Logits of the same windows: unquantized, while fitting, merged, and from the disk."""

    exact: Tensor
    fitted: Tensor
    merged: Tensor
    stored: Tensor


def follow(
    monkeypatch: pytest.MonkeyPatch,
    config: ExperimentConfig,
    folder: Path,
    dtype: torch.dtype,
    stored: torch.dtype,
    tokens: Tensor = TOKENS,
) -> Followed:
    """Calibrates and runs, beside it, each block as it is just before and just after merging."""
    model = streamed(config)
    model.stored = stored
    kwargs = model.block_kwargs(tokens.shape[1], dtype)
    fitted = merged = model.embed(tokens, dtype)
    index = 0
    original = QuantBlock.merge

    def merge(quant: QuantBlock, stored: torch.dtype) -> None:
        nonlocal fitted, merged, index
        quant.start_fitting()  # also for a method that fits nothing by gradients
        with torch.no_grad():
            quant.refresh()
        fitted = run(quant.module, fitted, kwargs[index], model.device)
        original(quant, stored)
        merged = run(quant.module, merged, kwargs[index], model.device)
        index += 1

    monkeypatch.setattr(QuantBlock, "merge", merge)
    checkpoint = calibrated(model, config, tokens, folder)
    head = model.head(dtype)
    with torch.no_grad():
        return Followed(
            logits(model, plain_blocks(model, dtype), tokens, dtype),
            head(fitted.to(model.device)).cpu(),
            head(merged.to(model.device)).cpu(),
            logits(model, stored_blocks(model, config, checkpoint, dtype), tokens, dtype),
        )


def unrounded(path: Path, method: str, **options: Any) -> ExperimentConfig:
    """All tensors look quantized to the method; of weights only where it asks for it."""
    try:
        return make_config(path, method, (16, 8, 8, 8), options=quick(method, **options))
    except ConfigError:
        return make_config(path, method, (4, 8, 8, 8), options=quick(method, **options))


def transparent(monkeypatch: pytest.MonkeyPatch) -> None:
    """All quantizers have, in effect, 16 bits; methods install their transforms all the same."""
    monkeypatch.setattr(Quantizer, "forward", lambda self, x: x)
    monkeypatch.setattr(WeightRounding, "round", lambda _: {})
