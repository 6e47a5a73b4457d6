"""FlatQuant's figure 5, drawn: what the size of the Kronecker factors costs and buys."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from quantexp.figures import style
from quantexp.figures.lines import MissingError
from quantexp.figures.palette import PALE
from quantexp.figures.sizes import MEASURES, SITES, Measure, SizeCurve, means, size_curves
from quantexp.report.collect import Row

_OWN: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 0.8}


def draw(rows: Sequence[Row]) -> Figure:
    """A row of panels for each of the two widths whose factors the sweep varies.

    Means over seeds; the dashed line is the method's own choice of sizes (no size given).

    Raises:
        MissingError: Fewer than two sizes of one width.
    """
    found = size_curves(rows)
    if not found:
        raise MissingError(f"no sweep over Kronecker sizes (method.{', method.'.join(SITES)})")
    figure, axes = style.panels(3 * len(found))
    entries: dict[str, Any] = {}
    for n, (site, curves) in enumerate(found.items()):
        for (title, measure), axis in zip(MEASURES, axes[3 * n :], strict=False):
            for variant, curve in enumerate(curves):
                look = style.line(curve.label, variant)
                _plot(axis, curve, measure, site, look)
                entries.setdefault(curve.name, look)
            sizes = sorted({size for curve in curves for size in curve.sizes})
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_locator(FixedLocator(sizes))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticklabels([str(size) for size in sizes])
            axis.set_xlabel(f"n1 of the {SITES[site]}")
            sets = {curve.dataset for curve in curves}
            named = title == "perplexity" and len(sets) == 1
            axis.set_ylabel(f"{title} ({sets.pop()})" if named else title)
    if any(None in curve.rows for curves in found.values() for curve in curves):
        entries["the method's own sizes"] = {"color": PALE, **_OWN}
    style.legend(figure, entries)
    return figure


def _plot(axis: Axes, curve: SizeCurve, measure: Measure, site: str, look: dict[str, Any]) -> None:
    found = means(curve, measure, site)
    sizes = sorted(size for size in found if size)
    axis.errorbar(
        sizes,
        [found[size][0] for size in sizes],
        yerr=style.whiskers([found[size][1] for size in sizes]),
        elinewidth=0.8,
        **look,
    )
    if None in found:
        axis.axhline(found[None][0], color=look["color"], **_OWN)
