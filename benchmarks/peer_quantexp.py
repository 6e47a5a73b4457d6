"""quantexp's part of ``peers.py``: the block loop, from checkpoint to packed integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from configuration import configuration
from peer_job import Job, work
from torch import Tensor

from quantexp.calibration.blocks import calibrate_blocks, rebuild
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.config import ExperimentConfig
from quantexp.experiment.cell import Cell
from quantexp.models.load import StreamedModel

METHODS = {
    "rtn": ["method=rtn"],
    "gptq": ["method=gptq", "gptq.true_sequential=false"],
    "gptq, sequential": ["method=gptq"],
    "awq": ["method=awq", "method.clipping=false"],
    "awq, clipped": ["method=awq"],
    "smoothquant": ["method=smoothquant"],
}


def load(job: Job) -> tuple[ExperimentConfig, StreamedModel]:
    """No weights yet: they are read block by block."""
    given = ["model=local", f"model.path={job.model}", "model.dtype=float32", "bits=w8a8"]
    given += [f"bits.weight.bits={job.weight_bits}", f"bits.activation.bits={job.activation_bits}"]
    # the range of the peers' symmetric integers: 2 max|w| over 2^b - 1 steps
    given += ["bits.weight.scheme=symmetric_full", f"gptq.damping={job.damping}"]
    given += [f"bits.weight.group_size={job.group_size or 'null'}"]
    config = configuration(*METHODS[job.method], *given)
    return config, StreamedModel(Cell(config).model, config.model)


def quantize(job: Job, subject: Any, windows: Tensor) -> QuantizedCheckpoint:
    """Reading and writing of blocks is in its time."""
    config, model = subject
    cell, checkpoint = Cell(config), QuantizedCheckpoint(Path(job.folder) / "checkpoint")
    tokens = windows if cell.needs_windows else None
    calibrate_blocks(model, cell.method, config, tokens, checkpoint, lambda *_: None)
    return checkpoint


def dense(job: Job, subject: Any, made: QuantizedCheckpoint) -> dict[str, Tensor]:
    """What the stored integers say, and the norms."""
    config, model = subject
    found = {}
    for index in range(model.blocks):
        saved = made.saved_block(index)
        assert saved is not None
        quant = rebuild(model, saved[0], index, config, torch.float32)
        own = {f"{path}.weight": linear.weight.data for path, linear in quant.linears.items()}
        own |= {k: v for k, v in saved[0].items() if k.endswith("norm.weight")}
        prefix = f"{model.source.architecture.layers}.{index}."
        found.update({prefix + name: tensor for name, tensor in own.items()})
    return found


if __name__ == "__main__":
    work((), load, quantize, dense)
