"""The hash of the code that makes checkpoints."""

import shutil
from pathlib import Path

import pytest

from quantexp.experiment import code
from quantexp.resources import PACKAGE


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = tmp_path / "quantexp"
    ignored = shutil.ignore_patterns("checkpoint", "__pycache__", "published.csv")
    shutil.copytree(PACKAGE, copied, ignore=ignored)
    monkeypatch.setattr(code, "PACKAGE", copied)
    return copied


def test_what_makes_integers_is_in_it_and_what_runs_jobs_is_not(package: Path) -> None:
    found = code.science.__wrapped__
    before = found()
    for name in ("cluster/session.py", "report/table.py", "help.py", "experiment/status.py"):
        (package / name).write_text("# edited")
    assert found() == before
    (package / "methods" / "mine.py").write_text("# a user's method")
    with_method = found()
    assert with_method != before
    (package / "calibration" / "blocks.py").write_text("# edited")
    assert found() not in (before, with_method)


def test_another_torch_is_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code.science.__wrapped__()
    monkeypatch.setattr(code, "version", lambda name: "0")
    assert code.science.__wrapped__() != before
