"""The panels of the plots, as plain data that the page draws."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from quantexp.figures import palette
from quantexp.figures.lines import Line, bits_text
from quantexp.figures.panels import Panel, bits, block_errors, perplexities, shared
from quantexp.report.collect import Row
from quantexp.report.seeds import number

_LEAST = 0.4  # bits that an x axis spans at least, as in the figures
_DASHES = (None, "7 3", "2 2", "8 3 2 3")


def pareto(rows: Sequence[Row], place: Mapping[str, int]) -> list[dict[str, Any]]:
    """Perplexity against effective bits.

    Args:
        rows: All rows.
        place: Cell → the table's row that shows it.
    """
    return [_pareto(panel, place) for panel in perplexities(rows).panels]


def blocks(rows: Sequence[Row], place: Mapping[str, int]) -> list[dict[str, Any]]:
    """Relative errors of blocks, geometric means over seeds; arguments as :func:`pareto`."""
    made = []
    for panel in block_errors(rows):
        series = []
        for line, curves in panel.curves:
            points = [
                {
                    "x": block,
                    "y": digits(statistics.geometric_mean([curve[block] for curve in curves])),
                    **line_row(line, place),
                }
                for block in shared(curves)
            ]
            series.append({**look(line), "points": points})
        made.append(
            {"title": panel.title, "x": "block", "y": "relative error", "whole": True, "jump": True}
            | {"series": series}
        )
    return made


def digits(value: float | None, count: int = 5) -> float | None:
    """As many digits as a screen shows; ``None`` for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{count}g}")


def _pareto(panel: Panel, place: Mapping[str, int]) -> dict[str, Any]:
    curves: dict[str, list[Line]] = {}
    for line in sorted((o for o in panel.lines if o.values), key=bits):
        curves.setdefault(line.name, []).append(line)
    series = [
        {**look(of[0]), "points": [_point(line, place) for line in of]} for of in curves.values()
    ]
    front: list[tuple[float, float]] = []
    for x, y in sorted((p["x"], p["y"]) for one in series for p in one["points"]):
        if not front or y < front[-1][1]:
            front.append((x, y))
    return {
        "title": panel.title,
        "x": "effective bits per weight",
        "y": f"perplexity ({panel.column[0]})",
        "least": _LEAST,
        "jump": True,
        "series": series,
        "front": front,
        "baseline": [{"y": digits(line.mean)} for line in panel.baseline if line.values],
    }


def _point(line: Line, place: Mapping[str, int]) -> dict[str, Any]:
    x, spread = bits(line), line.spread
    tip = f"{line.name} {bits_text(line)}\n{x:.3f} bits: {number(line.mean)}"
    if len(line.values) > 1:
        tip += f" ±{number(spread)} ({len(line.values)} seeds)"
    if line.broken:
        tip += f"\n{line.broken} broken"
    span = {"low": digits(line.mean - spread), "high": digits(line.mean + spread)} if spread else {}
    return {"x": digits(x), "y": digits(line.mean), "tip": tip, **span, **line_row(line, place)}


def line_row(line: Line, place: Mapping[str, int]) -> dict[str, int]:
    """``row``: where the table shows the line; nothing where it does not."""
    found = [place[row.cell] for row in line.rows if row.cell in place]
    return {"row": found[0]} if found else {}


def look(line: Line) -> dict[str, Any]:
    """Name, colour, marker and dashes of a line, as in the figures."""
    return {"name": line.name, **method_look(line.label, line.variant)}


def method_look(label: str, variant: int) -> dict[str, Any]:
    """Colour, marker and dashes of a method's variant; ``+gptq`` is hollow."""
    colour, _ = palette.method(label)
    rounded = "+" in label
    return {
        "color": "var(--ink)" if colour == "#000000" else colour,
        "marker": palette.marker(label, variant),
        "hollow": rounded,
        "dash": _DASHES[(variant + rounded) % len(_DASHES)],
    }
