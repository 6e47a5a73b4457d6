"""What calibration took: seconds and peak memory of each method."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from quantexp.figures import style
from quantexp.figures.lines import Line, MissingError, bits_text, heading, lines
from quantexp.report.collect import Row

_GIB = 2**30
# what people count time in
_MARKS = {0.01: "0.01 s", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min", 600.0: "10 min"}
_MARKS |= {3600.0: "1 h", 36_000.0: "10 h", 360_000.0: "100 h"}


def draw(rows: Sequence[Row]) -> Figure:
    """Points rather than bars, since the time axis is logarithmic; means over seeds.

    Raises:
        MissingError: No calibration report.
    """
    known = [row for row in rows if row.calibration_seconds and row.peak_memory_bytes]
    groups: dict[Any, list[Line]] = {}
    found = lines(known, by_column=False)
    for line in found:
        groups.setdefault(line.group, []).append(line)
    if not groups:
        raise MissingError("no finished calibration")
    tallest = max(len(of) for of in groups.values())
    figure, axes = style.panels(2 * len(groups), height=max(1.1, 0.55 + 0.19 * tallest), columns=2)
    for n, of in enumerate(groups.values()):
        time, memory = axes[2 * n : 2 * n + 2]
        for y, line in enumerate(of):
            look = style.line(line.label, line.variant) | {"linestyle": ""}
            seconds = [row.calibration_seconds for row in line.rows if row.calibration_seconds]
            peak = [row.peak_memory_bytes for row in line.rows if row.peak_memory_bytes]
            time.plot(sum(seconds) / len(seconds), y, **look)
            memory.plot(max(peak) / _GIB, y, **look)
        _time_axis(time)
        memory.set_xlim(0, 1.06 * memory.get_xlim()[1])
        time.set_yticks(range(len(of)), [f"{line.name} {bits_text(line)}" for line in of])
        memory.set_yticks(range(len(of)), [])
        for axis, name in ((time, "calibration time"), (memory, "peak memory (GiB)")):
            axis.set_ylim(len(of) - 0.5, -0.5)
            axis.set_xlabel(name)
        if title := heading(of[0], found):
            time.set_title(title)
    return figure


def _time_axis(axis: Axes) -> None:
    """Logarithmic, with the marks that people count time in."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low / 1.3, high * 1.3)
    low, high = axis.get_xlim()
    marks = {seconds: text for seconds, text in _MARKS.items() if low <= seconds <= high}
    axis.xaxis.set_major_locator(FixedLocator(list(marks)))
    axis.set_xticklabels(list(marks.values()))
    axis.xaxis.set_minor_locator(NullLocator())
