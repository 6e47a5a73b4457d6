"""``status.json`` of a cell: what its last attempt is doing, or why it ended."""

import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from quantexp.experiment import claim, faults, record

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
INTERRUPTED = "interrupted"  # stopped from outside: the next attempt continues there
_EVERY, _EVERY_IN_JOB = 0.5, 3.0  # seconds between two writes of progress; jobs may be a thousand
_KEPT = 50  # earlier attempts that are remembered


class Status:
    """Writes the status of one attempt; use as the ``progress`` of calibrate and evaluate.

    Args:
        folder: The cell's.
        check: Called at every step; raises where the work is no longer this process's.
    """

    def __init__(self, folder: Path, check: Callable[[], None] | None = None) -> None:
        self.path = folder / "status.json"
        self._check = check
        previous = record.read(self.path) or {}
        _remember(folder, previous)
        self._data: dict[str, Any] = {
            "state": RUNNING,
            "attempt": int(previous.get("attempt", 0)) + 1,
            **claim.me(),
            "started": record.now(),
        }
        if memory := os.environ.get("QUANTEXP_MEMORY_GB"):  # what its job was given
            self._data["memory_gb"] = float(memory)
        self._every = _EVERY_IN_JOB if self._data["job"] else _EVERY
        self._closed = False
        self._written = 0.0
        self._phase_started = (("", 0), 0.0)
        self._write()

    def progress(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Notes that ``done`` of ``total`` steps of a phase are finished; cheap to call often.

        The ETA is for the phase, in seconds, from the steps since the phase began here: a
        resumed calibration starts in the middle.
        """
        clock = time.monotonic()
        due = clock - self._written > self._every or done == total
        if due and self._check is not None:
            self._check()
        if self._phase_started[0][0] != phase:
            self._phase_started = ((phase, done), clock)
            self._data.pop("loss", None)  # of the phase before
        (_, first), began = self._phase_started
        steps = done - first
        eta = (clock - began) / steps * (total - done) if steps > 0 else None
        self._data |= {"phase": phase, "done": done, "total": total, "eta_s": eta}
        if loss is not None:
            self._data["loss"] = loss
        if due:
            self._write(lasting=False)

    def finish(self) -> None:
        """The cell is done."""
        self._data |= {"state": DONE, "ended": record.now()}
        self._write()

    def fail(self, error: BaseException) -> None:
        """The cell failed; the cause is kept, the traceback too."""
        lines = traceback.format_exception(error)
        self._data |= {
            "state": FAILED,
            "ended": record.now(),
            "fault": faults.of_exception(error),
            "cause": f"{type(error).__name__}: {error}",
            "traceback": "".join(lines),
        }
        with suppress(OSError):  # of a full disk; the job's exit code says it as well
            self._write()

    def interrupt(self, cause: str = "stopped by the user", fault: str = faults.CANCELLED) -> None:
        """The attempt was stopped from outside; what it finished is kept. Nothing follows it."""
        end = {"state": INTERRUPTED, "ended": record.now(), "fault": fault, "cause": cause}
        self._data |= end
        with suppress(OSError):
            self._write()
        self._closed = True

    def hand_over(self) -> None:
        """Its job's part is done; the one that does the next continues the attempt."""
        self._data = {"state": QUEUED, "attempt": self._data["attempt"] - 1}
        self._write()

    @property
    def closed(self) -> bool:
        """Whether a signal has ended the attempt."""
        return self._closed

    @property
    def data(self) -> dict[str, Any]:
        """What was last written, or will be with the next step."""
        return dict(self._data)

    def _write(self, lasting: bool = True) -> None:
        if self._closed:
            return
        self._written = time.monotonic()
        self._data["updated"] = record.now()
        record.write(self.path, self._data, lasting)


def read(folder: Path) -> dict[str, Any]:
    """The status of a cell's folder; ``{"state": "queued"}`` where nothing ran yet.

    A running attempt whose process is gone from this host (killed, machine restarted) is shown
    as interrupted: nothing could write that down.
    """
    data = record.read(folder / "status.json") or {"state": QUEUED}
    if data["state"] == RUNNING and claim.process_is_gone(data):
        data |= {"state": INTERRUPTED, "fault": faults.LOST, "cause": "its process is gone"}
    return data


def queue(folder: Path) -> None:
    """Marks a cell as waiting for its next attempt, unless another process is at it."""
    data = read(folder)
    if data["state"] != RUNNING:
        _remember(folder, data)
        record.write(
            folder / "status.json",
            {"state": QUEUED, "attempt": data.get("attempt", 0), "updated": record.now()},
        )


def lost(folder: Path, cause: str, fault: str = faults.LOST, state: str = FAILED) -> None:
    """Notes the end of an attempt that could not do so itself (killed, out of memory)."""
    data = record.read(folder / "status.json") or {}
    data |= {"state": state, "ended": record.now(), "fault": fault, "cause": cause}
    record.write(folder / "status.json", data)


def attempts(folder: Path) -> list[dict[str, Any]]:
    """The attempts before the present one: who, when, how far and why they ended."""
    found = record.read(folder / "attempts.json") or {}
    return list(found.get("attempts", []))


def _remember(folder: Path, data: dict[str, Any]) -> None:
    """Keeps what an attempt left; a state that no attempt wrote (queued) is none."""
    if "started" not in data or data["state"] == DONE:
        return
    names = ("attempt", "host", "job", "run", "memory_gb", "started", "ended", "state")
    names_of_work = ("phase", "done", "total", "fault", "cause")
    kept = {k: data[k] for k in (*names, *names_of_work) if data.get(k) is not None}
    record.write(folder / "attempts.json", {"attempts": [*attempts(folder), kept][-_KEPT:]})
