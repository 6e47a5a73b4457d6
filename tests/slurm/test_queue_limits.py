"""A limit on the jobs of a user, enforced by accounting: a larger sweep runs to its end."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from sweep import Sweep, finish, slurm

pytestmark = pytest.mark.slurm
MOST = 6  # jobs in the queue


@pytest.fixture
def limited(cluster: Cluster, tmp_path: Path) -> Iterator[Sweep]:
    before = cluster.conf.read_text()
    for item in (["account", "lab"], ["user", "root", "account=lab"]):
        add = ["sacctmgr", "-i", "add", *item, "cluster=test"]
        subprocess.run(add, capture_output=True, check=False)  # the second test has them
    slurm("sacctmgr", "-i", "modify", "user", "root", "set", f"MaxSubmitJobs={MOST}")
    cluster.stop_controller()
    cluster.conf.write_text(f"{before}AccountingStorageEnforce=limits\n")
    cluster.start_controller()
    bits = "w4a16,w4a8,w4a4,w4a4kv4,w3a16,w3a3kv3,kv4,kv2,w8a8,w6a6,w2a16"
    own = ("cluster.poll_s=1", "cluster.memory_gb=1")
    split = ("cluster.calibrate.time_min=20", "cluster.evaluate.time_min=10")
    made = Sweep(tmp_path, *own, *split, cells=("method=rtn", f"bits={bits}"))
    yield made
    made.end()
    slurm("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    cluster.stop_controller()
    cluster.conf.write_text(before)
    cluster.start_controller()


def test_a_sweep_larger_than_the_limit_runs_to_its_end(limited: Sweep) -> None:
    # six calibrations and twelve evaluations; somebody else's job takes a place
    slurm("sbatch", "-n1", "-o", "/dev/null", "--wrap", "sleep 600")
    client = limited.start()
    most = 0
    while client.poll() is None:
        most = max(most, len(slurm("squeue", "-h", "-r").splitlines()))
        time.sleep(0.2)
    code, said = finish(client)
    assert code == 0, said
    assert most <= MOST
    assert len(list(limited.outputs.glob("cells/*/evaluations/perplexity-*.json"))) == 12
    assert sum(len(job["tasks"]) for job in limited.jobs()) <= MOST - 1


def test_without_room_it_is_said_and_the_same_command_goes_on(limited: Sweep) -> None:
    for _ in range(MOST):
        slurm("sbatch", "-n1", "-o", "/dev/null", "--wrap", "sleep 600")
    code, said = finish(limited.start())
    assert code == 2
    assert f"lets you have {MOST} jobs" in said
    assert "nothing was submitted" in said
    assert limited.jobs() == []
    slurm("scancel", "-u", "root")
    while slurm("squeue", "-h"):
        time.sleep(0.2)
    assert limited.run() == 0
