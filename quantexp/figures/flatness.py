"""Measures what FlatQuant's figures 1 and 2 show: how flat channels are, where errors arise.

Four models of one bit setting run side by side, block by block, on the same windows: rounded as
they are, after per-channel scaling (a SmoothQuant cell), after a Hadamard transform of every site
(computed here), and after FlatQuant (a cell). Cells enter as their checkpoints: weights are those
of the integers, errors those of what would ship.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quantexp.calibration import data
from quantexp.calibration.blocks import FIT_DTYPE, rebuild
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.calibration.passes import run
from quantexp.calibration.sampling import token_hash
from quantexp.config import ExperimentConfig
from quantexp.experiment import record
from quantexp.experiment.cell import Cell, model_name
from quantexp.figures.variants import HADAMARD, ORIGINAL, order
from quantexp.models.architectures import Site
from quantexp.models.load import StreamedModel
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.hadamard import Fixed, hadamard, transform
from quantexp.quantization.rounding import rtn
from quantexp.quantization.transforms import Heads, Kronecker

WINDOWS = 8  # of the first test set

Source = Callable[[int], QuantBlock]


@torch.no_grad()
def measure(
    cells: Sequence[Cell], block: int | None, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Channel magnitudes of one block, flatness of all, and the error surface, as plain data.

    Args:
        cells: Finished cells of one model and bit setting, one per label, with checkpoints.
        block: Whose sorted channel magnitudes are kept; ``None``: the middle one.
        progress: Told of finished blocks, and how many there are.

    Returns:
        ``channels[site][tensor][variant]``: sorted magnitudes; ``flatness``: one entry per block,
        site and tensor; ``mse[variant][block][token]``: see :func:`squared_errors`.

    Raises:
        DataError: A checkpoint is damaged, or a text is missing.
    """
    first = cells[0]
    model = StreamedModel(first.model, first.config.model)
    windows = _windows(first, model)
    kept = model.blocks // 2 if block is None else block
    variants = _variants(model, cells)
    kwargs = model.block_kwargs(windows.shape[1], FIT_DTYPE)
    exact = model.embed(windows, FIT_DTYPE)
    streams = dict.fromkeys(variants, exact)
    channels: dict[str, Any] = {}
    flatness: list[dict[str, Any]] = []
    mse: dict[str, list[list[float]]] = {name: [] for name in variants}
    for index in range(model.blocks):
        progress(index, model.blocks)
        found: dict[tuple[str, str], dict[str, Tensor]] = {}
        target = run(model.block(index, FIT_DTYPE), exact, kwargs[index], model.device)
        for name, source in variants.items():
            quant = source(index)
            forward = kwargs[index]
            for key, magnitudes in _magnitudes(quant, exact, forward, model.device).items():
                found.setdefault(key, {})[name] = magnitudes
            streams[name] = run(quant.module, streams[name], forward, model.device)
            mse[name].append(squared_errors(target, streams[name]).tolist())
        for (site, tensor), of in found.items():
            unevenness = {name: unflatness(magnitudes) for name, magnitudes in of.items()}
            flatness.append({"block": index, "site": site, "tensor": tensor, **unevenness})
            if index == kept:
                sorted_ = {n: m.sort(descending=True).values.tolist() for n, m in of.items()}
                channels.setdefault(site, {})[tensor] = sorted_
        exact = target
    progress(model.blocks, model.blocks)
    return {
        "kind": "flatness",
        "model": model_name(first),
        "bits": first.config.bits.label,
        "cells": [cell.id for cell in cells],
        "block": kept,
        "windows": len(windows),
        "token_hash": token_hash(windows),
        "channels": channels,
        "flatness": flatness,
        "mse": mse,
        "mean_mse": {name: float(torch.tensor(of).mean()) for name, of in mse.items()},
        "time": record.now(),
        "provenance": record.provenance(),
    }


def unflatness(magnitudes: Tensor) -> float:
    """‖d - g‖ / ‖d‖: distance of channel magnitudes d to the flat g of the same norm.

    FlatQuant's measure of flatness, made independent of the tensor's scale, as quantization is.
    0 is perfectly flat; a single channel among n gives √(2 - 2/√n).
    """
    d = magnitudes.double()
    norm = d.norm()
    if norm == 0:
        return 0.0
    return float((d - norm / len(d) ** 0.5).norm() / norm)


def squared_errors(exact: Tensor, quantized: Tensor) -> Tensor:
    """Mean over windows and channels of (B, T, C) squared differences, per token position: (T,).

    Errors of earlier blocks are in it: both streams run from the embedding on.
    """
    return (exact - quantized).double().square().mean((0, 2))


def _windows(cell: Cell, model: StreamedModel) -> Tensor:
    """Of the first test set, else of the calibration text."""
    sets = cell.config.evaluation.perplexity
    source = data.find_set(sets[0]) if sets else cell.windows
    return source.load(model.tokenizer())[:WINDOWS]


def _variants(model: StreamedModel, cells: Sequence[Cell]) -> Mapping[str, Source]:
    config = cells[0].config
    found: dict[str, Source] = {ORIGINAL: lambda index: _rounded(model, index, config, False)}
    found[HADAMARD] = lambda index: _rounded(model, index, config, True)
    found |= {cell.config.label: _stored(model, cell) for cell in cells}
    return {name: found[name] for name in sorted(found, key=order)}


def _stored(model: StreamedModel, cell: Cell) -> Source:
    checkpoint = QuantizedCheckpoint(cell.checkpoint)
    return lambda index: rebuild(model, checkpoint.block(index), index, cell.config, FIT_DTYPE)


def _rounded(
    model: StreamedModel, index: int, config: ExperimentConfig, rotate: bool
) -> QuantBlock:
    """A block rounded to nearest, as it is or with a Hadamard transform at every site."""
    architecture = model.source.architecture
    quant = QuantBlock(model.block(index, FIT_DTYPE), architecture, config.bits)
    if rotate:
        attention: Any = quant.module.get_submodule(architecture.attention)
        head = int(attention.head_dim)
        for site in architecture.sites:
            width = quant.linears[site.linears[0]].weight.shape[1]
            heads = site.name == "attention_output"
            quant.install(site.name, _heads(width, head) if heads else transform(width))
        if quant.attention.key.active or quant.attention.query.active:
            quant.install_keys(Kronecker(None, Fixed(hadamard(head))))
        quant.module.to(model.device)
        quant.merge(model.stored)
    if config.bits.weight.active:
        for linear in quant.linears.values():
            linear.set_integers(rtn(linear.weight.data, config.bits.weight, model.stored))
    return quant


def _heads(width: int, head: int) -> Heads:
    return Heads(Fixed(hadamard(width // head)), Fixed(hadamard(head)))


def _magnitudes(
    quant: QuantBlock, x: Tensor, kwargs: dict[str, Any], device: torch.device
) -> dict[tuple[str, str], Tensor]:
    """Norm of each channel of each site, by (site, ``activations`` | ``weights``).

    Activations are the transformed ones for the unquantized model's inputs of this block, before
    they are rounded; weights the input columns of all linears that read the site.
    """
    squares: dict[str, Tensor] = {}
    found: dict[tuple[str, str], Tensor] = {}
    with _observed(quant, squares), quant.bypass():
        run(quant.module, x, kwargs, device)
    for site in quant.architecture.sites:
        weights = [quant.linears[path].weight.double() for path in site.linears]
        found[site.name, "activations"] = squares[site.name].sqrt()
        found[site.name, "weights"] = torch.cat(weights).square().sum(0).sqrt()
    return found


@contextmanager
def _observed(quant: QuantBlock, squares: dict[str, Tensor]) -> Iterator[None]:
    """Within it, sums of squares per channel of each site's tensor are gathered."""

    def add(site: Site, x: Tensor) -> None:
        part = x.double().square().flatten(0, -2).sum(0)
        squares[site.name] = squares[site.name] + part if site.name in squares else part

    names, hooks = quant.architecture, []
    for site in names.sites:
        first = site.linears[0]
        if names.of_expert(first):  # which sees the tokens that are sent to it alone
            whole = quant.module.get_submodule(names.module_of(first))
            hooks.append(whole.register_forward_pre_hook(lambda _, x, s=site: add(s, x[0])))
        else:
            quant.linears[first].observer = partial(add, site)
    yield
    for hook in hooks:
        hook.remove()
    for site in names.sites:
        quant.linears[site.linears[0]].observer = None
