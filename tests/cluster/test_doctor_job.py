"""What the doctor asks a cluster for, and that plans are refused before the queue."""

from pathlib import Path

import pytest
from configs import make
from test_limits import TYPED, cluster

from quantexp.cluster import doctor, doctor_job, limits, session, slurm
from quantexp.cluster.health import FAILED
from quantexp.config import ClusterConfig, Resources
from quantexp.experiment import plan


def test_the_doctor_asks_for_little_and_for_a_gpu_where_there_is_one() -> None:
    found = cluster("plain", TYPED)
    asked = doctor_job.request(ClusterConfig(name="slurm", account="a", cpus=64), found)
    assert asked == Resources(account="a", gpus=1, cpus=1, memory_gb=2.0, time_min=5)
    own = ClusterConfig(name="slurm", gpus=0, calibrate=Resources(partition="low", gpus=2))
    assert doctor_job.request(own, found).gpus == 2
    assert doctor_job.request(own, found).partition == "low"
    assert doctor_job.request(ClusterConfig(name="slurm", gpus=0), found).gpus == 0
    verbatim = ClusterConfig(name="slurm", gres="gpu:a100:1")
    assert doctor_job.request(verbatim, found).gpus is None


def test_a_cluster_that_does_not_answer_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*command: str) -> str:
        raise slurm.NoAnswerError("Unable to contact slurm controller")

    monkeypatch.setattr(slurm, "ask", silent)
    monkeypatch.chdir(tmp_path)
    [check] = doctor.in_job(make()) or []
    assert (check.name, check.state) == ("SLURM", FAILED)
    assert "Unable to contact" in check.text
    assert doctor.in_job(make(cluster={"name": "local"})) is None


def test_a_plan_that_no_node_can_run_is_refused_with_all_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "here", lambda: cluster("enforced"))
    monkeypatch.chdir(tmp_path)
    asks = {"cpus": 99, "partition": "cancel", "qos": "long", "time_min": 999}
    made = plan.make([make(cluster=asks)], baselines=True)
    found = session.obstacles(made, "slurm")
    assert any("cluster.cpus=99" in text for text in found)
    assert any("cluster.time_min=999" in text for text in found)
    assert len(found) == len(set(found))
    assert session.obstacles(made, "local") == []


def test_accounting_that_is_down_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asks: list[tuple[str, ...]] = []

    def ask(*command: str) -> str:
        asks.append(command)
        raise slurm.NoAnswerError("down")

    monkeypatch.setattr(slurm, "ask", ask)
    assert limits._ask("sacctmgr", "show", "qos") == ""
    with pytest.raises(slurm.NoAnswerError):
        limits._ask("scontrol", "show", "config")
