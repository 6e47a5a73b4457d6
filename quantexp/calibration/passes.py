"""Passes of a block without gradients: all windows, as many at once as memory is meant to hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from quantexp.calibration.footprint import TOKENS

if TYPE_CHECKING:
    from quantexp.config import BitsConfig
    from quantexp.quantization.block import QuantBlock

SHORT = TOKENS // 8  # at once, where a device's memory did not hold the usual number

Result = TypeVar("Result")


def once_more(
    work: Callable[[int], Result], bits: BitsConfig, tokens: int = TOKENS
) -> tuple[Result, int]:
    """Work whose passes take so many tokens at once; where that is too much, again with fewer.

    Args:
        work: Given the number of tokens, can be begun anew.
        bits: Of the model; a range that is taken from a whole batch forbids smaller ones.
        tokens: With which it begins.

    Returns:
        What it returned, and how many tokens it took at once.

    Raises:
        torch.OutOfMemoryError: The device's memory is too short for :data:`SHORT` as well.
    """
    try:
        return work(tokens), tokens
    except torch.OutOfMemoryError as error:
        if tokens <= SHORT or bits.per_batch:
            raise
        print(
            f"{error}\nonce more, {SHORT} tokens at once and activations in host memory", flush=True
        )
    torch.cuda.empty_cache()  # here, where the exception no longer holds what did not fit
    return work(SHORT), SHORT


def batches(x: Tensor, tokens: int = TOKENS) -> tuple[Tensor, ...]:
    """Views of (B, T, …), as many windows each as one pass takes."""
    found: tuple[Tensor, ...] = x.split(max(1, tokens // x.shape[1]))
    return found


def largest(x: Tensor) -> float:
    """max|x| of a stream (B, T, C), a pass at a time: nothing as large as the stream is made."""
    ends = [end for part in batches(x) for end in part.aminmax()]
    return float(torch.stack(ends).abs().max())


def hidden_states(out: Any) -> Tensor:
    """What a block returns, alone or first of several."""
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


@torch.no_grad()
def run(
    module: nn.Module,
    x: Tensor,
    kwargs: dict[str, Any],
    device: torch.device,
    out: Tensor | None = None,
    tokens: int = TOKENS,
) -> Tensor:
    """A block on all windows (B, T, C).

    Args:
        module: The block.
        x: Its inputs, wherever they lie.
        kwargs: Its keyword arguments.
        device: Where it runs.
        out: Where outputs go; ``x`` itself, for a stream that nobody reads any more, is allowed.
            ``None``: beside ``x``.
        tokens: At once.
    """
    dtype = next(module.parameters()).dtype
    out = torch.empty_like(x) if out is None else out
    for part, place in zip(batches(x, tokens), batches(out, tokens), strict=True):
        place.copy_(hidden_states(module(part.to(device, dtype), **kwargs)))
    return out


class _AllSeen(Exception):  # noqa: N818 (no error)
    """Every linear that was waited for has had its input: the rest of the block is not needed."""


@torch.no_grad()
def observe(
    quant: QuantBlock,
    observers: Mapping[str, Callable[[Tensor], None]],
    x: Tensor,
    kwargs: dict[str, Any],
    device: torch.device,
    tokens: int = TOKENS,
) -> None:
    """A block on all windows for those who watch; each pass ends behind the last of them.

    Args:
        quant: The block.
        observers: By linear, called with its quantized input (B, T, C). Without any, passes go
            through the whole block, for quantizers that observe.
        x: The block's inputs (B, T, C).
        kwargs: Its keyword arguments.
        device: Where it runs.
        tokens: At once.
    """
    waiting: set[str] = set()

    def told(path: str) -> Callable[[Tensor], None]:
        def observer(seen: Tensor) -> None:
            observers[path](seen)
            waiting.discard(path)
            if not waiting:
                raise _AllSeen

        return observer

    dtype = next(quant.module.parameters()).dtype
    for path in observers:
        quant.linears[path].observer = told(path)
    try:
        for part in batches(x, tokens):
            waiting.update(observers)
            with suppress(_AllSeen):
                quant.module(part.to(device, dtype), **kwargs)
    finally:
        for path in observers:
            quant.linears[path].observer = None
