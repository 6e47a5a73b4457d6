"""FlatQuant's figure 5: what the size of the Kronecker factors costs and buys.

A transform of width n is a product of an n1 × n1 and an n2 × n2 matrix, n = n1 n2. The paper shows
speedups of its kernels; the records have what follows from the same sizes: how long calibration
takes and how many bits per weight the stored factors add.
"""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from quantexp.figures import style
from quantexp.figures.lines import MissingError
from quantexp.report import names
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column, columns, place

SITES = {"kronecker_hidden": "hidden size", "kronecker_intermediate": "intermediate size"}
_MEASURES: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("perplexity", lambda row: row.value),
    ("calibration (min)", lambda row: _minutes(row.calibration_seconds)),
    ("effective bits per weight", lambda row: row.effective_bits),
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
                _plot(axis, curve, measure, look)
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
        entries["the method's own sizes"] = {"color": style.PALE, **_OWN}
    style.legend(figure, entries)
    return figure


def first_size(value: object) -> int | None:
    """n1 of an option's value: a number, a pair, or text such as ``16x16``; else ``None``."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    numbers = re.findall(r"\d+", str(value)) if value is not None else []
    return int(numbers[0]) if numbers and int(numbers[0]) > 0 else None


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
        curves.setdefault(key, {}).setdefault(first_size(options[site]), []).append(row)
    return {key: curve for key, curve in curves.items() if len([s for s in curve if s]) > 1}


def _plot(
    axis: Axes, curve: Curve, measure: Callable[[Row], float | None], look: dict[str, Any]
) -> None:
    means: dict[int | None, tuple[float, float]] = {}
    for size, rows in curve.items():
        values = [value for row in rows if (value := measure(row)) is not None]
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


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 60
