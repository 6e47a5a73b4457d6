"""What a fit did to a block: clip ratios, condition numbers, error before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantexp.quantization.clipping import LearnedClamp, LearnedRange, WeightRange

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock
    from quantexp.quantization.block import QuantBlock

WINDOWS = 4  # of the calibration data, on which the block's error is measured


@torch.no_grad()
def error(block: CalibrationBlock) -> float:
    """Relative squared error ‖ŷ - y‖²/‖y‖² of the block's output on the first windows.

    Both outputs are for inputs of the unquantized model.
    """
    wrong = total = 0.0
    for x, y in zip(block.inputs[:WINDOWS], block.targets[:WINDOWS], strict=True):
        target = y.to(block.device)
        wrong += float((block.forward(x[None])[0] - target).square().sum())
        total += float(target.square().sum())
    return wrong / total if total else 0.0


@torch.no_grad()
def rounded_error(block: CalibrationBlock) -> float:
    """The same for weights rounded to nearest, before anything is fitted."""
    linears = block.quant.linears.values()
    for linear in linears:
        linear.fitting = True
    found = error(block)
    for linear in linears:
        linear.fitting = False
    return found


@torch.no_grad()
def fitted(quant: QuantBlock) -> dict[str, Any]:
    """Clip ratios (mean and least) and condition numbers of a fitted, not yet merged block."""
    quant.refresh()
    clips: dict[str, Any] = {}
    for path, linear in quant.linears.items():
        if isinstance(linear.clamp, LearnedClamp):
            clips[f"{path}.weight"] = _ratios(torch.sigmoid(linear.clamp.logits))
        if linear.final_clamp is not None:
            clips[f"{path}.weight"] = _ratios(linear.final_clamp.ratio)
        if isinstance(linear.weight_quantizer.clip, WeightRange):
            clips[f"{path}.weight"] = _ratios(torch.sigmoid(linear.weight_quantizer.clip.logits))
    for name, quantizer in quant.quantizers():
        if isinstance(quantizer.clip, LearnedRange):
            clips[name] = _ratios(torch.sigmoid(quantizer.clip.logits))
    conditions = {name: found for name, t in quant.transforms.items() if (found := t.conditions())}
    if quant.attention.transform is not None:
        conditions["key"] = quant.attention.transform.conditions()
    report = {"clip_ratios": clips, "condition_numbers": conditions}
    return {key: value for key, value in report.items() if value}


def _ratios(ratio: Tensor) -> dict[str, float]:
    return {"mean": round(float(ratio.mean()), 6), "min": round(float(ratio.min()), 6)}
