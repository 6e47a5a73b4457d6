"""Seconds and peak memory of a piece of work."""

import resource
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

PEAKS = ("peak_memory_bytes", "peak_host_bytes", "peak_device_bytes")


class Meter:
    """Measures from its creation to each call of :meth:`read`."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        # Linux: resets the peak resident size, so that each block has its own
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> dict[str, float]:
        """``seconds``, and peaks in bytes.

        ``peak_host_bytes`` is what was resident in the machine's memory, pages of mapped files
        (which the system takes back when memory is short) among them; ``peak_device_bytes`` what
        was allocated on an accelerator, where there is one. ``peak_memory_bytes`` is the memory
        that blocks are computed in: the accelerator's, or the host's without one.
        """
        host = _host_peak()
        found = {"seconds": round(time.monotonic() - self._started, 3)}
        if not torch.cuda.is_available():
            return {**found, "peak_memory_bytes": host, "peak_host_bytes": host}
        device = torch.cuda.max_memory_allocated()
        return {
            **found,
            "peak_memory_bytes": device,
            "peak_host_bytes": host,
            "peak_device_bytes": device,
        }


def highest(reports: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The highest peak of each kind; reports of earlier versions lack some."""
    found: dict[str, float] = {}
    for report in reports:
        for name in PEAKS:
            if name in report:
                found[name] = max(found.get(name, 0), report[name])
    return found


def device_name() -> str:
    """The accelerator's name, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _host_peak() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
