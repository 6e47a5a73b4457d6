"""Perplexity by the papers' protocol, streamed block by block.

Non-overlapping windows of one text; each window is scored alone, its first token only as context:
perplexity = exp(mean over windows of the mean cross-entropy over T-1 shifted tokens). Every window
has the same length, so this is also exp(total NLL / total predictions).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quantexp.calibration.activations import Store
from quantexp.calibration.footprint import LOGITS, TOKENS
from quantexp.calibration.passes import run
from quantexp.host import give_back
from quantexp.models.load import StreamedModel


@torch.no_grad()
def window_nll(
    model: StreamedModel,
    block: Callable[[int], nn.Module],
    windows: Tensor,
    progress: Callable[[int], None],
    store: Store | None = None,
    tokens: int = TOKENS,
) -> list[float]:
    """Negative log-likelihood of each window, in nats, summed over its T-1 predictions.

    Args:
        model: Embedding, head and the blocks' keyword arguments.
        block: Block by index, quantized or not, in ``model.compute``.
        windows: Token ids (B, T).
        progress: Told the number of finished blocks.
        store: Where hidden states lie between blocks; ``None``: in host memory.
        tokens: That pass through a block at once.
    """
    kwargs = model.block_kwargs(windows.shape[1], model.compute)
    store = store or Store("host", model.device)
    hidden = store.empty((*windows.shape, model.source.hidden), model.compute)
    model.embed(windows, model.compute, hidden)
    for index in range(model.blocks):
        progress(index)
        give_back()
        run(block(index), hidden, kwargs[index], model.device, hidden, tokens)
    give_back()
    head = model.head(model.compute)
    vocabulary = int(model.source.config["vocab_size"])
    size = max(1, LOGITS // (4 * vocabulary * windows.shape[1]))
    found: list[float] = []
    for part, ids in zip(hidden.split(size), windows.split(size), strict=True):
        logits = head(part.to(model.device))[:, :-1].float()
        labels = ids[:, 1:].to(model.device)
        nll = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        found += nll.double().sum(1).tolist()
    progress(model.blocks)
    return found


def perplexity(nll: list[float], predictions: int) -> float:
    """exp of the mean negative log-likelihood; ``inf`` where it overflows, ``nan`` stays."""
    mean = math.fsum(nll) / (len(nll) * predictions)
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def details(windows: Tensor, nll: list[float], tokenizer: Any) -> dict[str, Any]:
    """The protocol of one measurement, for its record."""
    return {
        "seq_len": windows.shape[1],
        "stride": windows.shape[1],
        "windows": windows.shape[0],
        "predictions": windows.shape[0] * (windows.shape[1] - 1),
        "bos": _bos(windows, getattr(tokenizer, "bos_token_id", None)),
        "window_nll": nll,
    }


def _bos(windows: Tensor, bos: int | None) -> str:
    if bos is None or windows[0, 0] != bos:
        return "none"
    return "once, at the start" if int((windows == bos).sum()) == 1 else "before each document"
