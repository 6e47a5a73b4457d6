"""FlatQuant's figure 5: what the size of the Kronecker factors costs and buys.

A transform of width n = n1 n2 is a product of an n1 × n1 and an n2 × n2 matrix. The paper shows
speedups of its kernels; here stands what they follow from, the n1 + n2 multiplications per channel
and token, and how long calibration took.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from quantexp.figures import style
from quantexp.figures.lines import MissingError
from quantexp.figures.palette import PALE
from quantexp.report import names
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column, columns, place

SITES = {"kronecker_hidden": "hidden size", "kronecker_intermediate": "intermediate size"}
Measure = Callable[[Row, str], float | None]  # of a row and the option that is varied
_MEASURES: tuple[tuple[str, Measure], ...] = (
    ("perplexity", lambda row, site: row.value),
    ("multiplications per channel", lambda row, site: _multiplications(row, site)),
    ("calibration (min)", lambda row, site: _minutes(row.calibration_seconds)),
)
_OWN: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 0.8}

Curve = dict[int | None, list[Row]]  # n1, or None for the method's own rule → rows of its seeds


def draw(rows: Sequence[Row]) -> Figure:
    """A row of panels for each of the two widths whose factors the sweep varies.

    Means over seeds; the dashed line is the method's own choice of sizes (no size given).

    Raises:
        MissingError: Fewer than two sizes of one width.
    """
    found = {site: curves for site in SITES if (curves := _curves(rows, site))}
    if not found:
        raise MissingError(f"no sweep over Kronecker sizes (method.{', method.'.join(SITES)})")
    figure, axes = style.panels(3 * len(found))
    entries: dict[str, Any] = {}
    for n, (site, curves) in enumerate(found.items()):
        for (title, measure), axis in zip(_MEASURES, axes[3 * n :], strict=False):
            for variant, (key, curve) in enumerate(sorted(curves.items(), key=str)):
                look = style.line(key[1], variant)
                _plot(axis, curve, measure, site, look)
                entries.setdefault(_name(key, curves), look)
            sizes = sorted({size for curve in curves.values() for size in curve if size})
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_locator(FixedLocator(sizes))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticklabels([str(size) for size in sizes])
            axis.set_xlabel(f"n1 of the {SITES[site]}")
            sets = {key[2][0] for key in curves}
            named = title == "perplexity" and len(sets) == 1
            axis.set_ylabel(f"{title} ({sets.pop()})" if named else title)
    if any(None in curve for curves in found.values() for curve in curves.values()):
        entries["the method's own sizes"] = {"color": PALE, **_OWN}
    style.legend(figure, entries)
    return figure


def sizes_of(value: object) -> tuple[int, int] | None:
    """(n1, n2) of an option's value; ``None`` where it names no pair (the method's own rule)."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None


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


def _plot(axis: Axes, curve: Curve, measure: Measure, site: str, look: dict[str, Any]) -> None:
    means: dict[int | None, tuple[float, float]] = {}
    for size, rows in curve.items():
        values = [value for row in rows if (value := measure(row, site)) is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            means[size] = (statistics.mean(values), spread)
    sizes = sorted(size for size in means if size)
    axis.errorbar(
        sizes,
        [means[size][0] for size in sizes],
        yerr=style.whiskers([means[size][1] for size in sizes]),
        elinewidth=0.8,
        **look,
    )
    if None in means:
        axis.axhline(means[None][0], color=look["color"], **_OWN)


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


def _multiplications(row: Row, site: str) -> float | None:
    pair = sizes_of(row.config["method"][site])
    return float(sum(pair)) if pair else None


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60
