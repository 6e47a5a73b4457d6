"""Perplexity against effective bits per weight: what a bit buys.

One panel for each test set and each precision of activations and cache, since only those that
share it compete. The grey step is the Pareto front: the least perplexity for at most so many bits.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantexp.figures import style
from quantexp.figures.lines import Line, MissingError, broken_note
from quantexp.figures.palette import PALE
from quantexp.figures.panels import bits, perplexities
from quantexp.report import names
from quantexp.report.collect import Row

_BASELINE: dict[str, Any] = {"color": "black", "linestyle": (0, (6, 2)), "linewidth": 0.9}
_LEAST = 0.4  # bits that an x axis spans at least: a hundredth of a bit is no distance


def draw(rows: Sequence[Row]) -> Figure:
    """Points with the standard deviation over seeds; the unquantized model is the dashed line.

    Raises:
        MissingError: No quantized cell has a perplexity and a calibration report.
    """
    found = perplexities(rows)
    shown = found.quantized
    if not found.panels:
        raise MissingError("no finished perplexity of a quantized cell with its calibration report")
    figure, axes = style.panels(len(found.panels))
    entries: dict[str, Any] = {}
    figure_lines = [line for line in found.lines if line.values]
    for line in sorted(figure_lines, key=lambda line: (names.method_order(line.label), line.name)):
        entries.setdefault(
            line.name, _BASELINE if line.baseline else style.line(line.label, line.variant)
        )
    for axis, panel in zip(axes, found.panels, strict=True):
        _panel(axis, panel.lines, panel.baseline)
        axis.set_title(panel.title)
        axis.set_ylabel(f"perplexity ({panel.column[0]})")
        axis.set_xlabel("effective bits per weight")
    style.legend(figure, entries, broken_note(shown))
    return figure


def _panel(axis: Axes, of: Sequence[Line], baseline: Sequence[Line]) -> None:
    curves: dict[Any, list[Line]] = {}
    for line in of:
        if line.values:
            curves.setdefault((line.label, line.variant), []).append(line)
    points = []
    for (label, variant), curve in curves.items():
        curve.sort(key=bits)
        look = style.line(label, variant)
        axis.errorbar(
            [bits(line) for line in curve],
            [line.mean for line in curve],
            yerr=style.whiskers([line.spread for line in curve]),
            elinewidth=0.8,
            **look,
        )
        points += [(bits(line), line.mean) for line in curve]
    values = [value for _, value in points]
    _front(axis, points)
    for line in baseline:
        if line.values:
            axis.axhline(line.mean, zorder=1.5, **_BASELINE)
            values.append(line.mean)
    axis.margins(y=0.12)
    along = [x for x, _ in points]
    room = max(0.12 * (max(along) - min(along)), (_LEAST - max(along) + min(along)) / 2)
    axis.set_xlim(min(along) - room, max(along) + room)
    style.log_if_wide(axis, values)


def _front(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    best: list[tuple[float, float]] = []
    for along, value in sorted(points):
        if not best or value < best[-1][1]:
            best.append((along, value))
    if len(best) > 1:
        x, y = zip(*best, strict=True)
        axis.step(x, y, where="post", color=PALE, linewidth=3, alpha=0.35, zorder=1)
