"""All kinds of figures and one function that draws them; matplotlib is imported with the first."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantexp.report.collect import Row
from quantexp.values import one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Kind:
    """One kind of figure.

    Attributes:
        title: What it shows, in one line.
        module: In :mod:`quantexp.figures`; its ``draw`` takes rows, or flatness data.
        measured: Whether it shows data of :mod:`quantexp.figures.flatness` instead of records.
    """

    title: str
    module: str
    measured: bool = False


DATA = "flatness.json"  # what ``--flatness`` measured, beside the figures that it is drawn as
KINDS = {
    "pareto": Kind("perplexity against effective bits per weight", "pareto"),
    "blocks": Kind("error of each block's output", "blocks"),
    "accuracy": Kind("zero-shot accuracies", "accuracy"),
    "cost": Kind("calibration time and peak memory", "cost"),
    "kronecker": Kind("Kronecker sizes against perplexity and cost", "kronecker"),
    "channels": Kind("sorted channel magnitudes per transform", "channels", measured=True),
    "surface": Kind("quantization error over blocks and tokens", "surface", measured=True),
}


def folder(outputs: Path, sweep: str | None) -> Path:
    """Where figures of a sweep, or of everything, are written if nothing else is said."""
    return outputs / "sweeps" / sweep / "figures" if sweep else outputs / "figures"


def draw(kind: str, rows: Sequence[Row], flatness: Mapping[str, Any] | None = None) -> Figure:
    """One figure, to be shown or saved by :func:`quantexp.figures.style.save`.

    Args:
        kind: One of :data:`KINDS`.
        rows: Of :func:`quantexp.report.collect.collect`.
        flatness: What ``figures --flatness`` stored, for the kinds that show it.

    Raises:
        ConfigError: There is no such kind.
        MissingError: The records do not hold what the figure shows; says what would.
    """
    one_of("kind of figure", kind, KINDS)
    from quantexp.figures import style
    from quantexp.figures.lines import MissingError

    found = KINDS[kind]
    module = importlib.import_module(f"quantexp.figures.{found.module}")
    with style.look():
        if not found.measured:
            figure: Figure = module.draw(rows)
        elif flatness is None:
            raise MissingError(
                "not measured yet (add --flatness with a SmoothQuant and a FlatQuant cell)"
            )
        else:
            figure = module.draw(flatness)
        style.settle(figure)
    return figure
