"""Seconds and peak memory per block of every method, and FlatQuant against a plain reading of it.

python benchmarks/methods.py [--model PATH] [--windows 16] [--epochs 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import plain_flatquant
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from quantexp.calibration.blocks import FIT_DTYPE, calibrate_blocks
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.config import ExperimentConfig, from_plain
from quantexp.experiment.cell import Cell
from quantexp.measure import Meter, device_name
from quantexp.models.load import StreamedModel
from quantexp.resources import PACKAGE, choices, own

PLAIN = "flatquant, plain reading"


def main() -> None:
    """Measures, prints a table, writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="PATH", help="a checkpoint; the demo model without it")
    parser.add_argument("--methods", nargs="+", help="names; all of conf/method without it")
    parser.add_argument("--bits", default="w4a4kv4")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--epochs", type=int, default=2, help="of methods that have epochs")
    parser.add_argument("--blocks", type=int, default=1, help="how many are measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sys.path.append(str(PACKAGE / "_plugins"))  # conf/ names our launcher
    methods = args.methods or [name for name in choices("method") if name != "none"]
    rows = {name: quantexps(name, args) for name in methods}
    if "flatquant" in rows and args.bits == "w4a4kv4":
        rows[PLAIN] = plainly(args)
    least = rows["rtn"]["seconds"] if "rtn" in rows else min(r["seconds"] for r in rows.values())
    print(f"\n{device_name()}, {args.threads} thread(s), {args.bits}, {args.windows} windows of")
    print(f"{args.length} tokens, {args.epochs} epoch(s); means of {args.blocks} block(s)\n")
    print(
        f"{'method':28}{'seconds':>10}{'/ ' + ('rtn' if 'rtn' in rows else 'least'):>10}{'MiB':>10}"
    )
    for name, row in rows.items():
        ratio, size = row["seconds"] / least, row["peak_memory_bytes"] / 2**20
        print(f"{name:28}{row['seconds']:10.2f}{ratio:10.1f}{size:10.0f}")
    if PLAIN in rows:
        share = rows["flatquant"]["seconds"] / rows[PLAIN]["seconds"]
        print(f"\nflatquant takes {share:.2f} of the plain reading's time")
    if args.json:
        Path(args.json).write_text(json.dumps({"arguments": vars(args), "rows": rows}, indent=1))


def configuration(method: str, args: argparse.Namespace) -> ExperimentConfig:
    """One cell; ``method.epochs`` goes to methods that have it."""
    given = ["model=demo"] if args.model is None else ["model=local", f"model.path={args.model}"]
    given += [f"method={method}", f"bits={args.bits}", "data=pydocs"]
    given += [f"data.num_samples={args.windows}", f"data.seq_len={args.length}"]
    with initialize_config_dir(str(own("conf")), version_base="1.3"):
        data: Any = OmegaConf.to_container(compose("config", given), resolve=True)
    if "epochs" in data["method"]:
        data["method"]["epochs"] = args.epochs
    return from_plain(data)


class Beginning(StreamedModel):
    """A model of which only the first blocks are there."""

    def __init__(self, config: ExperimentConfig, count: int) -> None:
        super().__init__(Cell(config).model, config.model)
        self._count = count

    @property
    def blocks(self) -> int:
        """Number of blocks that are measured."""
        return min(self._count, super().blocks)


def windows(config: ExperimentConfig, model: StreamedModel) -> torch.Tensor:
    """Token ids (B, T)."""
    return Cell(config).windows.load(model.tokenizer())


def quantexps(method: str, args: argparse.Namespace) -> dict[str, float]:
    """Mean seconds and largest peak of a block: fitted, merged, rounded and stored."""
    config = configuration(method, args)
    cell, model = Cell(config), Beginning(config, args.blocks)
    tokens = windows(config, model) if cell.needs_windows else None
    with tempfile.TemporaryDirectory() as folder:
        report = calibrate_blocks(
            model, cell.method, config, tokens, QuantizedCheckpoint(Path(folder)), lambda *_: None
        )
    return mean(report["blocks"])


def plainly(args: argparse.Namespace) -> dict[str, float]:
    """The same for a plain FlatQuant (training alone: nothing is merged or stored)."""
    config = configuration("flatquant", args)
    model = Beginning(config, args.blocks)
    tokens = windows(config, model)
    x, kwargs = model.embed(tokens, FIT_DTYPE), model.block_kwargs(tokens.shape[1], FIT_DTYPE)
    found = []
    for index in range(model.blocks):
        block, meter = model.block(index, FIT_DTYPE), Meter()
        batch = config.method.options.batch_size
        plain_flatquant.fit(block, x, kwargs[index], args.epochs, batch)
        found.append(meter.read())
        with torch.no_grad():
            x = torch.cat([block(part, **kwargs[index]) for part in x.split(batch)])
    return mean(found)


def mean(blocks: list[dict[str, float]]) -> dict[str, float]:
    """Of the seconds; of the memory the largest."""
    return {
        "seconds": sum(b["seconds"] for b in blocks) / len(blocks),
        "peak_memory_bytes": max(b["peak_memory_bytes"] for b in blocks),
    }


if __name__ == "__main__":
    main()
