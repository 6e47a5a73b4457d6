"""Claims: one holder at a time, across processes; whoever is gone or was replaced loses it."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from quantexp.experiment import claim, record
from quantexp.experiment.claim import BusyError, Claim, SupersededError


def holder(path: Path, **changes: object) -> None:
    """A claim of somebody else, on another machine unless changed."""
    record.write(path, {**claim.me(), "host": "elsewhere", "token": "t", **changes})


def test_a_second_one_waits_until_the_first_is_done(tmp_path: Path) -> None:
    path, order = tmp_path / "c", list[str]()

    def second() -> None:
        with Claim(path):
            order.append("second")

    with Claim(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
        with pytest.raises(BusyError, match=str(os.getpid())), Claim(path, wait=False):
            pass
    thread.join()
    assert order == ["first", "second"]
    assert not list(tmp_path.iterdir())


def test_a_claim_of_a_dead_process_of_this_host_is_free(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from quantexp.experiment.claim import Claim\n"
    code += "Claim(Path(sys.argv[1])).__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=True)
    assert (tmp_path / "c").exists()
    with Claim(tmp_path / "c", wait=False) as taken:
        assert taken.mine


def test_a_claim_that_nobody_touches_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "EXPIRY", 0.6)
    holder(tmp_path / "c")
    with pytest.raises(BusyError, match="elsewhere"), Claim(tmp_path / "c", wait=False):
        pass
    with Claim(tmp_path / "c") as taken:
        assert taken.mine


def test_a_later_run_of_a_job_replaces_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTEXP_JOB", "7_1")
    with Claim(tmp_path / "c") as first:
        first.check()
        monkeypatch.setenv("QUANTEXP_RUN", "1")
        with Claim(tmp_path / "c") as second:
            second.check()
            with pytest.raises(SupersededError):
                first.check()
    holder(tmp_path / "c", job="7_1", run=2)
    with pytest.raises(BusyError), Claim(tmp_path / "c", wait=False):
        pass


def test_a_file_system_that_stumbles_costs_nobody_his_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"

    def stale(_: Path) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with Claim(path) as taken:
        with monkeypatch.context() as broken:
            broken.setattr(Path, "stat", stale)
            taken.check()
        path.unlink()
        with pytest.raises(SupersededError):
            taken.check()


@pytest.mark.parametrize("slow", [{2}, set(range(99))])
def test_a_look_counts_for_one_beat_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: set[int]
) -> None:
    """While the file system stood still, the holder could not touch it; some always do."""
    monkeypatch.setattr(claim, "EXPIRY", 0.6)
    monkeypatch.setattr(claim, "BEAT", 0.1)
    monkeypatch.setattr(claim, "_LOOK", 0.02)
    holder(tmp_path / "c")
    looks: list[float] = []

    def touched(_: Path) -> float:
        looks.append(time.monotonic())
        if len(looks) in slow:
            time.sleep(0.4)
        return 1.0

    monkeypatch.setattr(claim, "_touched", touched)
    with Claim(tmp_path / "c"):
        assert len(looks) > 6
