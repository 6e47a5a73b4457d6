"""Claims: at most one process does a piece of work, across machines and file systems.

A claim is a file made by a hard link, which is atomic where file locks may be missing (network
file systems). It says who holds it: host, process, job and which run of that job. The holder
touches it all the time; one that is not touched any more is stale, and so is one whose process is
gone from this host, or whose job SLURM has started again. A process that lost its claim (its node
was given up while it lived on) stops at its next step: both runs would write the same bytes, but
one of them is waste, and only one may report.
"""

import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from quantexp.experiment import record

BEAT = 5.0  # seconds between two touches
EXPIRY = 60.0  # seconds without one after which a claim is stale
_LOOK = 0.5  # seconds between two looks at somebody else's claim


class SupersededError(BaseException):
    """Another run of this job holds the claim now; a BaseException, so that no one handles it."""


class BusyError(Exception):
    """Somebody else holds the claim, and nobody wanted to wait."""


class Claim:
    """Held for the time of a ``with``; waits for its holder unless told not to.

    Args:
        path: The file; who uses the same path excludes the others.
        wait: Whether to wait; else :class:`BusyError` is raised.
    """

    def __init__(self, path: Path, wait: bool = True) -> None:
        self.path = path
        self._wait = wait
        self._token = uuid.uuid4().hex
        self._released = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="claim", daemon=True)

    def __enter__(self) -> "Claim":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        seen: object = None
        untouched, before = 0.0, time.monotonic()
        while not self._take():
            holder = record.read(self.path)
            touched = _touched(self.path)
            now = time.monotonic()
            # a file system that stood still kept the holder from touching it as well: however long
            # a look took, it counts for one beat at most
            untouched = untouched + min(now - before, BEAT) if (holder, touched) == seen else 0.0
            seen, before = (holder, touched), now
            if (holder and _ended(holder)) or untouched > EXPIRY:
                self._evict(holder)
            elif not self._wait:
                raise BusyError(describe(holder or {}))
            else:
                time.sleep(_LOOK)
        self._beating.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._beating.join()
        if self.mine:
            self.path.unlink(missing_ok=True)

    @property
    def mine(self) -> bool:
        """Whether the claim is still ours. A file that cannot be read says nothing: it is."""
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError:  # a network file system that fails over
            return True
        holder = record.read(self.path)
        return holder is None or holder.get("token") == self._token

    def check(self) -> None:
        """Ends this run if another one has taken over.

        Raises:
            SupersededError: It has.
        """
        if not self.mine:
            raise SupersededError(f"{self.path.name} belongs to another run of this job now")

    def _take(self) -> bool:
        own = self.path.with_name(f"{self.path.name}.{self._token}")
        record.write(own, {**me(), "token": self._token})
        try:
            os.link(own, self.path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here: as good, but for a moment the file is empty
            try:
                with self.path.open("x") as file:
                    file.write(own.read_text())
            except FileExistsError:
                return False
        finally:
            own.unlink()
        return True

    def _evict(self, holder: dict[str, Any] | None) -> None:
        """Moves a stale claim aside; puts it back if it is not the one that was looked at."""
        aside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        found = record.read(aside)
        if found != holder:  # somebody else evicted it first, and this is his
            with suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            if not self.mine:  # it would keep alive what is somebody else's
                return
            with suppress(OSError):
                os.utime(self.path)


def me() -> dict[str, Any]:
    """Who this process is: what a claim, and the status of an attempt, say of their holder."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "born": psutil.Process().create_time(),
        # set by the job (cluster/job.py), whatever runs it
        "job": os.environ.get("QUANTEXP_JOB"),
        "run": int(os.environ.get("QUANTEXP_RUN", "0")),
    }


def describe(holder: dict[str, Any]) -> str:
    """A holder in words."""
    job = f"job {holder['job']}, " if holder.get("job") else ""
    return f"{job}process {holder.get('pid')} on {holder.get('host')}"


def process_is_gone(holder: dict[str, Any]) -> bool:
    """Whether a process that ran on this host is there no more."""
    if holder.get("host") != platform.node() or "pid" not in holder:
        return False
    try:
        born = psutil.Process(int(holder["pid"])).create_time()
    except (psutil.NoSuchProcess, ValueError):
        return True
    except psutil.Error:
        return False
    return "born" in holder and abs(born - holder["born"]) > 1


def _ended(holder: dict[str, Any]) -> bool:
    own = me()
    again = own["job"] is not None and own["job"] == holder.get("job")
    return (again and own["run"] > int(holder.get("run") or 0)) or process_is_gone(holder)


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
