"""What a plan will take: memory, disk, files and time. Rough, from config.json; no torch.

Memory and disk are sums over the tensors that are largest; what is left out (norms, the runtime's
own buffers, fragmentation) is covered by a constant. Time is never guessed: it is what the same
model and method took before, or unknown.
"""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from quantexp.calibration.data import find_set
from quantexp.config import TensorQuantization
from quantexp.experiment import quota, record
from quantexp.experiment.cell import Cell, Evaluation, model_name
from quantexp.experiment.plan import Job
from quantexp.models.source import ModelSource

TOKENS = 8192  # per forward pass (calibration/blocks.py); importing it would import torch
_RUNTIME = 1 << 30  # bytes: Python, torch, the tokenizer
_LOGITS = 1 << 30  # bytes of logits and their float32 copy (evaluation/perplexity.py)
_WINDOWS = 320  # of a test set whose length is not known before it is read
_FLOAT = 4  # bytes; fits run in float32
_SHARD = 4 << 30  # bytes per consolidated file (calibration/checkpoint.py)
_RECORD = 64 << 10  # bytes of one record, large ones included
_ENOUGH = 5  # earlier records that a median is taken of


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a cell.

    Attributes:
        host: Of the machine, beside an accelerator.
        gpu: Of the accelerator; without one they come from the host as well.
    """

    host: int
    gpu: int


@dataclass(frozen=True)
class Disk:
    """What jobs write: bytes and files at their peak."""

    bytes: int
    files: int


def block_weights(model: ModelSource) -> int:
    """Number of weights of one decoder block's linears."""
    return model.shape.block_weights


def memory(cell: Cell) -> Memory:
    """The peak of a cell: one block of weights, its activations, the streams between blocks."""
    model, config = cell.model, cell.config
    width, inner, weights = model.hidden, model.intermediate, block_weights(cell.model)
    lengths = [find_set(item).seq_len for item in config.evaluation.perplexity]
    windows = [item.max_windows or _WINDOWS for item in config.evaluation.perplexity]
    streams = 2 * max((n * t for n, t in zip(windows, lengths, strict=True)), default=0)
    gpu = 0
    if cell.quantized and cell.needs_windows:
        source = cell.windows
        lengths.append(source.seq_len)
        kinds = cell.method.streams
        both = {"fp", "quantized"} <= {*kinds} or ("fp" in kinds and config.rounding == "gptq")
        streams = max(streams, (3 if both else 2) * (source.count or 0) * source.seq_len)
        if config.rounding == "gptq":  # the Hessian, its inverse and the factor
            gpu = 3 * _FLOAT * max(inner, width) ** 2
            # those of all experts that are rounded at once: gate and up, then down
            gpu += _FLOAT * model.shape.experts * max(2 * width**2, inner**2)
    attention = 2 * model.heads * max(lengths, default=0)  # scores and their softmax, per token
    gpu += 3 * _FLOAT * weights + TOKENS * _FLOAT * (4 * inner + 8 * width + attention)
    head = _FLOAT * int(model.config["vocab_size"]) * width
    whole = 2 * weights * model.blocks + head if config.evaluation.tasks else 0
    return Memory(
        host=_RUNTIME + head + 2 * _FLOAT * weights + _FLOAT * width * streams,
        gpu=max(gpu, head + _LOGITS, whole + gpu // 3),
    )


def disk(jobs: Iterable[Job]) -> Disk:
    """What jobs write into the outputs: checkpoints at their packed bits, and records."""
    kept = peak = files = 0
    for job in jobs:
        first = job.cells[0]
        if first.quantized and not _calibrated(first):
            size = _checkpoint(first)
            # of `keep=records` only those under way take space
            kept += size if any(c.config.keep == "checkpoint" for c in job.cells) else 0
            peak = max(peak, size)  # the last one is there twice while its blocks are joined
            files += 2 + math.ceil(size / _SHARD)
        for cell in job.cells:
            count = len(cell.missing)
            kept, files = kept + count * _RECORD, files + 2 + count
    return Disk(kept + peak, files)


def lacking(jobs: Iterable[Job], outputs: Path) -> str | None:
    """Why jobs cannot write their results, by space or number of files; ``None`` if they can."""
    need = disk(jobs)
    system, *quotas = quota.rooms(outputs)
    for room in (replace(system, bytes=free_bytes(outputs)), *quotas):
        if room.bytes is not None and need.bytes > room.bytes:
            what, left = readable_size(need.bytes), f"{readable_size(room.bytes)} free"
        elif room.files is not None and need.files > room.files:
            what, left = f"{need.files} files", f"room for {room.files}"
        else:
            continue
        return (
            f"about {what} will be written to {outputs}, and {room.whose} has {left}: make room "
            "('python -m quantexp clean --state done'), use keep=records, or give another disk, "
            "paths.outputs=FOLDER"
        )
    return None


def free_bytes(outputs: Path) -> int:
    """Free bytes of the outputs' file system."""
    return shutil.disk_usage(quota.existing(outputs)).free


class History:
    """Seconds that calibrations and evaluations took before, by model and method.

    Args:
        outputs: Folder of the results; each record is read once.
    """

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._calibrations: dict[tuple[str, str, str], list[float]] | None = None
        self._evaluations: dict[str, dict[tuple[str, str], list[float]]] = {}

    def seconds(self, cell: Cell) -> float | None:
        """Of a cell's missing work; ``None`` where some of it never ran with this model."""
        parts = [self._evaluation(cell, evaluation) for evaluation in cell.missing]
        if cell.quantized and not _calibrated(cell):
            parts.append(self._calibration(cell))
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def _calibration(self, cell: Cell) -> float | None:
        if self._calibrations is None:
            self._calibrations = {}
            for path in (self._outputs / "calibrations").glob("[!.]*/report.json"):
                report = record.read(path) or {}
                inputs, seconds = report.get("inputs"), report.get("seconds")
                if inputs and isinstance(seconds, int | float):
                    key = inputs["model"]["content"], inputs["method"]["name"], inputs["rounding"]
                    self._calibrations.setdefault(key, []).append(float(seconds))
        config = cell.config
        key = cell.model.content_hash, config.method.name, config.rounding
        return _median(self._calibrations.get(key, []))

    def _evaluation(self, cell: Cell, evaluation: Evaluation) -> float | None:
        name = model_name(cell)
        if name not in self._evaluations:
            found: dict[tuple[str, str], list[float]] = {}
            folders = (self._outputs / "cells").glob(f"{name}-*/evaluations/*.json")
            for path in folders:
                kind, dataset = path.name.rpartition("-")[0].partition("-")[::2]
                times = found.setdefault((kind, dataset), [])
                if len(times) >= _ENOUGH:
                    continue  # of 10,000 cells a few are enough
                seconds = (record.read(path) or {}).get("seconds")
                if isinstance(seconds, int | float):
                    times.append(float(seconds))
            self._evaluations[name] = found
        return _median(self._evaluations[name].get((evaluation.kind, evaluation.name), []))


def readable_size(count: int) -> str:
    """A number of bytes as people read it."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _checkpoint(cell: Cell) -> int:
    model = cell.model
    per_weight = _bits(cell.config.bits.weight, model) / 8
    # transforms and clips of learned methods take a few per cent more
    return int(1.03 * per_weight * block_weights(model) * model.blocks) + (64 << 10)


def _bits(spec: TensorQuantization, model: ModelSource) -> float:
    """Bits per weight as stored: integers, and a scale and zero point of 16 bits per group."""
    if not spec.active:
        return 16.0
    row = spec.group_size or min(model.hidden, model.intermediate)
    extra = 16 if spec.scheme.startswith("symmetric") else 32
    return spec.bits + extra / row


def _calibrated(cell: Cell) -> bool:
    return (cell.checkpoint / "manifest.json").is_file()


def _median(values: list[float]) -> float | None:
    return median(values[-_ENOUGH:]) if values else None
