"""The benchmarks run from end to end; what they measure is docs/performance.md's matter."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_accelerators_benchmark_works_on_tiny_sizes(tmp_path: Path) -> None:
    run("accelerator.py", "--tiny", "--out", str(tmp_path))
    rows = json.loads((tmp_path / "accelerator.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        "flatquant",
        "flatquant-host",
        "gptq",
        "awq",
        "omniquant",
    ]
    for row in rows:
        assert len(row["seconds"]) == 3  # the first, one that stands for all others, the last
        assert row["seconds_all"] > 0
        assert "aten::mm" in (tmp_path / f"profile-{row['method']}.txt").read_text()


@pytest.mark.slow
def test_a_peer_that_is_not_there_is_left_out_with_the_reason(tmp_path: Path) -> None:
    sizes = ("--random", "64", "--blocks", "2", "--windows", "4", "--length", "64")
    out = tmp_path / "out.json"
    rest = ("--test-windows", "2", "--repeats", "1", "--methods", "rtn", "gptq")
    text = run("peers.py", *sizes, *rest, "--json", str(out), "--llm-compressor", sys.executable)
    assert "llm-compressor is left out: ModuleNotFoundError" in text
    assert "gptqmodel is left out: no --gptqmodel PYTHON was given" in text
    rows = json.loads(out.read_text())["rows"]
    assert [(row["method"], row["package"]) for row in rows] == [
        ("rtn", "quantexp"),
        ("gptq", "quantexp"),
    ]
    assert all(row["logit_error"] > 0 for row in rows)


def test_operations_of_a_pass_are_two_per_weight_and_token_and_half_of_attention() -> None:
    found = runpy.run_path(str(BENCHMARKS / "flops.py"))
    shape = found["Shape"](hidden=4096, intermediate=14336, heads=32, kv_heads=8)
    assert shape.weights == 218_103_808  # of each of LLaMA-3-8B's blocks
    products = 2 * shape.weights * 128 * 2048
    attention = 4 * 4096 * 2048 * 128 * 2048 / 2  # QKᵀ and PV, the causal half
    assert found["forward"](shape, 128, 2048) == products + attention
    assert found["learned"](shape, 128, 2048, 15) == 47 * (products + attention)
