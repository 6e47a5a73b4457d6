"""What every package's worker does alike: read its job, take the time, write weights and figures.

A worker runs in its own interpreter, which may lack quantexp: torch and safetensors must do.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TOKENS_PER_BATCH = 8192  # of forward passes without gradients, for everybody


@dataclass(frozen=True)
class Job:
    """One quantization, the same for all packages.

    Attributes:
        model: A checkpoint's folder; everybody computes in float32.
        windows: A safetensors file with ``windows``, token ids (B, T).
        method: A name of ``peers.METHODS``.
        weight_bits: Of all linears in decoder blocks.
        group_size: Columns that share a scale; ``None``: a whole row.
        activation_bits: Of the linears' inputs, one range per token; 16 leaves them.
        damping: GPTQ's.
        threads: Of PyTorch.
        folder: Where the worker may write.
    """

    model: str
    windows: str
    method: str
    weight_bits: int
    group_size: int | None
    activation_bits: int
    damping: float
    threads: int
    folder: str


def work(
    packages: tuple[str, ...],
    load: Callable[[Job], Any],
    quantize: Callable[[Job, Any, Tensor], Any],
    dense: Callable[[Job, Any, Any], dict[str, Tensor]],
) -> None:
    """Runs the job that the command line names.

    Seconds are those of ``quantize`` alone. Memory counts from before ``load``, since it is where
    packages differ: one holds the model, another a block.

    Args:
        packages: Whose versions are noted.
        load: The job → what is quantized.
        quantize: The job, that, windows (B, T) → what was made.
        dense: The job and both → dequantized weights and norms by name, as in the checkpoint.
    """
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(job.threads)
    windows = load_file(job.windows)["windows"]
    gc.collect()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    subject = load(job)
    wall, cpu = time.monotonic(), time.process_time()
    made = quantize(job, subject, windows)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = _resident("VmHWM")
    state = {k: v.detach().float().contiguous() for k, v in dense(job, subject, made).items()}
    save_file(state, Path(job.folder) / "weights.safetensors")
    found = {
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_memory_bytes": peak,
        "added_memory_bytes": peak - before,
        "versions": {name: version(name) for name in ("torch", "transformers", *packages)},
    }
    (Path(job.folder) / "result.json").write_text(json.dumps(found))


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {field}: this benchmark needs Linux")
