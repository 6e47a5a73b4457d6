"""Submission without a SLURM: dependencies and shares, and what a refusal leaves."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from configs import make

from quantexp.cluster import limits, slurm, submit, submitted
from quantexp.cluster.facts import Association, Facts
from quantexp.errors import ConfigError
from quantexp.experiment import plan, status

SPLIT = {"calibrate": {"time_min": 600}, "evaluate": {"time_min": 60}}


class Executor:
    """In place of submitit's: numbers what it is given, and refuses the third."""

    calls: list[dict[str, Any]] = []  # noqa: RUF012 (of the class: one per test)
    refuse = 99

    def __init__(self, folder: Path, **_: object) -> None:
        self.folder = folder

    def update_parameters(self, **given: Any) -> None:
        self.given = given

    def map_array(self, _: object, parts: list[Any], __: object) -> list[SimpleNamespace]:
        (self.folder / f"{'0' * 32}.pkl").touch()
        if len(self.calls) + 1 == self.refuse:
            raise RuntimeError("x\nsbatch: error: Batch job submission failed: no money\n")
        self.calls.append(self.given)
        number = len(self.calls)
        return [SimpleNamespace(job_id=f"{number}_{i}") for i in range(len(parts))]


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import submitit

    cancelled: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    monkeypatch.setattr(Executor, "calls", [])
    monkeypatch.setattr(slurm, "max_array_size", lambda: 1001)
    monkeypatch.setattr(slurm, "cluster_name", lambda: "here")
    monkeypatch.setattr(limits, "here", lambda: Facts({}, ()))
    monkeypatch.setattr(slurm, "cancel", cancelled.extend)
    return cancelled


def run(**cluster: Any) -> list[str | None]:
    """Submits two calibrations with two evaluations each; the dependencies of all arrays."""
    configs = [make(a, w, {**SPLIT, **cluster}) for w in (3, 4) for a in (4, 8)]
    made = plan.make(configs, baselines=True)
    folder = Path("outputs/sweeps/s/jobs")
    done = submit.submit(made.jobs, configs[0].cluster, folder, {})
    assert [item.id for item in done] == [call_id for call_id, _ in enumerate_calls()]
    return [call["dependency"] for call in Executor.calls]


def enumerate_calls() -> list[tuple[str, dict[str, Any]]]:
    return [(str(number), call) for number, call in enumerate(Executor.calls, 1)]


def test_ids_are_on_disk_and_evaluations_wait_for_their_calibration() -> None:
    assert run() == [None, None, "aftercorr:2", "aftercorr:2"]
    found = submitted.tasks(Path("outputs"), "s")
    assert {task.id for task in found} >= {"1", "2_0", "2_1", "3_0", "4_1"}
    assert {task.of.cluster for task in found} == {"here"}
    given = Executor.calls[1]
    assert given["additional_parameters"]["kill-on-invalid-dep"] == "yes"
    assert given["wckey"] is None


def test_a_canary_goes_first_and_everything_waits_for_it() -> None:
    # it is a calibration with its two evaluations
    assert run(canary=True) == [
        None,
        "afterok:1",
        "afterok:1",
        "afterok:3",
        "afterok:3",
        "afterok:3,afterok:5",
        "afterok:3,afterok:5",
    ]


def test_arrays_share_what_may_run_at_once() -> None:
    run(max_jobs=3)
    assert [call["array_parallelism"] for call in Executor.calls] == [1, 1, 1, 1]
    assert Executor.calls[3]["dependency"] == "aftercorr:2,afterany:1"


def test_a_refusal_takes_everything_back(fake: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Executor, "refuse", 3)
    with pytest.raises(ConfigError, match="no money"):
        run()
    assert fake == ["1", "2"]
    assert list(Path("outputs/sweeps/s/jobs").iterdir()) == []
    states = [status.read(folder) for folder in Path("outputs/cells").iterdir()]
    assert {state["state"] for state in states} == {"failed"}
    assert all("not submitted" in state["cause"] for state in states)


def test_a_full_queue_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Facts({}, (), (Association("ann", frozenset(), 9),), enforced=frozenset({"limits"}))
    monkeypatch.setattr(limits, "here", lambda: limited)
    monkeypatch.setattr(slurm, "queued", lambda: 7)
    # room for two tasks: one is the baseline, and a calibration and its evaluations are two
    with pytest.raises(ConfigError, match=r"room for 2 more.*nothing was submitted.*goes on"):
        run()
    assert Executor.calls == []
    monkeypatch.setattr(slurm, "queued", lambda: 6)
    assert run() == [None, None, "afterok:2"]


@pytest.mark.parametrize("option", ["clusters=b", "--clusters=b", "M=b"])
def test_jobs_for_another_cluster_are_refused(option: str) -> None:
    made = plan.make([make(3, 4, {"sbatch": [option]})], baselines=False)
    cells = [cell for job in made.jobs for cell in job.cells]
    found = [text for text in limits.refused(cells) if option in text]
    assert len(found) == 1
    assert "login node of that cluster" in found[0]
