"""A larger sweep on a real SLURM, and the commands that need no living client."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from sweep import Sweep, finish, slurm, until

pytestmark = pytest.mark.slurm

# with the baseline twelve cells of six calibrations, which serve four, two, two and one of them
TWELVE = "w4a16,w4a8,w4a4,w4a4kv4,w3a16,w3a3kv3,kv4,kv2,w8a8,w6a6,w2a16"
SPLIT = ("cluster.calibrate.time_min=20", "cluster.evaluate.time_min=10")


@pytest.fixture
def twelve(cluster: Cluster, tmp_path: Path) -> Iterator[Sweep]:
    own = ("cluster.poll_s=1", "cluster.memory_gb=1", "cluster.max_jobs=4", *SPLIT)
    made = Sweep(tmp_path, *own, cells=("method=rtn", f"bits={TWELVE}"))
    yield made
    made.end()


def test_twelve_cells_in_arrays_with_dependencies(twelve: Sweep) -> None:
    # one calibration is there already, of another evaluation of its cell
    other = [item for item in twelve.command if not item.startswith(("bits=", "name=", "-m"))]
    other += ["bits=w2a16", "evaluation.seq_len=32", "cluster=debug"]
    assert finish(twelve.call(*other))[0] == 0
    [cached] = twelve.outputs.glob("calibrations/*/report.json")
    before = cached.stat().st_mtime_ns

    code, said = finish(twelve.start())
    assert code == 0
    jobs = twelve.jobs()
    assert [(job["kind"], len(job["tasks"])) for job in jobs] == [
        ("evaluate", 2),  # the baseline and the cached one
        ("calibrate", 5),
        ("evaluate", 5),
        ("evaluate", 3),
        ("evaluate", 1),
        ("evaluate", 1),
    ] or said
    calibrations = next(job["id"] for job in jobs if job["kind"] == "calibrate")
    for job in jobs:
        if job["kind"] == "evaluate" and len(job["tasks"]) in (5, 3):
            assert f"aftercorr:{calibrations}" in job["after"]
    assert any(f"afterok:{calibrations}_0" in (job["after"] or "") for job in jobs)
    assert cached.stat().st_mtime_ns == before
    assert len(list(twelve.outputs.glob("calibrations/*/report.json"))) == 6
    assert len(list(twelve.outputs.glob("cells/*/evaluations/perplexity-*.json"))) == 13
    assert _most_at_once([job["id"] for job in jobs]) <= 4
    assert len(json.loads(twelve.ask("status", "--sweep", "s", "--json"))) == 12


def _most_at_once(ids: list[str]) -> int:
    """How many of these jobs ran at the same time."""
    rows = slurm("sacct", "-nPX", "-j", ",".join(ids), "-o", "Start,End").split()
    times = [row.split("|") for row in rows]
    events = [(start, 1) for start, _ in times] + [(end, -1) for _, end in times]
    running = most = 0
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    return most


def test_commands_from_another_shell(sweep: Sweep) -> None:
    code, said = finish(sweep.start("cluster.detach=true"), seconds=60)
    assert code == 0
    assert "status --sweep s --watch" in said
    sweep.wait_for_blocks()
    sweep.process().suspend()  # it must not be done before it is cancelled
    states = json.loads(sweep.ask("status", "--sweep", "s", "--json"))
    running = next(state for state in states if "flatquant" in state["cell"])
    assert running["state"] == "running"
    assert "runs on qx" in running["slurm"]
    assert "activations of 8 windows" in sweep.ask("logs", "flatquant")
    [listed] = json.loads(sweep.ask("logs", "flatquant", "--json"))
    assert Path(listed["log"]).is_file()

    cancelled = json.loads(sweep.ask("cancel", "flatquant", "--json"))
    assert cancelled["jobs"] == [sweep.job()]
    until(lambda: not slurm("squeue", "-h"), "empty queue")
    found = sweep.status()
    assert (found["state"], found["fault"]) == ("interrupted", "cancelled")
    assert "no job of s" in sweep.ask("cancel", "s")

    # what a shell would execute is said anew, or comes from conf/: no record has it
    again = ("cluster.detach=false", "cluster.setup=[echo hello from setup]")
    assert "done" in sweep.ask("retry", "s", *again, "--json")
    assert sweep.status()["state"] == "done"
    assert "hello from setup" in sweep.ask("logs", "flatquant")
    assert sweep.ask("status", "--sweep", "s", "--watch").count("done") == 2


def test_what_slurm_refuses_leaves_nothing_behind(sweep: Sweep) -> None:
    # one cell: its calibration is accepted, its evaluation is not; expressions are SLURM's matter
    sweep.command.remove("-m")
    code, said = finish(sweep.start("cluster=slurm", "cluster.evaluate.constraint='a&b'"))
    assert code == 2
    assert "feature" in said.lower()
    assert not slurm("squeue", "-h")
    assert list((sweep.outputs / "sweeps/s/jobs").glob("*[!t]")) == []  # .out: a job began
    assert "not submitted" in sweep.status()["cause"]
