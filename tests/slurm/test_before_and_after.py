"""Before a sweep: the doctor and what is refused. After it is queued: edits do not reach it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from sweep import ROOT, Sweep, finish, slurm

pytestmark = pytest.mark.slurm


def test_the_doctors_job_finds_what_cells_find(sweep: Sweep) -> None:
    place = (f"paths.outputs={sweep.outputs}", "tracker=none", "cluster.memory_gb=1")
    code, said = finish(sweep.call("doctor", *place, "cluster.gpus=0", "--json"))
    found = json.loads(said[said.index("{\n") :])
    states = {check["name"]: check["state"] for check in found["job"]}
    assert code == 0, said
    assert states["as on the login node"] == states["imports"] == states["outputs"] == "ok"
    assert not (sweep.outputs / "doctor").exists()
    # the cluster's GPUs are empty words
    code, said = finish(sweep.call("doctor", *place))
    assert code == 1
    assert "torch sees none" in " ".join(said.split())
    wrong = finish(sweep.call("doctor", *place, "cluster.gpus=0", "cluster.python=/absent/python"))
    assert wrong[0] == 1
    assert "/absent/python" in wrong[1]


def test_what_no_node_has_is_refused_and_nothing_is_queued(sweep: Sweep) -> None:
    wrong = ("cluster.cpus=99", "cluster.partition=man")
    code, said = finish(sweep.start(*wrong))
    assert code == 2
    assert "did you mean 'main'" in said
    code, said = finish(sweep.start("cluster.cpus=99", "cluster.memory_gb=999"))
    assert code == 2
    assert "cluster.cpus=99" in said
    assert "cluster.memory_gb=999" in said
    assert sweep.jobs() == []
    assert slurm("squeue", "-h") == ""


def test_an_edit_after_the_submission_does_not_reach_the_jobs(
    cluster: Cluster, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("quantexp", "conf", "sweeps"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    sweep = Sweep(tmp_path, "cluster.poll_s=1", "cluster.memory_gb=1", "cluster.detach=true")
    command = [sys.executable, "-m", "quantexp", *sweep.command]
    hold = ["scontrol", "update", "partitionname=main", "state=down"]
    subprocess.run(hold, check=True)
    try:
        subprocess.run(command, cwd=checkout, check=True)
        broken = 'raise RuntimeError("edited while the job waited")\n'
        for path in (checkout / "quantexp").rglob("*.py"):
            path.write_text(broken)
    finally:
        subprocess.run([*hold[:-1], "state=up"], check=True)
    try:
        sweep.command.remove("cluster.detach=true")
        assert sweep.run() == 0  # from another checkout: only watches
        assert len(sweep.jobs()) == 1
        [record] = sweep.cell.glob("evaluations/perplexity-*.json")
        provenance = json.loads(record.read_text())["provenance"]
        [copied] = (sweep.outputs / "code").iterdir()
        assert provenance["snapshot"] == copied.name
    finally:
        sweep.end()
