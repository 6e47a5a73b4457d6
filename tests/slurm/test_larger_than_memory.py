"""A model three times larger than the memory of its job."""

import json
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from sweep import ROOT, Sweep, slurm

sys.path.append(str(ROOT / "benchmarks"))
import random_model

pytestmark = pytest.mark.slurm

GRANTED = 640  # MiB; two thirds of them are Python and its libraries
BLOCKS = 142
ASKED = ("cluster=slurm", "cluster.poll_s=1", f"cluster.memory_gb={GRANTED / 1024}")


def test_it_is_quantized_and_evaluated(tmp_path: Path, cluster: Cluster) -> None:
    if not cluster.cgroups:
        pytest.skip("this SLURM enforces no memory limits: no control groups can be made here")
    sizes = {"hidden": 768, "intermediate": 2048, "heads": 12}
    path = random_model.write(tmp_path / "model", **sizes, blocks=BLOCKS)
    stored = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    assert stored > 3 * GRANTED << 20
    cells = ("model=local", f"model.path={path}", "method=rtn", "bits=w4a16")
    sweep = Sweep(tmp_path, *ASKED, cells=cells)
    try:
        assert sweep.run() == 0
    finally:
        sweep.end()
    [found] = sweep.outputs.glob("cells/*-rtn-*/evaluations/perplexity-*.json")
    assert json.loads(found.read_text())["value"] > 1
    [report] = sweep.outputs.glob("calibrations/*/report.json")
    assert len(json.loads(report.read_text())["blocks"]) == BLOCKS
    jobs = slurm("sacct", "-nPX", "-o", "ReqMem,State").split()
    assert f"{GRANTED}M|COMPLETED" in jobs
