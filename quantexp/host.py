"""How much memory of this machine the process may still take; no torch."""

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
# Bytes above which a limit of version 1 means "none" (it is the largest multiple of a page).
_NONE = 1 << 60


def free_memory() -> int:
    """Bytes that are free within every limit: the machine's, its cgroup's, the job's, its own."""
    return max(0, min(_free()))


def _free() -> Iterator[int]:
    yield psutil.virtual_memory().available
    yield from _cgroup()
    job = int(os.environ.get("SLURM_MEM_PER_NODE") or 0)  # MiB, for sites that enforce none
    if job:  # 0 is all of the node
        yield (job << 20) - psutil.Process().memory_info().rss
    used = psutil.Process().memory_info()
    for limit, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, used.data)):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            yield soft - taken


def _cgroup() -> Iterator[int]:
    """Of each control group that we are in, version 1 or 2, up to the root.

    Pages of files that no one has touched lately are given back when memory is short: they count
    as free.
    """
    with suppress(OSError):
        for line in _groups().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
            elif controllers == "memory":
                root = _CGROUPS / "memory"
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                continue
            here = root / path.lstrip("/")
            for folder in (here, *here.parents):
                if folder.is_relative_to(root):
                    yield from _limit(folder, *names)


def _groups() -> str:
    return Path("/proc/self/cgroup").read_text()


def _limit(folder: Path, limit: str, usage: str, spare: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # the root has none; "max" is no number
        most = int((folder / limit).read_text())
        if most < _NONE:
            lines = (folder / "memory.stat").read_text().splitlines()
            stat = dict(line.split() for line in lines)
            yield most - int((folder / usage).read_text()) + int(stat.get(spare, 0))


def give_back() -> None:
    """Returns to the system what was freed; without it a process grows with the blocks it does.

    The C library keeps freed memory for later, in pieces that the next block may not fit into.
    """
    with suppress(OSError, AttributeError):  # glibc's own
        ctypes.CDLL(None).malloc_trim(0)
