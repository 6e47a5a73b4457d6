"""Means over seeds: broken runs are counted, not averaged; the two kinds of seed are told apart."""

import math
import statistics
from collections.abc import Callable, Sequence

from quantexp.report import names
from quantexp.report.collect import EDITED, Row

NOTHING = "–"
BASELINE = "none"  # the label of cells that are not quantized


def mean(rows: Sequence[Row], one: Row | None) -> tuple[str, float | None]:
    """What is printed for the rows of one place, and what is ranked (``None``: nothing may win).

    Args:
        rows: One row for each cell that has a value.
        one: The only cell of the line, where there are no others to average with.
    """
    values = [value for row, value in _shown(rows) if row.status != EDITED]
    if not values:
        return (EDITED if rows else NOTHING), None
    finite = [value for value in values if math.isfinite(value)]
    broken = len(values) - len(finite)
    if one is not None:
        ranked = finite and one.label != BASELINE
        return number(values[0]), float(number(values[0])) if ranked else None
    counts = [str(len(finite)), f"{broken} broken" * bool(broken)]
    if len(values) < len(rows):
        counts.append(f"{len(rows) - len(values)} {EDITED}")
    if not finite:
        return f"{number(values[0])} ({broken} broken)", None
    middle = number(statistics.mean(finite))
    spread = f"±{number(statistics.stdev(finite))}" if len(finite) > 1 else ""
    count = ", ".join(filter(None, counts))
    return f"{middle}{spread} ({count})", None if broken else float(middle)


def spreads(rows: Sequence[Row]) -> dict[str, tuple[float, int]]:
    """Axis (``seed``, ``data.seed``) → (standard deviation over it at an equal other seed, n).

    Deviations are pooled over the values of the other axis. An axis that never varies while the
    other stays is left out: what it does cannot be told from what the other does.
    """
    axes: dict[str, tuple[Callable[[Row], int | None], Callable[[Row], int | None]]] = {
        "seed": (lambda row: row.seed, lambda row: row.data_seed),
        "data.seed": (lambda row: row.data_seed, lambda row: row.seed),
    }
    usable = [
        (row, value) for row, value in _shown(rows) if math.isfinite(value) and row.status != EDITED
    ]
    found = {}
    for name, (axis, other) in axes.items():
        groups: dict[int | None, dict[int | None, float]] = {}
        for row, value in usable:
            groups.setdefault(other(row), {})[axis(row)] = value
        several = [list(group.values()) for group in groups.values() if len(group) > 1]
        if several:
            squares = sum(statistics.variance(group) * (len(group) - 1) for group in several)
            freedom = sum(len(group) - 1 for group in several)
            count = len({axis(row) for row, _ in usable})
            found[name] = (math.sqrt(squares / freedom), count)
    return found


def _shown(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Rows that have a value, with the value in the unit of tables."""
    shown = [(row, row.value) for row in rows if row.value is not None]
    return [(row, names.as_shown(row.metric or "", value)) for row, value in shown]


def number(value: float) -> str:
    """Two decimals as in the papers, more where the value is small, ``4.21e+05`` where huge."""
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.2e}"
