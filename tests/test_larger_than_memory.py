"""A model three times larger than the memory that its process may take."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import memory
import random_model

pytestmark = pytest.mark.slow

GRANTED = 640 << 20  # bytes; two thirds of them are Python and its libraries


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (GRANTED, GRANTED))


def test_it_is_quantized_and_evaluated(tmp_path: Path) -> None:
    sizes = {"hidden": 1024, "intermediate": 2816, "heads": 16}
    path = random_model.write(tmp_path / "model", **sizes, blocks=79)
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert stored > 3 * GRANTED
    overrides = ("method=smoothquant", *memory.windows(8, 128), "evaluation.max_windows=4")
    ended = subprocess.run(
        memory.command(path, tmp_path / "o", *overrides),
        env=memory.environment(),
        preexec_fn=_limit,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    [found] = (tmp_path / "o").glob("cells/*/evaluations/perplexity-*.json")
    assert json.loads(found.read_text())["value"] > 1
    [report] = (tmp_path / "o").glob("calibrations/*/report.json")
    assert len(json.loads(report.read_text())["blocks"]) == 79
