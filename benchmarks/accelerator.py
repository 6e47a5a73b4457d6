"""Calibration of LLaMA-3-8B's shape on an accelerator: seconds, memory, share of peak FLOP/s.

python benchmarks/accelerator.py [--out FOLDER] [KEY=VALUE …]       (--tiny: anywhere, in seconds)

Weights and tokens are random, and only ``--blocks`` of the 32 blocks exist; the time of those
between the first and the last stands for the others. FlatQuant has its paper's full schedule.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import flops
import random_model
import torch
from configuration import configuration
from flops import Shape
from torch.profiler import ProfilerActivity, profile

from quantexp.calibration.blocks import calibrate_blocks
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.config import ExperimentConfig
from quantexp.experiment.cell import Cell
from quantexp.measure import device_name
from quantexp.models.load import StreamedModel

LAYERS = 32
LLAMA_3_8B, TINY = Shape(4096, 14336, 32, 8), Shape(64, 128, 4, 2)
LEARNED = ("flatquant", "omniquant")
# Dense bf16 products, TFLOP/s, of the makers' data sheets; the first name that fits counts.
PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "RTX 4090": 165}


class Case(NamedTuple):
    """A method, its configuration, what is to be reached for all 32 blocks, and tokens of a window.

    Without a length of its own it has that of the command line.
    """

    overrides: tuple[str, ...]
    goal: tuple[float, float | None] | None = None  # minutes, and GB where they are limited
    paper: str = ""
    length: int | None = None


CASES = {
    "flatquant": Case(
        ("method=flatquant", "bits=w4a4kv4", "method.precision=bf16", "products=tf32"),
        (10, 27),
        "0.9 h, 27 GB",
    ),
    "flatquant-host": Case(
        (
            *("method=flatquant", "bits=w4a4kv4", "method.precision=bf16", "products=tf32"),
            "activations=host",
        ),
        (54, 12),
        "0.9 h, 27 GB",
    ),
    "gptq": Case(("method=gptq", "bits=w4a16g128", "products=tf32"), (3, None)),
    # its paper's windows have 512 tokens
    "awq": Case(("method=awq", "bits=w4a16g128", "products=tf32"), (3, None), length=512),
    "omniquant": Case(("method=omniquant", "bits=w4a4")),
}


def main() -> None:
    """Measures, prints a table, writes it and the profiles."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--blocks", type=int, default=3, help="the first also warms up")
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a window")
    parser.add_argument("--epochs", type=int, help="of methods that have epochs; theirs without it")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="of devices not known here")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--out", type=Path, default=Path("outputs/accelerator"), metavar="FOLDER")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="for all methods, after their own"
    )
    args = parser.parse_args()
    if args.tiny:
        args.windows, args.length, args.epochs = min(args.windows, 4), min(args.length, 32), 1
    elif not torch.cuda.is_available():
        parser.error("no accelerator is here: --tiny tries the script on a CPU")
    shape = TINY if args.tiny else LLAMA_3_8B
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        path = random_model.write(
            Path(name) / "model", **shape._asdict(), blocks=args.blocks, dtype=torch.bfloat16
        )
        for method in args.methods:
            print(f"{method} …", flush=True)
            try:
                rows.append(measure(method, shape, path, args))
            except torch.OutOfMemoryError as error:
                print(f"{method}: {error}")
    _print(rows, args)
    found = {"device": device_name(), "torch": torch.__version__, "arguments": vars(args)}
    (args.out / "accelerator.json").write_text(
        json.dumps({**found, "rows": rows}, indent=1, default=str)
    )


def measure(method: str, shape: Shape, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One method: blocks in full, then a short profile of one."""
    config = _config(method, path, args)
    length = min(args.length, CASES[method].length or args.length)
    seconds, peak = calibrate(config, args.windows, length)
    # nobody reads on behind the last block, and the first one warms up
    later = seconds[1:-1] or seconds[1:] or seconds
    mean = sum(later) / len(later)
    operations = _operations(method, config, (shape, args.windows, length))
    short = _config(method, path, args, epochs=1)
    _profile(short, min(args.windows, 8), length, args.out / f"profile-{method}.txt")
    limit = args.peak or next((v for k, v in PEAKS.items() if k in device_name()), None)
    return {
        "method": method,
        "length": length,
        "seconds": seconds,
        "seconds_all": seconds[0] + (LAYERS - 1) * mean,
        "peak_memory_bytes": peak,
        "operations_per_block": operations,
        "flops_per_second": operations / mean,
        "share_of_peak": operations / mean / (limit * 1e12) if limit else None,
    }


def calibrate(config: ExperimentConfig, windows: int, length: int) -> tuple[list[float], int]:
    """Seconds of each block, from reading it to the streams behind it, and peak memory in bytes."""
    cell = Cell(config)
    model = StreamedModel(cell.model, config.model)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, random_model.VOCABULARY, (windows, length), generator=draw)
    ends: list[float] = []

    def progress(_: str, done: int, total: int, loss: float | None) -> None:
        if loss is None and done == len(ends):  # once before each block, once behind the last
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = QuantizedCheckpoint(Path(folder))
        report = calibrate_blocks(model, cell.method, config, tokens, checkpoint, progress)
    seconds = [end - start for start, end in pairwise(ends)]
    return seconds, report["peak_memory_bytes"]


def _config(
    method: str, path: Path, args: argparse.Namespace, epochs: int | None = None
) -> ExperimentConfig:
    given = [*CASES[method].overrides, "model=local", f"model.path={path}"]
    if args.tiny and "bits=w4a16g128" in given:
        given.append("bits.weight.group_size=32")
    epochs = epochs or args.epochs
    if epochs and method.startswith(LEARNED):
        given.append(f"method.epochs={epochs}")
    return configuration(*given, *args.overrides)


def _operations(method: str, config: ExperimentConfig, data: tuple[Shape, int, int]) -> float:
    options = config.method.options
    if config.method.name == "flatquant":
        return flops.flatquant(*data, options.epochs, options.batch_size)
    if method == "omniquant":
        return flops.learned(*data, options.epochs)
    return flops.gptq(*data) if method == "gptq" else flops.awq(*data, options.grid)


def _profile(config: ExperimentConfig, windows: int, length: int, file: Path) -> None:
    """Where time goes: operations by their own time on the device, of few windows and one epoch."""
    activities = [ProfilerActivity.CPU]
    own = "self_cpu_time_total"
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        own = "self_device_time_total"
    with profile(activities=activities) as found:
        calibrate(config, windows, length)
    file.write_text(found.key_averages().table(sort_by=own, row_limit=40, max_name_column_width=80))


def _print(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    print(f"\n{device_name()}, torch {torch.__version__}; {args.windows} windows of length T")
    print(f"tokens; {LAYERS} blocks from {args.blocks} that were measured; 1 GB = 10⁹ bytes\n")
    print(f"{'method':16}{'T':>6}{'s/block':>10}{'min, all':>10}{'GB':>8}{'TFLOP/s':>9}", end="")
    print(f"{'of peak':>9}  goals, paper")
    for row in rows:
        case, minutes = CASES[row["method"]], row["seconds_all"] / 60
        size, share = row["peak_memory_bytes"] / 1e9, row["share_of_peak"]
        goals = []
        if case.goal is not None:
            limit, memory = case.goal
            reached = minutes <= limit and (memory is None or size <= memory)
            text = f"<= {limit:g} min" + (f" within {memory:g} GB" if memory else "")
            goals.append(text + ("" if args.tiny else ": reached" if reached else ": missed"))
        goals += [f"paper {case.paper}"] if case.paper else []
        print(
            f"{row['method']:16}{row['length']:6}{row['seconds'][-1]:10.2f}{minutes:10.2f}{size:8.2f}",
            end="",
        )
        print(f"{row['flops_per_second'] / 1e12:9.3f}", end="")
        print(f"{share:9.1%}  " if share else f"{'?':>9}  ", end="")
        print("; ".join(goals))
    print(f"\nwhere the time goes: {args.out}/profile-METHOD.txt")


if __name__ == "__main__":
    main()
