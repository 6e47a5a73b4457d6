"""Panels of accuracies, costs and Kronecker sizes, as plain data that the page draws."""

from collections.abc import Mapping, Sequence
from typing import Any

from quantexp.figures.lines import Line, bits_text, heading, lines
from quantexp.figures.sizes import MEASURES, SITES, Measure, SizeCurve, means, size_curves
from quantexp.figures.tasks import TaskPanel, accuracies, chance, error, meaning, task_name
from quantexp.report.collect import Row
from quantexp.report.page.plots import digits, line_row, look, method_look
from quantexp.report.seeds import number

_GIB = 2**30
_SPREAD = 0.62  # of the room of one task, by which the methods stand above one another


def accuracy(rows: Sequence[Row], place: Mapping[str, int]) -> tuple[list[dict[str, Any]], str]:
    """Zero-shot accuracies: a line of points per task; and what the error bars are.

    Args:
        rows: All rows.
        place: Cell → the table's row that shows it.
    """
    panels = accuracies(rows)
    return [_tasks(panel, place) for panel in panels], meaning(panels) if panels else ""


def cost(rows: Sequence[Row], place: Mapping[str, int]) -> list[dict[str, Any]]:
    """Calibration time and peak memory of each line; arguments as :func:`accuracy`."""
    known = [row for row in rows if row.calibration_seconds and row.peak_memory_bytes]
    found = lines(known, by_column=False)
    groups: dict[Any, list[Line]] = {}
    for line in found:
        groups.setdefault(line.group, []).append(line)
    made = []
    for of in groups.values():
        title = heading(of[0], found)
        for name, unit, log in (("calibration time", "s", True), ("peak memory", "GiB", False)):
            series = []
            for y, line in enumerate(of):
                times = [row.calibration_seconds for row in line.rows if row.calibration_seconds]
                peaks = [row.peak_memory_bytes for row in line.rows if row.peak_memory_bytes]
                x = sum(times) / len(times) if log else max(peaks) / _GIB
                tip = f"{line.name} {bits_text(line)}\n{name} {x:.3g} {unit}"
                point = {"x": digits(x, 4), "y": y, "tip": tip, **line_row(line, place)}
                series.append({**look(line), "points": [point]})
            made.append(
                {
                    "title": f"{title}: {name}" if title else name.capitalize(),
                    "x": f"{name} ({unit})",
                    "y": "",
                    "names": [f"{line.name} {bits_text(line)}" for line in of],
                    "logx": log,
                    "zero": not log,
                    "jump": True,
                    "series": series,
                }
            )
    return made


def kronecker(rows: Sequence[Row], place: Mapping[str, int]) -> list[dict[str, Any]]:
    """Kronecker sizes against perplexity and cost; arguments as :func:`accuracy`."""
    made = []
    for site, curves in size_curves(rows).items():
        sizes = sorted({size for curve in curves for size in curve.sizes})
        for title, measure in MEASURES:
            shown = [_sizes(curve, n, measure, site, place) for n, curve in enumerate(curves)]
            made.append(
                {
                    "title": f"{title.capitalize()}, {SITES[site]}",
                    "x": f"n1 of the {SITES[site]}",
                    "y": title,
                    "logx": True,
                    "ticks": sizes,
                    "jump": True,
                    "series": [series for series, _ in shown if series["points"]],
                    "baseline": [{"y": own} for _, own in shown if own is not None],
                }
            )
    return [panel for panel in made if panel["series"]]


def _tasks(panel: TaskPanel, place: Mapping[str, int]) -> dict[str, Any]:
    methods = list(dict.fromkeys((line.label, line.variant, line.name) for line in panel.lines))
    series = []
    for n, (label, variant, name) in enumerate(methods):
        off = _SPREAD * ((n + 0.5) / len(methods) - 0.5)
        of = [o for o in panel.lines if (o.label, o.variant) == (label, variant)]
        points = []
        for line in of:
            value, half = line.mean, error(line)
            tip = f"{name}\n{task_name(line.column)}: {number(value)}"
            tip += f" ±{number(half)}" if half else ""
            ends = {"low": digits(value - half), "high": digits(value + half)} if half else {}
            y = panel.columns.index(line.column) + off
            points.append(
                {"x": digits(value), "y": digits(y), "tip": tip, **ends, **line_row(line, place)}
            )
        series.append({**look(of[0]), "line": False, "points": points})
    levels = [(n, chance(column[0])) for n, column in enumerate(panel.columns)]
    return {
        "title": panel.title,
        "x": "accuracy (%)",
        "y": "",
        "names": [task_name(column) for column in panel.columns],
        "room": len(methods),
        "jump": True,
        "marks": [{"y": n, "x": digits(100 * level)} for n, level in levels if level is not None],
        "series": series,
    }


def _sizes(
    curve: SizeCurve, variant: int, measure: Measure, site: str, place: Mapping[str, int]
) -> tuple[dict[str, Any], float | None]:
    """The series, and the value at the method's own sizes."""
    found = means(curve, measure, site)
    points = []
    for size in sorted(size for size in found if size):
        value, spread = found[size]
        span = {"low": digits(value - spread), "high": digits(value + spread)} if spread else {}
        row = next((place[r.cell] for r in curve.rows[size] if r.cell in place), None)
        points.append(
            {"x": size, "y": digits(value), **span} | ({} if row is None else {"row": row})
        )
    series = {**method_look(curve.label, variant), "name": curve.name, "points": points}
    return series, digits(found[None][0]) if None in found else None
