"""A run killed in mid-calibration goes on at the next block and ends bit-identical."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def start(outputs: Path) -> "subprocess.Popen[bytes]":
    command = [
        sys.executable,
        "-m",
        "quantexp",
        "method=flatquant",
        "rounding=gptq",
        "bits=w4a4kv4",
    ]
    # few epochs and windows: the claim does not depend on their number
    command += ["method.epochs=2", "data.num_samples=8", f"paths.outputs={outputs}"]
    command += ["evaluation.max_windows=8", "tracker=none"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def blocks(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("calibrations/*/blocks/*.json"))


def result(outputs: Path) -> tuple[dict[str, str], dict[str, object]]:
    weights = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in outputs.glob("calibrations/*/checkpoint/*.safetensors")
    }
    records = [json.loads(p.read_text()) for p in outputs.glob("cells/*/evaluations/*.json")]
    return weights, {r["kind"]: (r["value"], r["details"].get("window_nll")) for r in records}


def test_sigkill_in_mid_calibration_changes_nothing(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait() == 0

    killed = start(broken)
    while len(blocks(broken)) < 2:
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = {path.name: path.stat().st_mtime_ns for path in blocks(broken)}
    assert not list(broken.glob("cells/*/evaluations/*.json"))

    again = start(broken)
    first = blocks(broken)
    assert again.wait() == 0
    assert len(done) < 4, "nothing was left to calibrate"
    assert {p.name for p in first} >= set(done)
    assert result(broken) == result(whole)
    assert len(result(whole)[0]) == 1
    assert set(result(whole)[1]) == {"perplexity", "block_error"}
