"""Rows → the comparison that tables show: methods × metrics, seeds averaged, the best marked.

Only cells that differ in nothing but their seeds are averaged, so no two numbers share a place
unseen (:mod:`quantexp.report.distinguish`).
"""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantexp.experiment import status
from quantexp.report import averages, names
from quantexp.report.collect import Row
from quantexp.report.distinguish import Column, columns, option_names, place

NOTHING = "–"
BASELINE = "none"  # the label of cells that are not quantized


@dataclass(frozen=True)
class Entry:
    """One printed value; ``rank`` is what is compared: the value as printed, if it may win."""

    text: str
    rank: float | None = None
    best: bool = False


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


@dataclass(frozen=True)
class Comparison:
    """What every drawing of the table reads."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def compare(rows: Sequence[Row]) -> Comparison:
    """Groups, averages and ranks rows; diagnostics (``block_error``) stay out of the table.

    The baseline comes first, outside of the ranking, then bit settings from many bits to few. The
    best is marked among equal model, protocol and bits. A value that is not finite, or a mean that
    leaves broken seeds out, is never the best.
    """
    rows, older = _newest([row for row in rows if row.kind != "block_error"])
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
    lines = [
        _line([(rows[i], found.get(i)) for i in indices], order, options)
        for _, indices in sorted(groups.items(), key=lambda item: _order(rows, item[1][0], options))
    ]
    return Comparison(
        tuple(names.column_name(*column) for column in order),
        tuple(_mark(line, lines, order) for line in lines),
        (*averages.notes(rows), *_notes(rows, lines, older)),
    )


def _line(
    members: Sequence[tuple[Row, Column | None]], order: Sequence[Column], options: dict[str, str]
) -> Line:
    first = members[0][0]
    cells = {row.cell: row for row, _ in members}
    entries = [
        _mean(
            [
                names.as_shown(column[1], row.value)
                for row, c in members
                if c == column and row.value is not None
            ],
            cells,
        )
        for column in order
    ]
    option = options[first.cell]
    name = names.method_name(first.label) + (f" ({option})" if option else "")
    bits = [_text(b) for b in place(first)[2:]]
    seconds = [r.calibration_seconds for r in cells.values() if r.calibration_seconds is not None]
    effective = {f"{r.effective_bits:.2f}" for r in cells.values() if r.effective_bits is not None}
    return Line(
        group=place(first),
        model=first.model,
        protocol=first.protocol,
        method=name if first.model else first.cell,
        bits="/".join(bits) if first.model else NOTHING,
        entries=tuple(entries),
        effective_bits=", ".join(sorted(effective)) or NOTHING,
        seconds=_duration(statistics.mean(seconds)) if seconds else NOTHING,
        state=_state(list(cells.values())),
    )


def _mean(values: Sequence[float], cells: dict[str, Row]) -> Entry:
    """Mean and sample standard deviation over seeds; broken seeds are counted, not averaged."""
    finite = [v for v in values if math.isfinite(v)]
    broken = len(values) - len(finite)
    if not values:
        return Entry(NOTHING)
    if len(cells) == 1:
        ranked = finite and next(iter(cells.values())).label != BASELINE
        return Entry(_number(values[0]), float(_number(values[0])) if ranked else None)
    count = f"{len(finite)}, {broken} broken" if broken else str(len(finite))
    if not finite:
        return Entry(f"{_number(values[0])} ({broken} broken)")
    mean = _number(statistics.mean(finite))
    spread = f"±{_number(statistics.stdev(finite))}" if len(finite) > 1 else ""
    return Entry(f"{mean}{spread} ({count})", None if broken else float(mean))


def _mark(line: Line, lines: Sequence[Line], order: Sequence[Column]) -> Line:
    """The line with its best values marked; several lines that print the same are all best."""
    entries = []
    for i, entry in enumerate(line.entries):
        sign = names.better(order[i][1])
        rivals = [other.entries[i].rank for other in lines if other.group == line.group]
        ranks = [sign * rank for rank in rivals if rank is not None]
        best = sign != 0 and entry.rank is not None and sign * entry.rank == max(ranks)
        entries.append(Entry(entry.text, entry.rank, best))
    return Line(**{**line.__dict__, "entries": tuple(entries)})


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


def _order(rows: Sequence[Row], index: int, options: dict[str, str]) -> tuple[Any, ...]:
    row = rows[index]
    models = list(dict.fromkeys(r.model for r in rows if r.model))
    if not row.model:
        return (len(models), row.cell)
    *bits, group = place(row)[2:]
    many_first = tuple(-(b or 16) for b in bits)
    # within equal bits: whole rows before large groups before small ones
    size = -group if group else -math.inf
    quantized = row.label != BASELINE
    return (
        models.index(row.model),
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


def _notes(rows: Sequence[Row], lines: Sequence[Line], older: int) -> list[str]:
    notes = []
    if any("±" in entry.text for line in lines for entry in line.entries):
        notes.append("mean±sample standard deviation (number of seeds)")
    if older:
        notes.append(
            f"{older} older cell{'s' * (older > 1)} with the same configuration left out: the code "
            "or a file it reads has changed since"
        )
    causes = {row.cell: row.cause for row in rows if row.status == status.FAILED}
    for cell, cause in causes.items():
        # one line each; the traceback is in the cell's status.json
        notes.append(f"{cell} failed: {(cause or 'no cause noted').splitlines()[0]}")
    return notes


def _number(value: float) -> str:
    """Two decimals as in the papers, more where the value is small, ``4.21e+05`` where huge."""
    if not math.isfinite(value):
        return str(value)
    if value and abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.2e}"


def _text(bits: int | None) -> str:
    return NOTHING if bits is None else str(bits)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
