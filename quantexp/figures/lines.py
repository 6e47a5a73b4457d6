"""Rows → lines: cells that differ in nothing but their seeds are one point, as in the tables."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantexp.errors import DataError
from quantexp.report import names
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column, columns, option_names, place
from quantexp.report.seeds import BASELINE


class MissingError(DataError):
    """The records do not hold what a figure shows; the message says what would."""


@dataclass(frozen=True)
class Line:
    """One method with its options at one bit setting, in one column (or none).

    Attributes:
        name: As tables print it, with the options that tell it from others of its method.
        variant: Which of its method's options it has (see :func:`quantexp.figures.style.line`).
        column: Data set, metric, and what tells two ways of measuring apart.
        rows: One per pair of seeds, the newest.
    """

    label: str
    name: str
    variant: int
    place: tuple[Any, ...]
    column: Column
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """Its first row, for what all share."""
        return self.rows[0]

    @property
    def baseline(self) -> bool:
        """Whether nothing is quantized."""
        return self.label == BASELINE

    @property
    def group(self) -> tuple[Any, ...]:
        """Model and protocol: what is compared at all shares it."""
        return self.place[:2]

    @property
    def values(self) -> list[float]:
        """The finite values, in the unit of tables."""
        found = [r.value for r in self.rows if r.value is not None and math.isfinite(r.value)]
        return [names.as_shown(self.column[1], value) for value in found]

    @property
    def broken(self) -> int:
        """Runs whose value is not finite."""
        return sum(r.value is not None and not math.isfinite(r.value) for r in self.rows)

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.mean(self.values)

    @property
    def spread(self) -> float:
        """Sample standard deviation over seeds; 0 for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def lines(rows: Sequence[Row], *, by_column: bool = True) -> list[Line]:
    """All lines, in the order of tables; edited values and cells without a configuration are out.

    Args:
        rows: Rows with a value; of several metrics, if wanted.
        by_column: Whether each column has its own lines; else a cell is one row of its line.
    """
    options = option_names(rows)
    found = columns(rows)
    nothing: Column = ("", "", "")
    groups: dict[Any, dict[Any, Row]] = {}
    for index in sorted(range(len(rows)), key=lambda i: rows[i].updated):
        row = rows[index]
        if not row.model or row.status == EDITED:
            continue
        key = (place(row), row.label, options[row.cell], found.get(index, nothing))
        key = key if by_column else (*key[:3], nothing)
        seeds = None if row.label == BASELINE else (row.seed, row.data_seed)
        groups.setdefault(key, {})[seeds] = row
    variants: dict[str, list[str]] = {}
    for _, label, option, _ in groups:
        variants.setdefault(label, []).append(option)
    ranks = {label: sorted(set(of)) for label, of in variants.items()}
    made = [
        Line(
            label=label,
            name=names.method_name(label) + (f" ({option})" if option else ""),
            variant=ranks[label].index(option),
            place=where,
            column=column,
            rows=tuple(group.values()),
        )
        for (where, label, option, column), group in groups.items()
    ]
    return sorted(made, key=_order)


def bits_text(line: Line) -> str:
    """``w4a4``: the setting's name, as in the cell's."""
    return line.first.bits


def heading(line: Line, all_lines: Sequence[Line], *parts: str) -> str:
    """A panel's title: ``parts``, and model and protocol where the figure has several."""
    several = [len({other.place[i] for other in all_lines}) > 1 for i in (0, 1)]
    own = [str(line.place[i]) for i in (0, 1) if several[i]]
    return " · ".join(part for part in (*own, *parts) if part)


def broken_note(found: Sequence[Line]) -> str:
    """What has no place on an axis: the lines whose runs all broke."""
    lost = [f"{line.name} {bits_text(line)}" for line in found if line.broken and not line.values]
    return f"not finite: {', '.join(dict.fromkeys(lost))}" if lost else ""


def _order(line: Line) -> tuple[Any, ...]:
    bits = tuple(-(b or 16) for b in line.place[2:7])
    size = -line.place[7] if line.place[7] else -math.inf
    return (
        str(line.place[0]),
        str(line.place[1]),
        not line.baseline,
        bits,
        size,
        names.method_order(line.label),
        line.name,
        line.column,
    )
