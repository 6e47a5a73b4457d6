"""``status.json`` of a cell: what its last attempt is doing, or why it ended."""

import os
import platform
import time
import traceback
from pathlib import Path
from typing import Any

import psutil

from quantexp.experiment import record

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
INTERRUPTED = "interrupted"  # stopped from outside: the next attempt continues there
_EVERY = 0.5  # seconds between two writes of progress


class Status:
    """Writes the status of one attempt; use as the ``progress`` of calibrate and evaluate."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "status.json"
        previous = record.read(self.path) or {}
        self._data: dict[str, Any] = {
            "state": RUNNING,
            "attempt": int(previous.get("attempt", 0)) + 1,
            "pid": os.getpid(),
            "host": platform.node(),
            "started": record.now(),
        }
        self._written = 0.0
        self._phase_started = (("", 0), 0.0)
        self._write()

    def progress(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Notes that ``done`` of ``total`` steps of a phase are finished; cheap to call often.

        The ETA is for the phase, in seconds, from the steps since the phase began here: a
        resumed calibration starts in the middle.
        """
        clock = time.monotonic()
        if self._phase_started[0][0] != phase:
            self._phase_started = ((phase, done), clock)
            self._data.pop("loss", None)  # of the phase before
        (_, first), began = self._phase_started
        steps = done - first
        eta = (clock - began) / steps * (total - done) if steps > 0 else None
        self._data |= {"phase": phase, "done": done, "total": total, "eta_s": eta}
        if loss is not None:
            self._data["loss"] = loss
        if clock - self._written > _EVERY or done == total:
            self._write()

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
            "cause": f"{type(error).__name__}: {error}",
            "traceback": "".join(lines),
        }
        self._write()

    def interrupt(self) -> None:
        """The attempt was stopped from outside; what it finished is kept."""
        self._data |= {"state": INTERRUPTED, "ended": record.now(), "cause": "stopped by the user"}
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._data["updated"] = record.now()
        record.write(self.path, self._data)


def read(folder: Path) -> dict[str, Any]:
    """The status of a cell's folder; ``{"state": "queued"}`` where nothing ran yet.

    A running attempt whose process is gone from this host (killed, machine restarted) is shown
    as interrupted: nothing could write that down.
    """
    data = record.read(folder / "status.json") or {"state": QUEUED}
    if data["state"] == RUNNING and data.get("host") == platform.node():
        pid = data.get("pid")
        if isinstance(pid, int) and not psutil.pid_exists(pid):
            data |= {"state": INTERRUPTED, "cause": "its process is gone"}
    return data


def queue(folder: Path) -> None:
    """Marks a cell as waiting for its next attempt, unless another process is at it."""
    data = read(folder)
    if data["state"] != RUNNING:
        record.write(
            folder / "status.json",
            {"state": QUEUED, "attempt": data.get("attempt", 0), "updated": record.now()},
        )


def lost(folder: Path, cause: str) -> None:
    """Notes the failure of an attempt that could not do so itself (killed, out of memory)."""
    data = record.read(folder / "status.json") or {}
    data |= {"state": FAILED, "ended": record.now(), "cause": cause}
    record.write(folder / "status.json", data)
