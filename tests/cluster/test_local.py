"""The pool: what a job does to itself never reaches the others, and every cell gets a state."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from fakes import fake_model

from quantexp.cluster import local
from quantexp.cluster.job import Part
from quantexp.cluster.watch import read
from quantexp.config import ClusterConfig, ExperimentConfig, from_plain
from quantexp.experiment import plan, status
from quantexp.experiment.cell import Cell

# The job function below is only known here, so it travels by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def job(parts: Sequence[Part], environment: dict[str, str]) -> None:
    """What a process does."""
    for part in parts:
        one(part.configs[0], environment)


def one(config: dict[str, Any], environment: dict[str, str]) -> None:
    """Ends in a way that the seed chooses."""
    import signal

    from quantexp.config import from_plain
    from quantexp.experiment import record
    from quantexp.experiment.cell import Cell
    from quantexp.experiment.status import Status

    cell = Cell(from_plain(config))
    attempt = Status(cell.folder)
    if cell.config.gptq.block_size == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.config.gptq.block_size == 2:
        sys.exit(3)
    if cell.config.gptq.block_size == 3:
        raise ValueError("boom")
    for item in cell.evaluations:
        path = cell.folder / "evaluations" / item.file_name
        seen = {"seen": dict(os.environ), "given": environment, "process": {"id": os.getpid()}}
        record.write(path, seen)
    attempt.finish()


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ExperimentConfig]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some words " * 100)
    bits = {t: {"granularity": "per_head"} for t in ("key", "value", "query")}
    bits |= {"weight": {"bits": 4, "dynamic": False}, "activation": {"granularity": "per_token"}}
    data: dict[str, Any] = {
        "model": {"name": "local", "source": "local", "path": str(fake_model(tmp_path / "m"))},
        "method": {"name": "rtn"},
        "rounding": "gptq",
        "bits": bits,
        "data": {"name": "local", "path": "text.txt", "num_samples": 2, "seq_len": 8},
        "evaluation": {"name": "local", "path": "text.txt", "seq_len": 8},
        "protocol": {"name": "uniform"},
        "cluster": {"name": "local"},
        "tracker": {"name": "none", "mode": "disabled"},
    }
    return [from_plain(data | {"gptq": {"block_size": size}}) for size in (1, 2, 3, 4)]


def test_killed_exiting_and_raising_jobs_fail_alone(configs: list[ExperimentConfig]) -> None:
    made = plan.make(configs, baselines=False)
    plan.write(made, Path("outputs/sweeps/s"), [])
    local.run_jobs(made.jobs, ClusterConfig("local", threads=1), Path("jobs"), job)
    cells = [Cell(config) for config in configs]
    states = [status.read(cell.folder) for cell in cells]
    assert [s["state"] for s in states] == ["failed", "failed", "failed", "done"]
    assert "memory" in states[0]["cause"]
    assert "_log.out" in states[0]["cause"]
    assert made.failed == tuple(cells[:3])
    assert read(cells[0].folder).cause


@pytest.mark.parametrize("pack", [2, 4])
def test_jobs_of_one_process_fail_alone(configs: list[ExperimentConfig], pack: int) -> None:
    # 4 is done, 1 kills its process, 2 and 3 had not begun
    made = plan.make([configs[3], *configs[:3]], baselines=False)
    plan.write(made, Path("outputs/sweeps/s"), [])
    cluster = ClusterConfig("local", threads=1, pack=pack)
    assert [len(bundle) for bundle in local.bundles(made.jobs, cluster, 1)] == [pack] * (4 // pack)
    local.run_jobs(made.jobs, cluster, Path("jobs"), job)
    states = [status.read(cell.folder) for cell in made.cells]
    assert [s["state"] for s in states] == ["done", "failed", "failed", "failed"]
    assert ["ended without a word" in s.get("cause", "") for s in states[1:]] == [True] * 3


def test_small_models_share_processes_that_all_slots_have_several_of(
    configs: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    [work] = plan.make(configs[:1], baselines=False).jobs
    cluster = ClusterConfig("local", threads=1)
    for jobs, slots, expected in ((2, 1, 1), (6, 1, 2), (24, 1, 8), (100, 1, 8), (24, 8, 1)):
        found = local.bundles([work] * jobs, cluster, slots)
        assert {len(bundle) for bundle in found[:-1]} <= {expected}
        assert sum(map(len, found)) == jobs
    monkeypatch.setattr(local, "_SMALL", 1)
    assert len(local.bundles([work] * 24, cluster, 1)) == 24


def test_jobs_get_their_threads_device_and_no_network(configs: list[ExperimentConfig]) -> None:
    made = plan.make(configs[3:], baselines=False)
    local.run_jobs(made.jobs, ClusterConfig("local", threads=1), Path("jobs"), job)
    stored = made.cells[0].result(made.cells[0].evaluations[0])
    assert stored is not None
    for variables in (
        stored["seen"],
        stored["given"],
    ):  # from the process's very start, and for run() to set
        assert variables["OMP_NUM_THREADS"] == "1"
        assert variables["HF_HUB_OFFLINE"] == "1"
        assert variables["CUDA_VISIBLE_DEVICES"] == ""


def test_one_job_per_gpu(configs: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f,7")
    assert local.slots(ClusterConfig("local"), []) == ["3", "GPU-5f", "7"]
    assert local.slots(ClusterConfig("local", max_jobs=2), []) == ["3", "GPU-5f"]


def test_without_gpus_cores_are_shared_and_one_job_always_runs(
    configs: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    jobs = plan.make(configs, baselines=False).jobs
    assert local.slots(ClusterConfig("local", threads=10_000), jobs) == [""]


def test_a_job_whose_process_is_gone_is_shown_as_interrupted(tmp_path: Path) -> None:
    attempt = status.Status(tmp_path)
    attempt.progress("calibrate", 1, 4, 0.5)
    stored = status.read(tmp_path)
    assert stored["state"] == "running"
    attempt._data["pid"] = 2**22 + 1
    attempt._write()
    assert read(tmp_path).state == "interrupted"
    status.queue(tmp_path)
    assert status.read(tmp_path) == {
        "state": "queued",
        "attempt": 1,
        "updated": status.read(tmp_path)["updated"],
    }


def test_mig_instances_stand_for_their_gpu() -> None:
    listed = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c)
  MIG 3g.20gb     Device  0: (UUID: MIG-63feeb45)
  MIG 1g.5gb      Device  1: (UUID: MIG-2c9ad8ec)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-4404041a)
"""
    assert local._devices(listed) == ["MIG-63feeb45", "MIG-2c9ad8ec", "1"]
