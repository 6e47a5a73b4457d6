"""Gradient descent on a block's output error: the fit that learned methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from quantexp.errors import CalibrationError

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
    *,
    epochs: int,
    batch_size: int,
    weight_decay: float,
    lr_min: float,
) -> list[float]:
    """Minimizes the mean squared error between the block's outputs and its targets.

    AdamW with a cosine schedule per step from each group's rate to ``lr_min``. The gradient is
    that of the logarithm of the loss (loss / its own value): blocks with large activations do not
    take larger steps. The batch is part of the method and never changes by itself.

    Returns:
        Mean loss of each epoch, as seen during training.

    Raises:
        CalibrationError: The loss is no longer finite; names the block and the epoch.
    """
    optimizer = torch.optim.AdamW(
        [{"params": list(g.parameters), "lr": g.lr} for g in groups if g.parameters],
        weight_decay=weight_decay,
        fused=True,
    )
    count = len(block.inputs)
    batches = -(-count // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches, lr_min)
    losses = []
    for epoch in range(epochs):
        total = torch.zeros((), device=block.device)
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            loss = _step(block, optimizer, block.inputs[part], block.targets[part])
            schedule.step()
            total += loss * len(block.inputs[part])
        losses.append(float(total) / count)
        if not torch.isfinite(total):
            raise CalibrationError(
                f"block {block.index}: the loss is not finite in epoch {epoch + 1} of {epochs} "
                f"(losses so far: {losses}; largest input {float(block.inputs.abs().max()):.3g}): "
                "lower method.lr"
            )
        block.report_loss(losses[-1])
    return losses


def _step(
    block: CalibrationBlock, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> Tensor:
    """One step on a batch; the loss, detached, without waiting for the device."""
    block.quant.refresh()
    loss = mse_loss(block.forward(inputs), targets.to(block.device))
    optimizer.zero_grad(set_to_none=True)
    (loss / loss.detach().clamp(min=torch.finfo(loss.dtype).tiny)).backward()
    optimizer.step()
    return loss.detach()
