"""Zero-shot accuracies as bars, each task with the level that guessing gets."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from quantexp.figures import style
from quantexp.figures.lines import MissingError
from quantexp.figures.palette import PALE
from quantexp.figures.tasks import TaskPanel, accuracies, chance, error, meaning, task_name
from quantexp.report.collect import Row

_WIDTH = 0.84  # of the bars of one task together


def draw(rows: Sequence[Row]) -> Figure:
    """One panel per bit setting, the unquantized model first in each.

    Error bars are the standard error over a task's documents, or over several seeds the sample
    standard deviation; averages of tasks have the latter only.

    Raises:
        MissingError: No zero-shot records.
    """
    panels = accuracies(rows)
    if not panels:
        raise MissingError("no zero-shot records (evaluation=zeroshot)")
    figure, axes = style.panels(len(panels), columns=1)
    figure.set_figwidth(style.PAGE)
    entries: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, panel, entries)
        axis.set_title(panel.title)
    entries["guessing"] = {"color": PALE, "linestyle": (0, (2, 1)), "linewidth": 1.3}
    style.legend(figure, entries, meaning(panels))
    return figure


def _panel(axis: Axes, panel: TaskPanel, entries: dict[str, Any]) -> None:
    of, order = panel.lines, panel.columns
    methods = list(dict.fromkeys((line.label, line.variant, line.name) for line in of))
    width = _WIDTH / len(methods)
    for n, (label, variant, name) in enumerate(methods):
        look = style.bar(label, variant)
        for line in of:
            if (line.label, line.variant) == (label, variant):
                x = order.index(line.column) - _WIDTH / 2 + (n + 0.5) * width
                bar = error(line) or None
                axis.bar(x, line.mean, 0.92 * width, yerr=bar, error_kw={"lw": 0.8}, **look)
        entries.setdefault(name, Patch(label=name, **look))
    for x, column in enumerate(order):
        level = chance(column[0])
        if level is not None:
            ends = (x - _WIDTH / 2, x + _WIDTH / 2)
            axis.hlines(100 * level, *ends, color=PALE, linestyle=(0, (2, 1)), linewidth=1.3)
    axis.set_xticks(range(len(order)), [task_name(c).replace(" ", "\n") for c in order])
    axis.grid(False, axis="x")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(bottom=0)
