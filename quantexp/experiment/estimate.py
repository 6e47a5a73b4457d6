"""What a plan will take: memory, disk, files and time. From config.json alone; no torch.

Memory is what ``calibration/footprint.py`` counts, disk a sum over the largest tensors. Time is
never guessed: it is what the same model and method took before, or unknown.
"""

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from quantexp.calibration import footprint
from quantexp.calibration.data import find_set
from quantexp.config import TensorQuantization
from quantexp.experiment import quota, record
from quantexp.experiment.cell import Cell, Evaluation, model_name
from quantexp.experiment.plan import Job
from quantexp.models.source import ModelSource

_RUNTIME = 464 << 20  # bytes: Python, torch, transformers, the tokenizer; runs differ by 30 MiB
_WINDOWS = 320  # of a test set whose length is not known before it is read
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

    @property
    def total(self) -> int:
        """Of the machine, where it has no accelerator."""
        return self.host + self.gpu


@dataclass(frozen=True)
class Disk:
    """What jobs write: bytes and files at their peak."""

    bytes: int
    files: int


def memory(cell: Cell) -> Memory:
    """The peak of a cell: streams of activations, and beside them one block, or the head, at work.

    Streams count where ``activations=auto`` would find room last before the disk: in the host.
    """
    model, config = cell.model, cell.config
    size = _itemsize(cell)
    vocabulary = int(model.config["vocab_size"])
    before = [footprint.embedding(model, size)]
    streams, works = 0, []
    for item in (*config.evaluation.perplexity, *config.evaluation.validation):
        count, length = item.max_windows or _WINDOWS, find_set(item).seq_len
        streams = max(streams, size * count * length * model.hidden)
        works.append(footprint.evaluating(model, config.bits, count, length, size))
    if cell.quantized:
        source, count = cell.windows, 0
        if cell.needs_windows:
            count = source.count or 0
            buffers = len(footprint.streams(cell.method, config))
            width = 2 if config.activation_dtype == "bfloat16" else footprint.FLOAT
            streams = max(streams, buffers * width * count * source.seq_len * model.hidden)
            before.append(footprint.embedding(model, footprint.FLOAT))
        works.append(footprint.fitting(model, config, cell.method, count, source.seq_len))
    host = max([*before, *(work.host for work in works)])
    gpu = max((work.device for work in works), default=0)
    if config.evaluation.tasks:
        head = 2 * vocabulary * model.hidden
        gpu = max(gpu, size * (model.shape.block_weights * model.blocks + head) + gpu // 3)
    on_disk, on_device = (config.activations == place for place in ("disk", "device"))
    return Memory(
        host=_RUNTIME + host + (0 if on_disk or on_device else streams),
        gpu=gpu + (streams if on_device else 0),
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


def _itemsize(cell: Cell) -> int:
    """Bytes of a number that the model computes with when it is evaluated."""
    name = cell.config.model.dtype
    if name == "auto":
        stored = cell.model.config
        name = str(stored.get("dtype") or stored.get("torch_dtype") or "float32")
    return 4 if name == "float32" else 2


def _checkpoint(cell: Cell) -> int:
    model = cell.model
    per_weight = _bits(cell.config.bits.weight, model) / 8
    # transforms and clips of learned methods take a few per cent more
    return int(1.03 * per_weight * model.shape.block_weights * model.blocks) + (64 << 10)


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
