"""Zero-shot accuracies as bars, each task with the level that guessing gets."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from quantexp.evaluation.tasks import TASKS
from quantexp.figures import style
from quantexp.figures.lines import Line, MissingError, bits_text, heading, lines
from quantexp.figures.palette import PALE
from quantexp.report.averages import AVERAGES, KIND, with_averages
from quantexp.report.collect import Row
from quantexp.report.distinguish import Column

_WIDTH = 0.84  # of the bars of one task together


def draw(rows: Sequence[Row]) -> Figure:
    """One panel per bit setting, the unquantized model first in each.

    Error bars are the standard error over a task's documents, or over several seeds the sample
    standard deviation; averages of tasks have the latter only.

    Raises:
        MissingError: No zero-shot records.
    """
    rows = [row for row in rows if row.kind in ("zeroshot", KIND) and row.value is not None]
    if not any(row.kind == KIND for row in rows):
        rows = with_averages(rows)
    found = [line for line in lines(rows) if line.values]
    if not found:
        raise MissingError("no zero-shot records (evaluation=zeroshot)")
    full = [line for line in found if line.baseline]
    places = list(dict.fromkeys(line.place for line in found if not line.baseline))
    figure, axes = style.panels(len(places) or 1, columns=1)
    figure.set_figwidth(style.PAGE)
    entries: dict[str, Any] = {}
    for axis, where in zip(axes, places or [full[0].place], strict=True):
        of = [line for line in full if line.group == where[:2]]
        of += [line for line in found if line.place == where and not line.baseline]
        order = [c for c in _order(found) if any(line.column == c for line in of)]
        _panel(axis, of, order, entries)
        axis.set_title(heading(of[-1], found, bits_text(of[-1])))
    entries["guessing"] = {"color": PALE, "linestyle": (0, (2, 1)), "linewidth": 1.3}
    style.legend(figure, entries, _meaning(found))
    return figure


def _panel(
    axis: Axes, of: Sequence[Line], order: Sequence[Column], entries: dict[str, Any]
) -> None:
    methods = list(dict.fromkeys((line.label, line.variant, line.name) for line in of))
    width = _WIDTH / len(methods)
    for n, (label, variant, name) in enumerate(methods):
        look = style.bar(label, variant)
        for line in of:
            if (line.label, line.variant) == (label, variant):
                x = order.index(line.column) - _WIDTH / 2 + (n + 0.5) * width
                error = _error(line)
                axis.bar(
                    x, line.mean, 0.92 * width, yerr=error or None, error_kw={"lw": 0.8}, **look
                )
        entries.setdefault(name, Patch(label=name, **look))
    for x, column in enumerate(order):
        chance = _chance(column[0])
        if chance is not None:
            ends = (x - _WIDTH / 2, x + _WIDTH / 2)
            axis.hlines(100 * chance, *ends, color=PALE, linestyle=(0, (2, 1)), linewidth=1.3)
    axis.set_xticks(range(len(order)), [_name(column) for column in order])
    axis.grid(False, axis="x")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(bottom=0)


def _meaning(found: Sequence[Line]) -> str:
    seeds = {min(2, len(line.values)) for line in found if not line.baseline} or {1}
    one, several = "standard error over documents", "standard deviation over seeds"
    if seeds == {1}:
        return f"error bars: {one}"
    return f"error bars: {several}" + (f" ({one} where there is one seed)" if 1 in seeds else "")


def _error(line: Line) -> float:
    """In per cent; 0 where it is not known."""
    if len(line.values) > 1:
        return line.spread
    return 100 * (line.first.stderr or 0.0)


def _order(found: Sequence[Line]) -> list[Column]:
    """Tasks by name, averages after them."""
    return sorted({line.column for line in found}, key=lambda c: (c[0] in AVERAGES, c))


def _chance(dataset: str) -> float | None:
    if dataset in AVERAGES:
        return AVERAGES[dataset].chance
    return TASKS[dataset].chance if dataset in TASKS else None


def _name(column: Column) -> str:
    dataset, metric, variant = column
    short = dataset if dataset in AVERAGES else f"{dataset.replace('_', ' ')} {metric}"
    words = f"{short} {variant}".split()
    return "\n".join(words)
