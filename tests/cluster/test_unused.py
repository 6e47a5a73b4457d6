"""clean --code: copies of the package go when no job and no unfinished calibration needs them."""

import json
from pathlib import Path

import pytest

from quantexp.__main__ import main
from quantexp.cluster import slurm, submitted
from quantexp.cluster.slurm import JobState, NoAnswerError
from quantexp.cluster.snapshot import Snapshot, snapshot
from quantexp.cluster.submitted import Submitted
from quantexp.experiment import record
from quantexp.experiment.code import science


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    return snapshot(Path("outputs"))


def files(copy: Snapshot) -> int:
    return len(list(copy.path.rglob("*.py")))


def test_a_copy_that_nothing_needs_goes_and_is_made_again(
    copy: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    before, about = files(copy), (copy.path / "snapshot.json").read_text()
    assert main(["clean", "--code", "--dry-run"]) == 0
    assert "would be freed" in capsys.readouterr().out
    assert files(copy) == before
    assert main(["clean", "--code"]) == 0
    assert copy.path.name in capsys.readouterr().out
    assert files(copy) == 0
    assert (copy.path / "snapshot.json").read_text() == about  # which code made which number
    assert snapshot(Path("outputs")) == copy
    assert files(copy) == before
    assert [path.name for path in copy.path.parent.iterdir()] == [copy.path.name]


def test_what_a_job_needs_stays(
    copy: Snapshot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Submitted("7", "slurm", "both", (("a",),), record.now(), code=copy.path.name)
    submitted.write(Path("outputs/sweeps/s/jobs"), job)
    state = {"7": JobState("PENDING")}
    monkeypatch.setattr(slurm, "states", lambda ids: {i: state[i] for i in ids})
    assert main(["clean", "--code"]) == 0
    assert "job 7 needs it" in capsys.readouterr().out
    assert files(copy)
    state["7"] = JobState("COMPLETED")
    assert main(["clean", "--code"]) == 0
    assert not files(copy)


def test_without_slurms_word_nothing_goes(
    copy: Snapshot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Submitted("7", "slurm", "both", (("a",),), record.now(), code="other")
    submitted.write(Path("outputs/sweeps/s/jobs"), job)

    def silent(ids: object) -> dict[str, JobState]:
        raise NoAnswerError("slurmctld is down")

    monkeypatch.setattr(slurm, "states", silent)
    assert main(["clean", "--code"]) == 2
    assert "slurmctld is down" in capsys.readouterr().err
    assert files(copy)


def test_what_an_unfinished_calibration_needs_stays(
    copy: Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    block = Path("outputs/calibrations/0123/blocks/00000.json")
    block.parent.mkdir(parents=True)
    block.write_text(json.dumps({"code": science()}))
    assert main(["clean", "--code"]) == 0
    assert "calibration 0123 is not finished" in capsys.readouterr().out
    assert files(copy)
    block.unlink()
    assert main(["clean", "--code"]) == 0
    assert not files(copy)


def test_selectors_of_checkpoints_are_not_mixed_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--code", "--state", "done"]) == 2
    assert "stands alone" in capsys.readouterr().err
