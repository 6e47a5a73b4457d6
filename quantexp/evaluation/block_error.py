"""Error of each block's output: the quantized model's stream against the unquantized one's.

Measured from the stored integers on the calibration windows, in the same way for all methods, so
that the block where two methods part is visible. Errors of earlier blocks are in it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.calibration import shared
from quantexp.calibration.footprint import TOKENS
from quantexp.calibration.passes import run
from quantexp.calibration.sampling import token_hash
from quantexp.host import give_back
from quantexp.models.load import StreamedModel


@torch.no_grad()
def block_errors(
    model: StreamedModel,
    block: Callable[[int], nn.Module],
    windows: Tensor,
    progress: Callable[[int], None],
    tokens: int = TOKENS,
) -> list[dict[str, float]]:
    """``mse`` and ``sqnr_db`` of each block's output.

    SQNR = 10 log10(Σy² / Σ(y-ŷ)²), in dB; infinite where nothing differs.

    Args:
        model: The unquantized model.
        block: Quantized block by index, in ``model.compute``.
        windows: Token ids (B, T).
        progress: Told the number of finished blocks.
        tokens: That pass through a block at once.
    """
    kwargs = model.block_kwargs(windows.shape[1], model.compute)
    key = ("block errors", *model.identity, token_hash(windows), model.compute, tokens)
    exact = quantized = model.embed(windows, model.compute)
    found = []
    for index in range(model.blocks):
        progress(index)
        give_back()
        exact = shared.here.get(
            (*key, index),
            partial(_exact, model, index, exact, kwargs[index], tokens),
        )
        quantized = run(block(index), quantized, kwargs[index], model.device, tokens=tokens)
        noise = (exact.float() - quantized.float()).square().mean()
        signal = exact.float().square().mean()
        sqnr = 10 * torch.log10(signal / noise)
        found.append({"block": index, "mse": float(noise), "sqnr_db": float(sqnr)})
    progress(model.blocks)
    return found


def _exact(
    model: StreamedModel, index: int, x: Tensor, kwargs: dict[str, Any], tokens: int
) -> Tensor:
    return run(model.block(index, model.compute), x, kwargs, model.device, tokens=tokens)
