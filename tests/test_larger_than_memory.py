"""A model three times larger than the memory that its process may take."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import memory
import random_model

pytestmark = pytest.mark.slow

GRANTED = 640 << 20  # bytes; two thirds of them are Python and its libraries
_GROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that is granted so much, files' pages among it: what SLURM's --mem makes."""
    one = (_GROUPS / "memory").is_dir()
    found = (_GROUPS / "memory" if one else _GROUPS) / f"quantexp-{os.getpid()}"
    try:
        found.mkdir()
        limit = "memory.limit_in_bytes" if one else "memory.max"
        (found / limit).write_text(str(GRANTED))
    except OSError as error:
        pytest.skip(f"memory limits need a control group of our own: {error}")
    yield found
    found.rmdir()


def test_it_is_quantized_and_evaluated(tmp_path: Path, group: Path) -> None:
    sizes = {"hidden": 768, "intermediate": 2048, "heads": 12}
    path = random_model.write(tmp_path / "model", **sizes, blocks=142)
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert stored > 3 * GRANTED
    overrides = ("method=rtn", "evaluation.max_windows=4")

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    ended = subprocess.run(
        memory.command(path, tmp_path / "o", *overrides),
        env=memory.environment(),
        preexec_fn=enter,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    [found] = (tmp_path / "o").glob("cells/*/evaluations/perplexity-*.json")
    assert json.loads(found.read_text())["value"] > 1
    [report] = (tmp_path / "o").glob("calibrations/*/report.json")
    assert len(json.loads(report.read_text())["blocks"]) == 142
