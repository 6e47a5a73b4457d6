"""Gradient descent on a block's output error: the fit that learned methods share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.nn.functional import mse_loss

from quantexp.calibration.passes import largest
from quantexp.errors import NumericalError
from quantexp.precision import products

if TYPE_CHECKING:
    from quantexp.calibration.blocks import CalibrationBlock


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    lr: float


@contextmanager
def reproducible() -> Iterator[None]:
    """Within it, what has no deterministic kernel on an accelerator is an error, not a warning.

    PyTorch's attention takes its deterministic backward only then.
    """
    if not torch.are_deterministic_algorithms_enabled():  # on a CPU all are deterministic
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


@reproducible()
@products("float32")
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

    AdamW; the batch is part of the method and never changes by itself (where memory is short, it
    is read in parts). The block's rung of the numerical ladder decides on 16-bit products, on a
    factor of the learning rates, and whether anything is trained at all.

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
    """One step on a batch; the loss, detached, without waiting for the device.

    Where the device has too little memory for the batch, its windows are read in smaller parts,
    and their gradients added: the same step but for rounding. The optimizer's own state is not
    part of that, since a step cannot be taken back.
    """
    while True:
        size = min(block.micro_batch or len(inputs), len(inputs))
        try:
            loss = _gradients(block, optimizer, inputs.split(size), targets, log_loss)
            break
        except torch.OutOfMemoryError as error:
            refusal = _cannot_split(block, size)
            if refusal:
                raise torch.OutOfMemoryError(f"{error} {refusal}") from error
            print(f"block {block.index}: {error}", flush=True)
        except RuntimeError as error:
            # not LinAlgError and the like, and once: it is not raised where it is only a warning
            if "deterministic" not in str(error):
                raise
            torch.use_deterministic_algorithms(True, warn_only=True)
            print(f"block {block.index} will not be the same to the bit again: {error}", flush=True)
            continue
        # here, where the exception no longer holds the activations that did not fit
        block.micro_batch = size // 2
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        print(f"goes on in micro-batches of {block.micro_batch} windows", flush=True)
    optimizer.step()
    return loss


def _gradients(
    block: CalibrationBlock,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Tensor],
    targets: Sequence[Tensor],
    log_loss: bool,
) -> Tensor:
    """Puts the gradient of a batch in parts where the optimizer reads it; the batch's loss."""
    optimizer.zero_grad(set_to_none=True)
    count = sum(map(len, parts))
    total: Tensor | None = None
    scale: Tensor | float = 1.0
    start = 0
    for part in parts:
        block.quant.refresh()
        with block.products():
            out = block.forward(part)
        out = out.float()
        wanted = [t[start : start + len(part)].to(out.device, out.dtype) for t in targets]
        loss = torch.stack([mse_loss(out, t) for t in wanted]).sum()
        if log_loss and total is None:
            # the batch's own loss is known at the end only; in 16 bits gradients must not vanish
            scale = _positive(loss)
        share = len(part) / count
        (loss / scale if share == 1 else loss * share / scale).backward()
        total = (
            loss.detach() if share == 1 else loss.detach() * share + (0 if total is None else total)
        )
        start += len(part)
    assert total is not None
    if log_loss and len(parts) > 1:
        factor = scale / _positive(total)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)
    return total


def _positive(loss: Tensor) -> Tensor:
    return loss.detach().clamp(min=torch.finfo(loss.dtype).tiny)


def _cannot_split(block: CalibrationBlock, size: int) -> str:
    """Why a batch cannot be read in smaller parts than ``size`` windows; empty if it can."""
    fix = "take a GPU with more memory (cluster.gpu_type, or another partition)"
    if size == 1:
        return f"(with one window at a time: {fix}, or shorter windows, data.seq_len)"
    for name, quantizer in block.quant.quantizers():
        if quantizer.spec.per_batch:
            return f"(the range of {name} spans the batch, so it cannot be split: {fix})"
    return ""


def _failure(
    block: CalibrationBlock, epoch: int, epochs: int, losses: Sequence[float], what: str
) -> NumericalError:
    parameters = block.quant.module.named_parameters()
    broken = [name for name, p in parameters if not torch.isfinite(p).all()]
    return NumericalError(
        f"block {block.index}, epoch {epoch + 1} of {epochs}: {what} (losses so far: "
        f"{[round(x, 6) for x in losses]}; largest input {largest(block.inputs):.3g}, "
        f"largest target {largest(block.targets):.3g}; first parameter that is not "
        f"finite: {broken[0] if broken else 'none'})"
    )
