"""A job of SLURM and its signal: it is queued again as long as that gets it further."""

import time
from pathlib import Path

import pytest
from configs import make

from quantexp.cluster import job, slurm
from quantexp.cluster.job import Part, SlurmWork
from quantexp.config import Resources, to_plain
from quantexp.errors import CalibrationError
from quantexp.experiment import faults, run, status
from quantexp.experiment.cell import Cell
from quantexp.experiment.status import Status


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    config = to_plain(make())
    return Part("both", (config,), (config,))


def attempt(part: Part, done: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An attempt that has got so far when the signal comes."""
    folder = Cell(make()).folder
    under_way = Status(folder)
    under_way.progress("calibrate", done, 4)
    monkeypatch.setattr(run, "_attempts", [under_way])
    return folder


def test_early_it_is_a_preemption_late_the_time_limit(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the job's own start: its setup may have taken most of the time."""
    monkeypatch.setattr(job, "perform", lambda *_: 0)
    for started, fault in ((0, faults.PREEMPTED), (-29 * 60, faults.TIME)):
        work = SlurmWork(Resources(time_min=30), signal_s=60)
        monkeypatch.setenv("QUANTEXP_STARTED", str(int(time.time()) + started))
        work([part], {})
        folder = attempt(part, 1, monkeypatch)
        assert work.checkpoint([part], {}).function is work
        assert status.read(folder)["fault"] == fault


def test_a_job_that_no_longer_gets_further_within_its_limit_fails(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = SlurmWork(Resources(time_min=1), signal_s=60)
    for done in (1, 2):
        folder = attempt(part, done, monkeypatch)
        work.checkpoint([part], {})
    attempt(part, 2, monkeypatch)
    with pytest.raises(CalibrationError, match=r"cluster\.time_min"):
        work.checkpoint([part], {})
    assert [end["fault"] for end in status.attempts(folder)] == [faults.TIME] * 2


def test_a_further_run_says_why_the_one_before_ended(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTEXP_JOB", "7")
    folder = attempt(part, 2, monkeypatch)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(slurm, "earlier_end", lambda _: "NODE_FAIL")
    monkeypatch.setattr(job, "perform", lambda *_: 0)
    SlurmWork(Resources(time_min=30), 60)([part], {})
    assert status.read(folder)["fault"] == faults.NODE


def test_a_job_that_did_not_do_its_work_says_so_by_its_exit_code(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "run_cell", lambda _: False)
    with pytest.raises(SystemExit, match="1"):
        SlurmWork(Resources(time_min=30), 60)([part], {"OMP_NUM_THREADS": "1"})

    def full(_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "run_cell", full)
    with pytest.raises(SystemExit, match="74"):
        SlurmWork(Resources(time_min=30), 60)([part], {"OMP_NUM_THREADS": "1"})


def test_a_job_works_where_the_sweep_was_started(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configurations hold relative paths, and a setup may have gone elsewhere."""
    work, scratch = SlurmWork(Resources(time_min=30), 60), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    seen: list[Path] = []
    monkeypatch.setattr(job, "perform", lambda *_: seen.append(Path.cwd()))
    work([part], {})
    assert seen == [tmp_path]
    work._folder = str(tmp_path / "gone")
    with pytest.raises(SystemExit, match=r"gone, where the sweep was started.*cluster\.container"):
        work([part], {})
