"""How all figures look: sizes of a paper's column, a colour and marker per method, files as bytes.

Colours are Okabe and Ito's, told apart by colour-blind readers; markers and line styles tell the
same in grey. Equal data give equal files: no dates, no random ids.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from quantexp.experiment import record
from quantexp.figures import palette

COLUMN, PAGE = 3.4, 7.0  # widths in inches: one column of a two-column paper, and both
_SIZES = {"*": 8, "o": 7}  # RTN's circle stays visible where GPTQ's square lies on it
_LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_HATCHES = ("", "///", "...", "xxx")
_LOOK = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # text stays text; Type 3 fonts are refused by many publishers
    "svg.hashsalt": "quantexp",
}
# no file says when it was made
_METADATA: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


@contextmanager
def look() -> Iterator[None]:
    """Within it matplotlib draws as above, whatever the user's own settings are."""
    with matplotlib.style.context(["default", _LOOK]):
        yield


def colour(label: str) -> str:
    """The method's colour, ``+gptq`` or not."""
    return palette.method(label)[0]


def line(label: str, variant: int = 0) -> dict[str, Any]:
    """Keywords of a plotted line; ``+gptq`` is hollow and dashed, ``variant`` tells options apart.

    Args:
        label: ``flatquant``, ``flatquant+gptq``, ….
        variant: 0 for the first of the method's variants in a figure, 1 for the next, ….
    """
    shade, marker = colour(label), palette.marker(label, variant)
    rounded = "+" in label
    return {
        "color": shade,
        "marker": marker,
        "markersize": _SIZES.get(marker, 5),
        "markerfacecolor": "white" if rounded else shade,
        "markeredgecolor": shade if rounded else "#303030",
        "markeredgewidth": 1.0 if rounded else 0.4,
        "linestyle": _LINES[(variant + rounded) % len(_LINES)],
    }


def bar(label: str, variant: int = 0) -> dict[str, Any]:
    """Keywords of a bar: the method's colour, hatched for ``+gptq`` and for further variants."""
    return {
        "facecolor": "#b9b9b9" if label == "none" else colour(label),
        "edgecolor": "#303030",
        "linewidth": 0.4,
        "hatch": _HATCHES[(variant + ("+" in label)) % len(_HATCHES)],
    }


def panels(count: int, height: float = 2.3, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels: one fits a column, several are as wide as the page.

    Args:
        count: Panels.
        height: Of a row, in inches.
        columns: The most panels side by side.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    width = COLUMN if columns == 1 else PAGE
    figure = Figure(figsize=(width, height * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def legend(figure: Figure, entries: dict[str, Any], note: str = "") -> None:
    """One legend below all panels.

    Args:
        figure: Where.
        entries: Name → what it looks like (keywords of a line, or an artist).
        note: A line above them: what a reader must know and no axis says.
    """
    handles = [
        Line2D([], [], label=name, **look) if isinstance(look, dict) else look
        for name, look in entries.items()
    ]
    longest = max((len(name) for name in entries), default=1)
    room = figure.get_figwidth() * 18  # letters of the legend's size
    columns = max(1, min(len(handles), int(room / (longest + 7))))
    figure.legend(
        handles,
        list(entries),
        loc="outside lower center",
        ncols=columns,
        title=note or None,
        title_fontsize=7,
    )


def whiskers(spreads: Sequence[float]) -> list[float] | None:
    """Error bars of these lengths, and none at all where one value stands for itself."""
    return [spread or float("nan") for spread in spreads] if any(spreads) else None


def log_if_wide(axes: Axes, values: Sequence[float], ratio: float = 3.0) -> None:
    """A logarithmic y axis with plain numbers where the values span more than ``ratio``."""
    if min(values) <= 0 or max(values) / min(values) <= ratio:
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = max(values) / min(values) > 1000
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if decades else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def settle(figure: Figure) -> None:
    """Lays the figure out once, so that it is the same in all formats and in any order of them."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format of the path's suffix; a reader never sees a part of it."""
    form = path.suffix.removeprefix(".")
    path.parent.mkdir(parents=True, exist_ok=True)
    with look(), record.replacing(path) as partial:
        figure.savefig(partial, format=form, metadata=_METADATA[form])
