"""Perplexity against effective bits per weight: what a bit buys.

One panel for each test set and each precision of activations and cache, since only those that
share it compete. The grey step is the Pareto front: the least perplexity for at most so many bits.
"""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quantexp.figures import style
from quantexp.figures.lines import Line, MissingError, broken_note, heading, lines
from quantexp.report import names
from quantexp.report.collect import Row

_BASELINE: dict[str, Any] = {"color": "black", "linestyle": (0, (6, 2)), "linewidth": 0.9}
_LEAST = 0.4  # bits that an x axis spans at least: a hundredth of a bit is no distance


def draw(rows: Sequence[Row]) -> Figure:
    """Points with the standard deviation over seeds; the unquantized model is the dashed line.

    Raises:
        MissingError: No quantized cell has a perplexity and a calibration report.
    """
    found = lines([row for row in rows if row.metric == "ppl" and row.value is not None])
    shown = [line for line in found if line.first.effective_bits is not None]
    groups: dict[Any, list[Line]] = {}
    for line in shown:
        groups.setdefault((line.group, line.column, line.place[3:7]), []).append(line)
    groups = {
        key: groups[key]
        for key in sorted(groups, key=_order)
        if any(line.values for line in groups[key])
    }
    if not groups:
        raise MissingError("no finished perplexity of a quantized cell with its calibration report")
    figure, axes = style.panels(len(groups))
    entries: dict[str, Any] = {}
    figure_lines = [line for line in found if line.values]
    for line in sorted(figure_lines, key=lambda line: (names.method_order(line.label), line.name)):
        entries.setdefault(
            line.name, _BASELINE if line.baseline else style.line(line.label, line.variant)
        )
    for axis, ((group, column, forward), of) in zip(axes, groups.items(), strict=True):
        full = [
            line for line in found if line.baseline and (line.group, line.column) == (group, column)
        ]
        _panel(axis, of, full)
        several = len({key[1] for key in groups}) > 1
        name = names.column_name(*column).removesuffix(" ↓")
        axis.set_title(heading(of[0], shown, name if several else "", _forward(forward)))
        axis.set_ylabel(f"perplexity ({column[0]})")
        axis.set_xlabel("effective bits per weight")
    style.legend(figure, entries, broken_note(shown))
    return figure


def _panel(axis: Axes, of: Sequence[Line], baseline: Sequence[Line]) -> None:
    curves: dict[Any, list[Line]] = {}
    for line in of:
        if line.values:
            curves.setdefault((line.label, line.variant), []).append(line)
    points = []
    for (label, variant), curve in curves.items():
        curve.sort(key=_bits)
        look = style.line(label, variant)
        axis.errorbar(
            [_bits(line) for line in curve],
            [line.mean for line in curve],
            yerr=style.whiskers([line.spread for line in curve]),
            elinewidth=0.8,
            **look,
        )
        points += [(_bits(line), line.mean) for line in curve]
    values = [value for _, value in points]
    _front(axis, points)
    for line in baseline:
        if line.values:
            axis.axhline(line.mean, zorder=1.5, **_BASELINE)
            values.append(line.mean)
    axis.margins(y=0.12)
    bits = [x for x, _ in points]
    room = max(0.12 * (max(bits) - min(bits)), (_LEAST - max(bits) + min(bits)) / 2)
    axis.set_xlim(min(bits) - room, max(bits) + room)
    style.log_if_wide(axis, values)


def _front(axis: Axes, points: Sequence[tuple[float, float]]) -> None:
    best: list[tuple[float, float]] = []
    for bits, value in sorted(points):
        if not best or value < best[-1][1]:
            best.append((bits, value))
    if len(best) > 1:
        x, y = zip(*best, strict=True)
        axis.step(x, y, where="post", color=style.PALE, linewidth=3, alpha=0.35, zorder=1)


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Weights only first, then activations from many bits to few."""
    group, column, forward = key
    return (group, column, tuple(-(bits or 16) for bits in forward))


def _bits(line: Line) -> float:
    """Mean over seeds: transforms take the same room in each."""
    found = [row.effective_bits for row in line.rows if row.effective_bits is not None]
    return sum(found) / len(found)


def _forward(bits: tuple[int | None, ...]) -> str:
    activation, key, value, query = (bit or 16 for bit in bits)
    parts = [f"activations {activation} bit"] if activation < 16 else []
    if key == value and key < 16:
        parts.append(f"KV {key} bit")
    else:
        parts += [f"{name} {b} bit" for name, b in (("keys", key), ("values", value)) if b < 16]
    parts += [f"queries {query} bit"] if query < 16 else []
    return ", ".join(parts) or "weights only"
