"""Seconds and peak memory of a piece of work."""

import resource
import time
from contextlib import suppress
from pathlib import Path

import torch


class Meter:
    """Measures from its creation to each call of :meth:`read`."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            # Linux: resets the peak resident size, so that each block has its own
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> dict[str, float]:
        """``seconds`` and ``peak_memory_bytes`` (of the accelerator, or resident on a CPU)."""
        return {
            "seconds": round(time.monotonic() - self._started, 3),
            "peak_memory_bytes": _peak(),
        }


def device_name() -> str:
    """The accelerator's name, or ``cpu``."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
