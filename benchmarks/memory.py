"""What a whole run takes: memory against depth; calibration time against blocks, samples, width.

python benchmarks/memory.py [--what depth time] [--methods rtn gptq flatquant] [--json FILE]

Random models; each run is the command that people type, in a process of its own, watched from
outside: its resident memory, and the private part of it (pages of mapped files, which the system
takes back when memory is short, left out).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # a checkout need not be installed
import random_model  # noqa: E402

DEPTHS = (8, 32)
COMMON = ("bits=w4a16", "cluster=debug", "cluster.threads=1", "tracker=none", "data=pydocs")
COMMON += ("evaluation.seq_len=256", "evaluation.max_windows=8", "evaluation.block_error_windows=0")


def main() -> None:
    """Measures, prints tables, writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", nargs="+", choices=("depth", "time"), default=("depth", "time"))
    parser.add_argument("--methods", nargs="+", default=["rtn", "gptq", "flatquant"])
    parser.add_argument("--hidden", type=int, default=512, help="width of the blocks, for depth")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; one thread used")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for what in args.what:
            function = depth if what == "depth" else scaling
            found[what] = function(Path(name), args.methods, args.hidden)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))


def depth(folder: Path, methods: Sequence[str], hidden: int) -> list[dict[str, Any]]:
    """Peak memory of 8 and of 32 equal blocks."""
    rows = []
    for blocks in DEPTHS:
        path = random_model.write(folder / f"depth{blocks}", **sizes(hidden), blocks=blocks)
        for method in methods:
            row = run(path, folder, f"method={method}", *SHORT.get(method, ()), *windows(16, 256))
            rows.append({"method": method, "blocks": blocks, **row})
    print(
        f"\n{'memory, MiB':16}{'blocks':>8}{'resident':>10}{'private':>10}{'ratio':>8}{'ratio':>8}"
    )
    for row in rows:
        first = next(r for r in rows if r["method"] == row["method"])
        ratios = [row[k] / first[k] for k in ("resident_bytes", "private_bytes")]
        text = f"{row['method']:16}{row['blocks']:8}"
        text += "".join(f"{row[k] / 2**20:10.0f}" for k in ("resident_bytes", "private_bytes"))
        print(text + "".join(f"{ratio:10.3f}" for ratio in ratios))
    return rows


def scaling(folder: Path, methods: Sequence[str], hidden: int) -> list[dict[str, Any]]:
    """Seconds of a calibration where one size at a time is doubled."""
    plain = {"blocks": 4, "samples": 16, "hidden": hidden // 2}
    rows = []
    for changed in ("", *plain):
        at = {**plain, **({changed: 2 * plain[changed]} if changed else {})}
        shape = sizes(at["hidden"])
        path = random_model.write(folder / f"time{changed}", **shape, blocks=at["blocks"])
        for method in methods:
            more = (*SHORT.get(method, ()), *windows(at["samples"], 256))
            rows.append({"method": method, **at, **run(path, folder, f"method={method}", *more)})
    print(
        f"\n{'calibration':16}{'blocks':>8}{'samples':>9}{'hidden':>8}{'seconds':>10}{'ratio':>8}"
    )
    for row in rows:
        first = next(r for r in rows if r["method"] == row["method"])
        ratio = row["seconds"] / first["seconds"]
        text = f"{row['method']:16}{row['blocks']:8}{row['samples']:9}{row['hidden']:8}"
        print(f"{text}{row['seconds']:10.2f}{ratio:8.2f}")
    return rows


SHORT = dict.fromkeys(("flatquant", "omniquant"), ("method.epochs=1",))


def sizes(hidden: int) -> dict[str, int]:
    """A Llama's proportions."""
    return {"hidden": hidden, "intermediate": hidden * 11 // 4, "heads": max(4, hidden // 64)}


def windows(count: int, length: int) -> tuple[str, str]:
    """The calibration data."""
    return f"data.num_samples={count}", f"data.seq_len={length}"


def run(model: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    """One cell by its command line, watched.

    Returns:
        ``resident_bytes``, ``private_bytes``: highest of the process; ``seconds``: of the
        calibration, per its report.
    """
    with tempfile.TemporaryDirectory(dir=folder) as outputs:
        given = command(model, Path(outputs), *overrides)
        process = subprocess.Popen(
            given, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        peaks = watch(process)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(given)}\n{said[-3000:]}")
        [report] = Path(outputs).glob("calibrations/*/report.json")
        seconds = json.loads(report.read_text())["seconds"]
    return {**peaks, "seconds": seconds}


def command(model: Path, outputs: Path, *overrides: str) -> list[str]:
    """The command line of one cell; later overrides win."""
    given: dict[str, str] = {}
    for text in (*COMMON, "model=local", f"model.path={model}", *overrides):
        given[text.partition("=")[0]] = text
    return [sys.executable, "-m", "quantexp", *given.values(), f"paths.outputs={outputs}"]


def environment() -> Mapping[str, str]:
    """Of the command: this checkout, and one thread."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def watch(process: subprocess.Popen[str]) -> dict[str, int]:
    """Highest resident and private memory of a process until it ends (Linux)."""
    path = Path(f"/proc/{process.pid}/status")
    found = {"resident_bytes": 0, "private_bytes": 0}
    names = {"VmHWM:": "resident_bytes", "RssAnon:": "private_bytes"}
    while process.poll() is None:
        for line in path.read_text().splitlines():
            name, _, value = line.partition("\t")
            if name in names:
                size = int(value.split()[0]) << 10
                found[names[name]] = max(found[names[name]], size)
        time.sleep(0.005)
    return found


if __name__ == "__main__":
    main()
