"""What FlatQuant's figure 5 shows: Kronecker sizes against perplexity and cost.

A transform of width n = n1 n2 is a product of an n1 × n1 and an n2 × n2 matrix. The paper shows
speedups of its kernels; here stands what they follow from, the n1 + n2 multiplications per channel
and token, and how long calibration took.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantexp.report import names
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column, columns, place

SITES = {"kronecker_hidden": "hidden size", "kronecker_intermediate": "intermediate size"}
Curve = dict[int | None, list[Row]]  # n1, or None for the method's own rule → rows of its seeds


@dataclass(frozen=True)
class SizeCurve:
    """All settings but one width's factors and the seeds are equal along it.

    Attributes:
        label: Of the method.
        name: Method and bits, and what else tells it from others of its width.
        dataset: Of the perplexities.
        rows: n1 → rows of its seeds; ``None`` for the method's own choice.
    """

    label: str
    name: str
    dataset: str
    rows: Mapping[int | None, Sequence[Row]]

    @property
    def sizes(self) -> list[int]:
        """The n1 that were given, rising."""
        return sorted(size for size in self.rows if size)


def size_curves(rows: Sequence[Row]) -> dict[str, list[SizeCurve]]:
    """Width (of :data:`SITES`) → its curves of at least two sizes; widths without one are out."""
    found = {}
    for site in SITES:
        curves = _curves(rows, site)
        made = [
            SizeCurve(key[1], _name(key, curves), key[2][0], curve)
            for key, curve in sorted(curves.items(), key=str)
        ]
        if made:
            found[site] = made
    return found


def means(curve: SizeCurve, measure: "Measure", site: str) -> dict[int | None, tuple[float, float]]:
    """n1 → mean and sample standard deviation over seeds; 0 for one."""
    found = {}
    for size, rows in curve.rows.items():
        values = [value for row in rows if (value := measure(row, site)) is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            found[size] = (statistics.mean(values), spread)
    return found


def sizes_of(value: object) -> tuple[int, int] | None:
    """(n1, n2) of an option's value; ``None`` where it names no pair (the method's own rule)."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None


def _multiplications(row: Row, site: str) -> float | None:
    pair = sizes_of(row.config["method"][site])
    return float(sum(pair)) if pair else None


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60


Measure = Callable[[Row, str], float | None]  # of a row and the option that is varied
MEASURES: tuple[tuple[str, Measure], ...] = (
    ("perplexity", lambda row, site: row.value),
    ("multiplications per channel", _multiplications),
    ("calibration (min)", lambda row, site: _minutes(row.calibration_seconds)),
)


def _curves(rows: Sequence[Row], site: str) -> dict[Any, Curve]:
    """Setting (all but this width's factors and the seeds) → curve of at least two sizes."""
    found = columns(rows)
    curves: dict[Any, Curve] = {}
    for index, column in found.items():
        row = rows[index]
        options: Mapping[str, Any] = row.config.get("method") or {}
        if site not in options or row.metric != "ppl" or row.status == EDITED:
            continue
        rest = tuple(sorted((k, str(v)) for k, v in options.items() if k != site))
        key = (place(row), row.label, column, rest)
        pair = sizes_of(options[site])
        curves.setdefault(key, {}).setdefault(pair[0] if pair else None, []).append(row)
    return {key: curve for key, curve in curves.items() if len([s for s in curve if s]) > 1}


def _name(key: tuple[Any, str, Column, Any], curves: Mapping[Any, Curve]) -> str:
    """Method and bits, and what else tells the curves apart."""
    where, label, column, rest = key
    bits = "/".join("–" if b is None else str(b) for b in where[2:])
    several = [len({str(other[i]) for other in curves}) > 1 for i in (2, 3)]
    models = len({other[0][0] for other in curves}) > 1
    parts = [str(where[0]) if models else "", names.method_name(label), bits]
    parts += [column[0]] if several[0] else []
    if several[1]:
        shared = set.intersection(*(set(other[3]) for other in curves))
        parts += [f"{k}={v}" for k, v in rest if (k, v) not in shared]
    return " ".join(part for part in parts if part)
