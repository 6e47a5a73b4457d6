"""Where streams of activations lie between blocks: on the device, in host memory or on disk.

A stream is an ordinary tensor (B, T, C) wherever it lies, and blocks read and write it batch by
batch, so no number depends on the place. Of the places with room the fastest is taken.

On disk it is a memory map of a file without a name: the system removes it when the tensor is gone
or the process has died, however it died.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
import torch
from torch import Tensor

from quantexp.calibration.footprint import TOKENS, Work
from quantexp.config import ExperimentConfig
from quantexp.errors import DataError
from quantexp.host import free_memory

PLACES = ("device", "host", "disk")
_IN_MEMORY = ("tmpfs", "ramfs")  # file systems on which a file takes memory all the same
_GIB = 1 << 30


@dataclass(frozen=True)
class Store:
    """One place, with room for the streams that it was chosen for.

    Attributes:
        place: ``device``, ``host`` (pinned where there is an accelerator) or ``disk``.
        device: The device that reads and writes the streams.
        scratch: Folder of the files, for ``disk``.
    """

    place: str
    device: torch.device
    scratch: Path | None = None

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A new stream, not initialized.

        Raises:
            DataError: The disk has no room.
        """
        if self.place == "device":
            return torch.empty(*shape, dtype=dtype, device=self.device)
        if self.place == "host":
            return torch.empty(*shape, dtype=dtype, pin_memory=self.device.type == "cuda")
        assert self.scratch is not None
        return _mapped(shape, dtype, self.scratch)

    def like(self, stream: Tensor) -> Tensor:
        """A new stream of the same shape and dtype."""
        return self.empty(stream.shape, stream.dtype)


def choose(
    setting: str,
    streams: int,
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    work: Work,
    outputs: Path,
) -> Store:
    """The fastest place with room for all streams, or the one that is asked for; says so.

    Args:
        setting: ``auto`` or one of :data:`PLACES`.
        streams: How many are held at once.
        shape: (B, T, C) of each.
        dtype: Of each.
        device: Where blocks run.
        work: What a block at work takes beside the streams.
        outputs: Where files may lie, unless the job names a scratch folder of its own ($TMPDIR).

    Raises:
        DataError: Nothing has room, or the place that is asked for has not.
    """
    one = prod(shape) * dtype.itemsize
    size = streams * one
    if device.type == "cuda":
        # torch takes pinned memory in powers of two
        pinned = streams * ((1 << (one - 1).bit_length()) - one)
        torch.cuda.empty_cache()  # what torch keeps for later is free as well
        free = torch.cuda.mem_get_info(device)[0]
        room = {"device": free - work.device, "host": free_memory() - work.host - pinned}
    else:  # the device's memory is the host's
        room = {"host": free_memory() - work.host - work.device}
    folder = _folder(outputs, size)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        room["disk"] = psutil.disk_usage(str(folder)).free
    place = setting
    if setting == "device" and device.type != "cuda":
        place = "host"
    elif setting == "auto":
        place = next((p for p in PLACES if room.get(p, 0) >= size), "")
    if place == "" or (place == "disk" and room.get("disk", 0) < size):
        raise DataError(
            f"{streams} stream(s) of activations take {size / _GIB:.1f} GiB, and no place has room "
            f"for them (beside a block at work: {_said(room)}): give the job more memory, set "
            "TMPDIR to a folder on a larger disk, or take fewer or shorter windows"
        )
    kind = {"device": f"on {device}", "host": "in host memory", "disk": f"in {folder}"}
    print(
        f"activations of {shape[0]} windows of {shape[1]} tokens: {streams} stream(s) of "
        f"{one / _GIB:.2f} GiB, {str(dtype).removeprefix('torch.')}, {kind[place]} "
        f"(room for {_said(room)})",
        flush=True,
    )
    return Store(place, device, folder)


def setting(config: ExperimentConfig, tokens: int) -> str:
    """``config.activations``, but not the device whose memory held fewer tokens than usual."""
    sparing = tokens < TOKENS and config.activations == "auto"
    return "host" if sparing else config.activations


def dtype(config: ExperimentConfig, fit: torch.dtype) -> torch.dtype:
    """Of the streams of a calibration: that of its fits, or 16 bits where it is asked for."""
    return fit if config.activation_dtype == "float32" else torch.bfloat16


def _said(room: dict[str, int]) -> str:
    return ", ".join(f"{max(0, size) / _GIB:.1f} GiB: {place}" for place, size in room.items())


def _folder(outputs: Path, size: int) -> Path | None:
    """The first folder on a disk with room for so many bytes; else the one with most room."""
    own = os.environ.get("TMPDIR")
    candidates = [Path(own).absolute()] if own else []
    mounts = {p.mountpoint: p.fstype for p in psutil.disk_partitions(all=True)}
    free: dict[Path, int] = {}
    for folder in (*candidates, outputs.absolute()):
        there = next(p for p in (folder, *folder.parents) if p.is_dir())
        mount = next((p for p in map(str, (there, *there.parents)) if p in mounts), "")
        if mounts.get(mount) not in _IN_MEMORY:
            free[folder] = psutil.disk_usage(str(there)).free
    return next((f for f in free if free[f] >= size), max(free, key=free.__getitem__, default=None))


def _mapped(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    size = prod(shape) * dtype.itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # a sparse file on a full disk would end the process with SIGBUS at some later block
            os.posix_fallocate(file.fileno(), 0, size)
            pages = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise DataError(
            f"no file of {size / _GIB:.1f} GiB for activations can be made in {folder}: "
            f"{error.strerror}; set TMPDIR to a folder on a larger disk"
        ) from error
    return torch.frombuffer(pages, dtype=dtype).view(*shape)
