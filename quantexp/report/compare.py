"""Rows → the comparison that tables show: methods × metrics, seeds averaged, the best marked.

Only cells that differ in nothing but their seeds are averaged, so no two numbers share a place
unseen (:mod:`quantexp.report.distinguish`).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quantexp.experiment import status
from quantexp.report import averages, names, notes, paper, seeds
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column, columns, option_names, place
from quantexp.report.seeds import BASELINE, NOTHING
from quantexp.report.view import View

if TYPE_CHECKING:
    from quantexp.report.significance import Interval

_UNSHOWN = ("block_error", "validation")


@dataclass(frozen=True)
class Entry:
    """One printed value.

    ``rank`` is what is compared: the value as printed, if it may win. ``similar`` says that the
    value is not significantly different from the best of its group, ``interval`` is that test.
    ``paper`` and ``delta`` are the published value and the difference to it, as printed. ``marks``
    stand behind the value: † for fallbacks, ‡ for options that were chosen among several.
    """

    text: str
    rank: float | None = None
    best: bool = False
    second: bool = False
    similar: bool = False
    interval: Interval | None = None
    paper: str = ""
    delta: str = ""
    marks: str = ""


@dataclass(frozen=True)
class Line:
    """One method at one bit setting; lines that are compared share ``group``."""

    group: tuple[Any, ...]
    model: str
    protocol: str
    method: str
    bits: str  # w/a/k/v/q/group in full
    entries: tuple[Entry, ...]
    effective_bits: str
    seconds: str
    state: str  # empty where everything is done
    label: str = ""
    rows: tuple[tuple[int, ...], ...] = ()  # of each entry: the rows (by index) that it shows
    cells: tuple[str, ...] = ()  # all of its cells, finished or not


@dataclass(frozen=True)
class Comparison:
    """What every drawing of the table reads."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    keys: tuple[Column, ...]  # of each column: data set, metric, variant
    rows: tuple[Row, ...] = ()  # what the lines' entries name by index


def compare(rows: Sequence[Row], view: View | None = None) -> Comparison:
    """Groups, averages and ranks rows; diagnostics and validation sets stay out of the table.

    The baseline comes first, outside of the ranking, then bit settings from many bits to few. The
    best and the second are marked among equal model, protocol and bits. A value that is not finite
    or was edited by hand, or a mean that leaves broken seeds out, is never the best.
    """
    view = view or View()
    rows, older = _newest([row for row in rows if row.kind not in _UNSHOWN])
    found = columns(rows)
    order = list(dict.fromkeys(found.values()))
    # a set that nothing has a value of yet gets its column all the same
    named = {column[:2] for column in order}
    waiting = [(r.dataset, r.metric or "", "") for r in rows if r.dataset]
    order += [c for c in dict.fromkeys(waiting) if c[:2] not in named]

    options = option_names(rows)
    groups: dict[Any, list[int]] = {}
    for index, row in enumerate(rows):
        # a cell that has not started is known by its name only: a line of its own
        key = (place(row), row.label, options[row.cell]) if row.model else row.cell
        groups.setdefault(key, []).append(index)
    models = {name: i for i, name in enumerate(dict.fromkeys(r.model for r in rows if r.model))}
    sorted_groups = sorted(
        groups.values(), key=lambda indices: _order(rows[indices[0]], models, options)
    )
    lines = [_line(rows, indices, found, order, options) for indices in sorted_groups]
    rivals: dict[Any, list[Line]] = {}
    for line in lines:
        rivals.setdefault(line.group, []).append(line)
    lines = [_mark(line, rivals[line.group], order) for line in lines]
    said = [*averages.notes(rows), *notes.general(rows, lines, order, older)]
    if view.significance:
        from quantexp.report import similar

        lines, more = similar.mark(rows, lines, order)
        said += more
    lines, more = paper.compare(rows, lines, order, view)
    said += more
    shown = tuple(names.column_name(*column) for column in order)
    return Comparison(shown, tuple(lines), tuple(said), tuple(order), tuple(rows))


def _line(
    rows: Sequence[Row],
    indices: Sequence[int],
    found: dict[int, Column],
    order: Sequence[Column],
    options: dict[str, str],
) -> Line:
    first = rows[indices[0]]
    cells: dict[str, list[Row]] = {}
    for index in indices:
        cells.setdefault(rows[index].cell, []).append(rows[index])
    members = [tuple(i for i in indices if found.get(i) == column) for column in order]
    one = next(iter(cells.values()))[0] if len(cells) == 1 else None
    entries = [
        Entry(*seeds.mean([rows[i] for i in part], one), marks=_marks([rows[i] for i in part]))
        for part in members
    ]
    option = options[first.cell]
    name = names.method_name(first.label) + (f" ({option})" if option else "")
    bits = [_text(b) for b in place(first)[2:]]
    firsts = [some[0] for some in cells.values()]
    seconds = [r.calibration_seconds for r in firsts if r.calibration_seconds is not None]
    effective = {f"{r.effective_bits:.2f}" for r in firsts if r.effective_bits is not None}
    return Line(
        group=place(first),
        model=first.model,
        protocol=first.protocol,
        method=name if first.model else first.cell,
        bits="/".join(bits) if first.model else NOTHING,
        entries=tuple(entries),
        effective_bits=", ".join(sorted(effective)) or NOTHING,
        seconds=_duration(statistics.mean(seconds)) if seconds else NOTHING,
        # an edited value is told although the cell's other values are not
        state=_state([max(some, key=lambda row: row.status == EDITED) for some in cells.values()]),
        label=first.label,
        rows=tuple(members),
        cells=tuple(cells),
    )


def _marks(rows: Sequence[Row]) -> str:
    return notes.FALLBACK * any(r.fallbacks for r in rows) + notes.TUNED * any(
        r.tuned for r in rows
    )


def _mark(line: Line, group: Sequence[Line], order: Sequence[Column]) -> Line:
    """The line with its best and second values marked; all that print the same share the mark.

    Among two there is no second: it would be the last.

    Args:
        line: One of the group.
        group: All lines that it is compared with.
        order: The columns.
    """
    entries = []
    for i, entry in enumerate(line.entries):
        sign = names.better(order[i][1])
        rivals = (other.entries[i].rank for other in group)
        ranks = [sign * rank for rank in rivals if rank is not None]
        if sign and entry.rank is not None:
            placed = sorted(set(ranks), reverse=True).index(sign * entry.rank)
            entry = replace(entry, best=placed == 0, second=placed == 1 and len(ranks) > 2)
        entries.append(entry)
    return replace(line, entries=tuple(entries))


def _newest(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Leaves out cells that another cell of equal options and seeds has replaced.

    Their fingerprints differ because the code or a file has changed since. The last one to run
    counts; returns how many were left out.
    """
    options = option_names(rows)
    cells = {row.cell: row for row in rows}
    latest: dict[Any, Row] = {}
    for row in cells.values():
        same = (place(row), row.label, options[row.cell], _seeds(row))
        key = same if row.model else row.cell
        if key not in latest or row.updated >= latest[key].updated:
            latest[key] = row
    kept = {row.cell for row in latest.values()}
    return [row for row in rows if row.cell in kept], len(cells) - len(kept)


def _seeds(row: Row) -> tuple[int | None, int | None] | None:
    return None if row.label == BASELINE else (row.seed, row.data_seed)


def _order(row: Row, models: Mapping[str, int], options: dict[str, str]) -> tuple[Any, ...]:
    if not row.model:
        return (len(models), row.cell)
    *bits, group = place(row)[2:]
    many_first = tuple(-(b or 16) for b in bits)
    # within equal bits: whole rows before large groups before small ones
    size = -group if group else -math.inf
    quantized = row.label != BASELINE
    return (
        models[row.model],
        row.protocol,
        quantized,
        many_first,
        size,
        names.method_order(row.label),
        options[row.cell],
    )


def _state(cells: Sequence[Row]) -> str:
    """``""`` where all cells are done; otherwise what they are at."""
    if all(row.status == status.DONE for row in cells):
        return ""
    if len(cells) == 1:
        running = cells[0].status == status.RUNNING and cells[0].progress
        return f"{cells[0].status}: {running}" if running else cells[0].status
    counts = Counter(row.status for row in cells)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _text(bits: int | None) -> str:
    return NOTHING if bits is None else str(bits)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
