"""Gradient descent on a block's output error: the fit that learned methods share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.nn.functional import mse_loss

from quantexp.errors import NumericalError

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    lr: float


def fit_output(
    block: CalibrationBlock,
    groups: Sequence[ParameterGroup],
    inputs: Tensor,
    targets: Sequence[Tensor],
    *,
    epochs: int,
    batch_size: int,
    weight_decay: float,
    lr_min: float | None = None,
    log_loss: bool = False,
) -> list[float]:
    """Minimizes the mean squared error between the block's outputs and its targets.

    AdamW; the batch is part of the method and never changes by itself. The block's rung of the
    numerical ladder decides on 16-bit products, on a factor of the learning rates, and whether
    anything is trained at all.

    Args:
        block: The block, its transforms and clips installed.
        groups: What is learned, at which rate.
        inputs: (B, T, C), in the order in which they are read.
        targets: One or several (B, T, C); their errors are added.
        epochs: Passes over the inputs.
        batch_size: Windows per step.
        weight_decay: AdamW's.
        lr_min: Where a cosine schedule per step ends, for a group's rate and everyone alike;
            ``None`` keeps the rates.
        log_loss: The gradient is that of the logarithm of the loss (loss / its own value): blocks
            with large activations do not take larger steps.

    Returns:
        Mean loss of each epoch, as seen during training.

    Raises:
        NumericalError: The loss is no longer finite; names the block, the epoch and norms.
    """
    rung = block.rung
    if not rung.trained:
        return []
    optimizer = torch.optim.AdamW(
        [
            {"params": list(g.parameters), "lr": g.lr * rung.lr_factor}
            for g in groups
            if g.parameters
        ],
        weight_decay=weight_decay,
        fused=True,
    )
    count = len(inputs)
    batches = -(-count // batch_size)
    schedule = None
    if lr_min is not None:
        lr_min *= rung.lr_factor
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches, lr_min)
    losses: list[float] = []
    for epoch in range(epochs):
        total = torch.zeros((), device=block.device)
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            try:
                loss = _step(block, optimizer, inputs[part], [t[part] for t in targets], log_loss)
            except LinAlgError as error:
                raise _failure(block, epoch, epochs, losses, f"{error}") from error
            if schedule is not None:
                schedule.step()
            total += loss * len(inputs[part])
        losses.append(float(total) / count)
        if not math.isfinite(losses[-1]):
            raise _failure(block, epoch, epochs, losses, "the loss is not finite")
        block.report_loss(losses[-1])
    return losses


def _step(
    block: CalibrationBlock,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Sequence[Tensor],
    log_loss: bool,
) -> Tensor:
    """One step on a batch; the loss, detached, without waiting for the device."""
    block.quant.refresh()
    with block.products():
        out = block.forward(inputs)
    out = out.float()
    loss = torch.stack([mse_loss(out, t.to(out.device, out.dtype)) for t in targets]).sum()
    optimizer.zero_grad(set_to_none=True)
    scale = loss.detach().clamp(min=torch.finfo(loss.dtype).tiny) if log_loss else 1
    (loss / scale).backward()
    optimizer.step()
    return loss.detach()


def _failure(
    block: CalibrationBlock, epoch: int, epochs: int, losses: Sequence[float], what: str
) -> NumericalError:
    parameters = block.quant.module.named_parameters()
    broken = [name for name, p in parameters if not torch.isfinite(p).all()]
    return NumericalError(
        f"block {block.index}, epoch {epoch + 1} of {epochs}: {what} (losses so far: "
        f"{[round(x, 6) for x in losses]}; largest input {float(block.inputs.abs().max()):.3g}, "
        f"largest target {float(block.targets.abs().max()):.3g}; first parameter that is not "
        f"finite: {broken[0] if broken else 'none'})"
    )
