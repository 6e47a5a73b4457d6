"""Error of each block's output along the model: the block where two methods part is visible."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from quantexp.figures import style
from quantexp.figures.lines import Line, MissingError, bits_text, heading, lines
from quantexp.report import records
from quantexp.report.collect import Row


def draw(rows: Sequence[Row]) -> Figure:
    """Relative squared errors, one panel per bit setting; the axis is logarithmic where they part.

    Means over seeds are geometric; the band reaches from the least to the largest.

    Raises:
        MissingError: No cell has records of block errors.
    """
    found = lines([row for row in rows if row.kind == "block_error" and row.value is not None])
    curves = [(line, [curve for row in line.rows if (curve := _errors(row))]) for line in found]
    groups: dict[Any, list[tuple[Line, list[dict[int, float]]]]] = {}
    for line, of in curves:
        if of:
            groups.setdefault((line.place, line.column), []).append((line, of))
    if not groups:
        raise MissingError("no records of block errors (evaluation.block_error_windows)")
    shown = [line for line, _ in curves]
    figure, axes = style.panels(len(groups))
    entries: dict[str, Any] = {}
    for axis, ((_, column), members) in zip(axes, groups.items(), strict=True):
        for line, of in members:
            blocks = sorted(set.intersection(*(set(curve) for curve in of)))
            look = style.line(line.label, line.variant)
            middle = [statistics.geometric_mean([curve[b] for curve in of]) for b in blocks]
            if len(of) > 1:
                low = [min(curve[b] for curve in of) for b in blocks]
                high = [max(curve[b] for curve in of) for b in blocks]
                axis.fill_between(blocks, low, high, color=look["color"], alpha=0.2, linewidth=0)
            axis.plot(blocks, middle, markevery=max(1, len(blocks) // 8), **look)
            entries.setdefault(line.name, look)
        several = len({key[1] for key in groups}) > 1
        first = members[0][0]
        axis.set_title(heading(first, shown, bits_text(first), column[0] if several else ""))
        style.log_if_wide(axis, [value for _, of in members for c in of for value in c.values()])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("block")
    for axis in axes[::3]:  # three stand side by side
        axis.set_ylabel("relative error ‖ŷ − y‖² / ‖y‖²")
    style.legend(figure, entries)
    return figure


def _errors(row: Row) -> dict[int, float]:
    """Block → Σ(y-ŷ)²/Σy², from the record's SQNR; blocks without any error are left out."""
    data: Mapping[str, Any] = (records.load(row.record) if row.record else None) or {}
    found = {}
    for block in (data.get("details") or {}).get("blocks") or ():
        sqnr = records.number(block.get("sqnr_db"))
        if sqnr is not None and (error := 10 ** (-sqnr / 10)) > 0:
            found[int(block["block"])] = error
    return found
