"""A wait is told once it is long, with how long it will still be; what is quick says nothing."""

import io
import time

import pytest

from quantexp import waiting
from quantexp.waiting import Waiting, duration, track


def test_what_is_quick_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2, 3], "things")) == [1, 2, 3]
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_a_line_now_and_then_with_an_eta(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "_SILENT", 0.0)
    monkeypatch.setattr(waiting, "_EVERY", 0.05)
    for _ in track(range(4), "things"):
        time.sleep(0.1)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "things 0/4"
    assert "things 2/4, eta 0s" in lines


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(waiting, "_SILENT", 0.0)
    with Waiting("things") as told:
        told(1, 4)
        time.sleep(0.6)
    assert "things 1/4, eta " in shown.getvalue()
    assert "\x1b[2K" in shown.getvalue()  # the line is cleared


def test_an_error_passes_and_nothing_is_left_running() -> None:
    wait = Waiting("things", 2)
    with pytest.raises(ZeroDivisionError), wait:
        _ = 1 / 0
    assert not wait._thread.is_alive()


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0.4, 59.6, 65, 7380)] == ["0s", "1m00s", "1m05s", "2h03m"]
