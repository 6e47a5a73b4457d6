"""Seconds, memory and quality of quantexp against other packages that quantize.

python benchmarks/peers.py [--llm-compressor PYTHON] [--gptqmodel PYTHON] [--model PATH]

PYTHON is the interpreter of an environment that has the package. All get the same checkpoint,
calibration windows, bits, groups, symmetry and damping, one thread and batches of the same size;
one after the other in turn, each time in a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import random_model
from configuration import configuration
from peer_job import Job
from peer_quality import Judge
from safetensors.torch import save_file
from torch import Tensor

from quantexp.calibration import data
from quantexp.experiment.cell import Cell
from quantexp.models.load import StreamedModel
from quantexp.models.source import ModelSource

HERE = Path(__file__).parent
OURS, LLM_COMPRESSOR, GPTQMODEL = "quantexp", "llm-compressor", "gptqmodel"
WORKERS = {
    OURS: "peer_quantexp.py",
    LLM_COMPRESSOR: "peer_llm_compressor.py",
    GPTQMODEL: "peer_gptqmodel.py",
}
IMPORTS = {LLM_COMPRESSOR: "llmcompressor", GPTQMODEL: "gptqmodel"}
# gptqmodel asks for two workers and refuses to begin where it counts fewer cores than three
EXTRA = {
    OURS: {"PYTHONPATH": str(HERE.parent)},
    LLM_COMPRESSOR: {"PYTHONPATH": ""},
    GPTQMODEL: {"PYTHONPATH": "", "GPTQMODEL_CPU_WORKERS": "2"},
}
GROUPS = (128, 64, 32, 16)  # the first that divides every width


class Method(NamedTuple):
    """What is compared under one name, and who has it."""

    weight_bits: int
    grouped: bool
    activation_bits: int
    packages: tuple[str, ...]


METHODS = {
    "rtn": Method(4, True, 16, (OURS, LLM_COMPRESSOR)),
    # Hessians of all linears from one pass, as llm-compressor has it
    "gptq": Method(4, True, 16, (OURS, LLM_COMPRESSOR)),
    # q, k, v, then o, then gate, up, then down, as in the paper's code
    "gptq, sequential": Method(4, True, 16, (OURS, GPTQMODEL)),
    "awq": Method(4, True, 16, (OURS, LLM_COMPRESSOR)),  # scales alone
    "awq, clipped": Method(4, True, 16, (OURS,)),  # and clips, as in the paper's code
    "smoothquant": Method(8, False, 8, (OURS, LLM_COMPRESSOR)),
}


def main() -> None:
    """Measures, prints a table, writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--llm-compressor", metavar="PYTHON")
    parser.add_argument("--gptqmodel", metavar="PYTHON")
    parser.add_argument("--model", metavar="PATH", help="a checkpoint; the demo model without it")
    parser.add_argument("--random", type=int, metavar="HIDDEN", help="a random Llama of that width")
    parser.add_argument("--blocks", type=int, default=4, help="of the random Llama")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--test-windows", type=int, default=32, help="on which quality is measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--damping", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="other texts: data=… evaluation.path=…"
    )
    args = parser.parse_args()
    pythons = _pythons({LLM_COMPRESSOR: args.llm_compressor, GPTQMODEL: args.gptqmodel})
    with tempfile.TemporaryDirectory() as name:
        found = measure(args, pythons, Path(name))
    _print(found, args)
    if args.json:
        Path(args.json).write_text(json.dumps({"arguments": vars(args), **found}, indent=1))


def _pythons(given: dict[str, str | None]) -> dict[str, str]:
    """The interpreters that can be used; says why others are left out."""
    found = {OURS: sys.executable}
    for package, python in given.items():
        if python is None:
            print(f"{package} is left out: no --{package} PYTHON was given")
            continue
        command = [python, "-c", f"import {IMPORTS[package]}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{package} is left out: {_last_line(error)}")
        else:
            found[package] = python
    return found


def measure(args: argparse.Namespace, pythons: dict[str, str], folder: Path) -> dict[str, Any]:
    """All runs, repeat by repeat, so that the machine's moods meet all packages alike."""
    calibration, test, source = _prepare(args, folder)
    judge = Judge(str(source.folder), test)
    save_file({"windows": calibration}, folder / "windows.safetensors")
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    broken: dict[tuple[str, str], str] = {}
    for repeat in range(args.repeats):
        for name in args.methods:
            method = METHODS[name]
            for package in method.packages:
                if package not in pythons or (name, package) in broken:
                    continue
                print(f"{repeat + 1} of {args.repeats}: {name}, {package}", flush=True)
                job = _job(name, method, args, source, folder)
                try:
                    result = _run(pythons[package], package, job)
                except subprocess.CalledProcessError as error:
                    broken[name, package] = _last_line(error)
                    continue
                if repeat == 0:
                    result |= judge(Path(job.folder) / "weights.safetensors", job.activation_bits)
                runs.setdefault((name, package), []).append(result)
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "model": {k: source.config[k] for k in ("hidden_size", "intermediate_size")}
        | {"blocks": source.blocks, "perplexity": judge.perplexity},
        "group_size": _group(source),
        "rows": [_row(*key, found, source.blocks) for key, found in runs.items()],
        "broken": [{"method": m, "package": p, "reason": r} for (m, p), r in broken.items()],
    }


def _prepare(args: argparse.Namespace, folder: Path) -> tuple[Tensor, Tensor, ModelSource]:
    """Windows (B, T) for calibration, for the test, and the checkpoint."""
    path = args.model
    if args.random:
        shape = {"hidden": args.random, "intermediate": 11 * args.random // 4}
        path = str(
            random_model.write(
                folder / "model", **shape, blocks=args.blocks, heads=max(1, args.random // 64)
            )
        )
    given = ["model=demo"] if path is None else ["model=local", f"model.path={path}"]
    given += [*args.overrides, f"data.num_samples={args.windows}", f"data.seq_len={args.length}"]
    given += [f"evaluation.seq_len={args.length}", f"evaluation.max_windows={args.test_windows}"]
    config = configuration(*given)
    cell = Cell(config)
    tokenizer = StreamedModel(cell.model, config.model).tokenizer()
    test = data.find_set(config.evaluation.perplexity[-1])
    return cell.windows.load(tokenizer), test.load(tokenizer), cell.model


def _job(
    name: str, method: Method, args: argparse.Namespace, source: ModelSource, folder: Path
) -> Job:
    own = Path(tempfile.mkdtemp(dir=folder))
    return Job(
        model=str(source.folder),
        windows=str(folder / "windows.safetensors"),
        method=name,
        weight_bits=method.weight_bits,
        group_size=_group(source) if method.grouped else None,
        activation_bits=method.activation_bits,
        damping=args.damping,
        threads=args.threads,
        folder=str(own),
    )


def _group(source: ModelSource) -> int | None:
    widths = (source.hidden, source.intermediate, source.heads * source.head_dim)
    return next((g for g in GROUPS if all(width % g == 0 for width in widths)), None)


def _run(python: str, package: str, job: Job) -> dict[str, Any]:
    path = Path(job.folder) / "job.json"
    path.write_text(json.dumps(asdict(job)))
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, **EXTRA[package], "HF_HUB_OFFLINE": "1"}
    command = [python, str(HERE / WORKERS[package]), str(path)]
    # packages leave logs in the working directory
    subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=job.folder
    )
    found: dict[str, Any] = json.loads((Path(job.folder) / "result.json").read_text())
    return found


def _row(name: str, package: str, runs: list[dict[str, Any]], blocks: int) -> dict[str, Any]:
    """Least times and memory of all repeats: what other processes add is no part of them."""
    least = ("seconds", "cpu_seconds", "peak_memory_bytes", "added_memory_bytes")
    figures = {key: min(run[key] for run in runs) for key in least}
    for key in ("seconds", "cpu_seconds"):
        figures[f"{key}_per_block"] = figures.pop(key) / blocks
    quality = {key: runs[0][key] for key in ("perplexity", "logit_error", "versions")}
    return {"method": name, "package": package, **figures, **quality, "runs": runs}


def _print(found: dict[str, Any], args: argparse.Namespace) -> None:
    model = found["model"]
    print(f"\n{found['machine']}; {args.threads} thread(s); {model['blocks']} blocks of width")
    print(f"{model['hidden_size']}, {model['intermediate_size']}; groups of {found['group_size']};")
    print(f"{args.windows} windows of {args.length} tokens; perplexity of the unquantized model")
    print(f"{model['perplexity']:.3f}; s is CPU seconds per block, least of {args.repeats}\n")
    print(f"{'method':18}{'package':16}{'s':>8}{'wall':>8}{'/ ours':>8}", end="")
    print(f"{'MiB':>7}{'added':>7}{'ppl':>10}{'error':>8}")
    for row in found["rows"]:
        ours = next(r for r in found["rows"] if r["method"] == row["method"])
        ratio = row["cpu_seconds_per_block"] / ours["cpu_seconds_per_block"]
        sizes = (row[k] / 2**20 for k in ("peak_memory_bytes", "added_memory_bytes"))
        print(f"{row['method']:18}{row['package']:16}{row['cpu_seconds_per_block']:8.2f}", end="")
        print(f"{row['seconds_per_block']:8.2f}{ratio:8.2f}", end="")
        print("".join(f"{size:7.0f}" for size in sizes), end="")
        print(f"{row['perplexity']:10.3f}{row['logit_error']:8.4f}")
    for row in found["broken"]:
        print(f"{row['method']:18}{row['package']:16}failed: {row['reason']}")


def _processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _last_line(error: Exception) -> str:
    """Of what a process said before it ended, or the error itself."""
    lines = (getattr(error, "stderr", "") or "").strip().splitlines()
    return lines[-1] if lines else str(error)


if __name__ == "__main__":
    main()
