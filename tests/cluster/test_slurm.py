"""SLURM's words: states, reasons and causes, from what its programs print."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from configs import make

from quantexp.__main__ import main
from quantexp.cluster import follow, place, slurm, submitted
from quantexp.cluster.place import exports, variables_set
from quantexp.cluster.slurm import JobState, NoAnswerError
from quantexp.cluster.submitted import Submitted
from quantexp.config import to_plain
from quantexp.errors import ConfigError
from quantexp.experiment import faults, plan, record, status

QUEUE = "12_0|PENDING||JobArrayTaskLimit\n12_1|RUNNING|n1|None\n12_2|FAILED|n2|NonZeroExitCode\n"
ACCOUNTS = """12_2|FAILED|1:0|n2
12_2.0|OUT_OF_MEMORY|0:125|n2
12_1|NODE_FAIL|0:0|n1
13|FAILED|137:0|n1
14|CANCELLED by 0|0:15|None assigned
15|FAILED|74:0|n1
16|RUNNING|0:0|n3"""


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    found = {"squeue": QUEUE, "sacct": ACCOUNTS, "scontrol": "Slurmctld(primary) at x is UP"}

    def ask(*command: str) -> str:
        if command[0] not in found:
            raise NoAnswerError("no such cluster")
        return found[command[0]]

    monkeypatch.setattr(slurm, "ask", ask)
    slurm.cluster_name.cache_clear()
    return found


def test_the_queue_is_believed_before_accounting(answers: dict[str, str]) -> None:
    states = slurm.states(["12_0", "12_1", "12_2", "13", "14", "15", "16", "99"])
    assert states["16"].alive  # a colleague's: the queue lists ours only
    assert states["12_1"].alive  # sacct calls a requeued job's last run NODE_FAIL
    assert states["12_0"].pending
    assert "99" not in states
    causes = {name: faults.of_job(s.state, s.exit_code) for name, s in states.items()}
    assert causes["12_2"] == faults.MEMORY  # only the step knows
    assert causes["13"] == faults.KILLED
    assert causes["14"] == faults.CANCELLED
    assert causes["15"] == faults.DISK


def test_a_state_that_nobody_knows_ends_nothing() -> None:
    assert JobState("RESV_DEL_HOLD").alive
    assert not JobState("REVOKED").alive


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


@pytest.fixture
def sweep(tmp_path: Path, answers: dict[str, str]) -> Path:
    """A canary that failed, and the job of another cell that waited for it."""
    answers["squeue"], answers["sacct"] = "", "1|FAILED|1:0|n1\n2|CANCELLED|0:0|None"
    for cell in ("canary", "other"):
        record.write(tmp_path / "cells" / cell / "cell.json", {})
        status.queue(tmp_path / "cells" / cell)
    first = Submitted("1", "slurm", "both", (("canary",),), "2026-01-01T00:00:00+00:00")
    second = Submitted("2", "slurm", "both", (("other",),), first.time, "afterok:1,afterany:9")
    for item in (first, second):
        submitted.write(tmp_path / "sweeps" / "s" / "jobs", item)
    return tmp_path


def test_a_failed_canary_is_the_cause_of_all_others(sweep: Path) -> None:
    folder = sweep / "cells" / "other"
    status.lost(sweep / "cells" / "canary", "ValueError: boom", faults.ERROR)
    assert follow.settle_ended(sweep, [folder]) == [folder]
    found = status.read(folder)
    assert (found["state"], found["fault"]) == (status.FAILED, faults.ERROR)
    assert found["cause"].startswith("the canary canary failed (ValueError: boom): job 1: ")


def test_nothing_is_said_of_cells_while_somebody_submits_them(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their jobs of now are not on disk yet; those of yesterday have ended."""
    with submitted.claim(sweep):
        assert main(["status", "--outputs", str(sweep)]) == 0
        assert status.read(sweep / "cells" / "other")["state"] == status.QUEUED
    assert main(["status", "--outputs", str(sweep)]) == 0
    assert status.read(sweep / "cells" / "other")["state"] == status.FAILED
    capsys.readouterr()


def test_the_log_of_a_cancelled_cell_has_an_end(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "sweeps" / "s" / "jobs" / "2_0_log.out").write_text("so far\n")
    status.lost(sweep / "cells" / "other", "cancelled", faults.CANCELLED, status.INTERRUPTED)
    assert main(["logs", "other", "-f", "--outputs", str(sweep)]) == 0
    assert capsys.readouterr().out == "so far\n"


def test_cancel_gives_one_order_for_a_whole_array(
    tmp_path: Path, answers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["squeue"] = "".join(f"5_{i}|PENDING||Priority\n" for i in range(3))
    item = Submitted("5", "slurm", "both", (("a",), ("b",), ("c",)), "2026-01-01T00:00:00+00:00")
    submitted.write(tmp_path / "sweeps" / "s" / "jobs", item)
    for cell in "abc":
        record.write(tmp_path / "cells" / cell / "cell.json", {})
    record.write(tmp_path / "sweeps" / "s" / "sweep.json", {"cells": ["a", "b", "c"]})
    orders: list[list[str]] = []

    def cancelled(ids: list[str]) -> None:
        orders.append(ids)
        answers["squeue"] = ""

    monkeypatch.setattr(slurm, "cancel", cancelled)
    whole = answers["squeue"]
    for name in ("b", "s"):
        answers["squeue"] = whole
        assert main(["cancel", name, "--outputs", str(tmp_path)]) == 0
    assert orders == [["5_1"], ["5"]]


def test_the_jobs_of_another_cluster_are_left_to_it(
    tmp_path: Path,
    answers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its numbers are those of other jobs here: 7 runs, and is none of ours."""
    answers["scontrol"] = "ClusterName = here\n"
    answers["squeue"] = "7|RUNNING|n1|None\n8|RUNNING|n1|None\n"
    for cell in ("a", "b"):
        record.write(tmp_path / "cells" / cell / "cell.json", {})
        status.queue(tmp_path / "cells" / cell)
    jobs, when = tmp_path / "sweeps" / "s" / "jobs", "2026-01-01T00:00:00+00:00"
    submitted.write(jobs, Submitted("7", "slurm", "both", (("a",),), when, cluster="other"))
    submitted.write(jobs, Submitted("8", "slurm", "both", (("b",),), when, cluster="here"))
    record.write(tmp_path / "sweeps" / "s" / "sweep.json", {"cells": ["a", "b"]})
    a = tmp_path / "cells" / "a"
    assert {task.id: task.of.elsewhere for task in follow.live(tmp_path)} == {"7": True, "8": False}
    orders: list[str] = []

    def cancelled(ids: list[str]) -> None:
        orders.extend(ids)
        answers["squeue"] = ""

    monkeypatch.setattr(slurm, "cancel", cancelled)
    assert main(["cancel", "s", "--outputs", str(tmp_path)]) == 0
    assert orders == ["8"]
    assert "cluster other: cancel it there" in capsys.readouterr().err
    assert follow.settle_ended(tmp_path, [a]) == []  # nothing here knows whether it died
    assert status.read(a)["state"] == status.QUEUED
    status.lost(a, "preempted", faults.PREEMPTED, status.INTERRUPTED)  # said over there
    assert follow.live(tmp_path) == []


def test_what_setup_puts_on_pythonpath_stays_behind_our_copy() -> None:
    lines = exports({"PYTHONPATH": "/a b", "X": "$(date)"})
    script = "\n".join(["PYTHONPATH=/module", *lines, 'echo "$PYTHONPATH|$X"'])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "/a b:/module|$(date)\n"


def test_a_hang_up_waits_until_the_submission_is_written_down() -> None:
    got: list[int] = []
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)  # as the one that keeps a claim: it has no mask
    other.start()
    before = signal.signal(signal.SIGHUP, lambda number, _: got.append(number))
    try:
        with place.undisturbed():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            assert not got
        assert got == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)
        ended.set()
        other.join()


def test_exceptions_have_causes() -> None:
    out_of_gpu = type("OutOfMemoryError", (RuntimeError,), {})
    assert faults.of_exception(out_of_gpu("CUDA out of memory")) == faults.GPU_MEMORY
    assert faults.of_exception(OSError(28, "No space left on device")) == faults.DISK
    assert faults.of_exception(RuntimeError("I/O error: (os error 28)")) == faults.DISK
    assert faults.of_exception(MemoryError()) == faults.MEMORY
    assert faults.of_exception(ValueError("x")) == faults.ERROR
