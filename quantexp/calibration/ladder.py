"""The numerical ladder: how a block is fitted again when its loss is no longer finite.

Each failure steps one rung down; the record holds every rung that was taken with its cause, and
tables mark the cell. GPTQ's damping has its own steps (``quantization/gptq.py``). What is done
where a device's memory is short is told in the same way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SPLIT, _SHORT = "micro-batches of", "passes of"


@dataclass(frozen=True)
class Rung:
    """One way to fit a block.

    Attributes:
        name: What records and tables call it.
        autocast: Products in the method's 16-bit dtype, if it has one.
        lr_factor: Factor on all learning rates.
        trained: Whether anything is trained; else the block keeps its initial parameters.
    """

    name: str
    autocast: bool = False
    lr_factor: float = 1.0
    trained: bool = True


def rungs(autocast: bool) -> tuple[Rung, ...]:
    """The ladder from the top; a method without 16-bit products starts in float32."""
    first = (Rung("autocast", autocast=True),) if autocast else ()
    return (
        *first,
        Rung("float32"),
        Rung("learning rate / 10", lr_factor=0.1),
        Rung("initial parameters", trained=False),
    )


def split(windows: int) -> dict[str, str]:
    """The entry of a block whose batches were read in parts (``calibration/gradient.py``)."""
    return {"step": f"{_SPLIT} {windows}", "cause": "out of GPU memory"}


def short(tokens: int) -> dict[str, str]:
    """The entry of a block whose passes took fewer tokens at once (``calibration/passes.py``)."""
    return {"step": f"{_SHORT} {tokens} tokens", "cause": "out of GPU memory"}


def kind(fallbacks: str) -> str:
    """What fallbacks, as tables tell them, are due to."""
    memory = all(part.startswith((_SPLIT, _SHORT)) for part in fallbacks.split(", "))
    return "memory" if memory else "numerical"


def summary(blocks: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Rung → number of blocks that took it, from the entries of a calibration's report."""
    found: dict[str, int] = {}
    for block in blocks:
        for step in dict.fromkeys(str(rung["step"]) for rung in block.get("ladder") or ()):
            found[step] = found.get(step, 0) + 1
    return found
