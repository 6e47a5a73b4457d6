"""Error of each block's output along the model: the block where two methods part is visible."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantexp.figures import style
from quantexp.figures.lines import MissingError
from quantexp.figures.panels import block_errors, shared
from quantexp.report.collect import Row


def draw(rows: Sequence[Row]) -> Figure:
    """Relative squared errors, one panel per bit setting; the axis is logarithmic where they part.

    Means over seeds are geometric; the band reaches from the least to the largest.

    Raises:
        MissingError: No cell has records of block errors.
    """
    panels = block_errors(rows)
    if not panels:
        raise MissingError("no records of block errors (evaluation.block_error_windows)")
    figure, axes = style.panels(len(panels))
    entries: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=True):
        for line, of in panel.curves:
            blocks = shared(of)
            look = style.line(line.label, line.variant)
            middle = [statistics.geometric_mean([curve[b] for curve in of]) for b in blocks]
            if len(of) > 1:
                low = [min(curve[b] for curve in of) for b in blocks]
                high = [max(curve[b] for curve in of) for b in blocks]
                axis.fill_between(blocks, low, high, color=look["color"], alpha=0.2, linewidth=0)
            axis.plot(blocks, middle, markevery=max(1, len(blocks) // 8), **look)
            entries.setdefault(line.name, look)
        axis.set_title(panel.title)
        style.log_if_wide(
            axis, [value for _, of in panel.curves for c in of for value in c.values()]
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("block")
    for axis in axes[::3]:  # three stand side by side
        axis.set_ylabel("relative error ‖ŷ − y‖² / ‖y‖²")
    style.legend(figure, entries)
    return figure
