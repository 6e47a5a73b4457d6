"""The numerical ladder: how a block is fitted again when its loss is no longer finite.

Each failure steps one rung down; the record holds every rung that was taken with its cause, and
tables mark the cell. GPTQ's damping has its own steps (``quantization/rounding.py``).
"""

from dataclasses import dataclass


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
