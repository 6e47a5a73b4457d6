"""SLURM's words: states, reasons and causes, from what its programs print."""

import json
from pathlib import Path
from typing import Any

import pytest
from configs import make

from quantexp.cluster import follow, place, slurm, submitted
from quantexp.cluster.place import variables_set
from quantexp.cluster.slurm import JobState, NoAnswerError
from quantexp.cluster.submitted import Submitted
from quantexp.config import to_plain
from quantexp.errors import ConfigError
from quantexp.experiment import faults, plan, status

QUEUE = "12_0|PENDING||JobArrayTaskLimit\n12_1|RUNNING|n1|None\n12_2|FAILED|n2|NonZeroExitCode\n"
ACCOUNTS = """12_2|FAILED|1:0|n2
12_2.0|OUT_OF_MEMORY|0:125|n2
12_1|NODE_FAIL|0:0|n1
13|FAILED|137:0|n1
14|CANCELLED by 0|0:15|None assigned
15|FAILED|74:0|n1"""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = {"squeue": QUEUE, "sacct": ACCOUNTS, "scontrol": "Slurmctld(primary) at x is UP"}

    def ask(*command: str) -> str:
        if command[0] not in found:
            raise NoAnswerError("no such cluster")
        return found[command[0]]

    monkeypatch.setattr(slurm, "ask", ask)
    return found


def test_the_queue_is_believed_before_accounting(answers: dict[str, str]) -> None:
    states = slurm.states(["12_0", "12_1", "12_2", "13", "14", "15", "99"])
    assert states["12_1"].alive  # sacct calls a requeued job's last run NODE_FAIL
    assert states["12_0"].pending
    assert "99" not in states
    causes = {name: faults.of_job(s.state, s.exit_code) for name, s in states.items()}
    assert causes["12_2"] == faults.MEMORY  # only the step knows
    assert causes["13"] == faults.KILLED
    assert causes["14"] == faults.CANCELLED
    assert causes["15"] == faults.DISK


def test_without_accounting_the_queue_must_do(answers: dict[str, str]) -> None:
    del answers["sacct"]
    states = slurm.states(["12_0", "12_2", "13"])
    assert set(states) == {"12_0", "12_2"}
    assert not states["12_2"].alive


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "others are before it"),
        ("Dependency", "another job of the sweep"),
        ("ReqNodeNotAvail, UnavailableNodes:n2", "down or reserved"),
        ("QOSMaxJobsPerUserLimit", "limit of the QOS"),
        ("AssocGrpGRES", "limit of the account"),
        ("Nodes required for job are DOWN, DRAINED or reserved", "down or reserved"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_reasons_are_said_in_words(reason: str, words: str) -> None:
    assert words in JobState("PENDING", reason).why


def test_auto_is_here_inside_a_job_and_without_a_cluster(
    answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert place.resolve("auto") == "slurm"
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert place.resolve("auto") == "local"
    assert place.resolve("slurm") == "slurm"
    monkeypatch.delenv("SLURM_JOB_ID")
    answers["scontrol"] = "Slurmctld(primary) at x is DOWN"
    with pytest.raises(ConfigError, match="cluster=local"):  # a login node is no place to run
        place.resolve("auto")
    monkeypatch.setattr(place.shutil, "which", lambda name: None)
    assert place.resolve("auto") == "local"


def test_programs_without_a_cluster_are_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*command: str) -> str:
        raise NoAnswerError("scontrol: fatal: Could not establish a configuration source")

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(place.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert place.resolve("auto") == "local"
    with pytest.raises(ConfigError, match="configuration source"):
        place.resolve("slurm")


def test_jobs_started_from_a_job_do_not_take_it_for_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    monkeypatch.setenv("SLURM_CONF", "/x")
    with variables_set({"A": "b"}):
        assert "SLURM_MEM_PER_NODE" not in os.environ
        assert (os.environ["SLURM_CONF"], os.environ["A"]) == ("/x", "b")
    assert os.environ["SLURM_MEM_PER_NODE"] == "1"


def test_what_a_shell_would_execute_is_in_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil: dict[str, Any] = {"setup": ["rm x"], "python": "evil", "container": "evil"}
    config = make(cluster={**evil, "sbatch": ["wrap=evil"]})
    assert "evil" not in json.dumps(to_plain(config))
    given = ["cluster.setup=[rm x]", "++cluster.python=evil", "bits=w4a4", "cluster.sbatch=[evil]"]
    made = plan.make([config], baselines=False)
    plan.write(made, Path("outputs/sweeps/s"), given)
    for path in Path("outputs").rglob("*.json"):
        assert "evil" not in path.read_text()
    assert plan.without_executed(given) == ["bits=w4a4"]


def test_a_failed_calibration_is_the_cause_of_what_waited_for_it(tmp_path: Path) -> None:
    jobs = tmp_path / "sweeps" / "s" / "jobs"
    for cell in ("a", "b"):
        status.queue(tmp_path / "cells" / cell)
    first = Submitted("1", "slurm", "calibrate", (("a", "b"),), "2026-01-01T00:00:00+00:00")
    second = Submitted("2", "slurm", "evaluate", (("a",), ("b",)), first.time, "afterok:1")
    submitted.write(jobs, first)
    submitted.write(jobs, second)
    tasks = submitted.of_cells(submitted.tasks(tmp_path))
    ended = JobState("OUT_OF_MEMORY", exit_code=125)
    states = {"1": ended, "2_0": JobState("CANCELLED"), "2_1": JobState("CANCELLED")}
    folder = tmp_path / "cells" / "b"
    follow.settle(folder, tasks["b"], states)
    found = status.read(folder)
    assert found["fault"] == faults.MEMORY
    assert "its calibration failed" in found["cause"]
    assert "1_0_log.out" in found["cause"]


def test_exceptions_have_causes() -> None:
    out_of_gpu = type("OutOfMemoryError", (RuntimeError,), {})
    assert faults.of_exception(out_of_gpu("CUDA out of memory")) == faults.GPU_MEMORY
    assert faults.of_exception(OSError(28, "No space left on device")) == faults.DISK
    assert faults.of_exception(RuntimeError("I/O error: (os error 28)")) == faults.DISK
    assert faults.of_exception(MemoryError()) == faults.MEMORY
    assert faults.of_exception(ValueError("x")) == faults.ERROR
