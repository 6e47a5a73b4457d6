"""Draws a comparison: in a terminal, in Markdown; and rows as CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from quantexp.report.collect import Row
from quantexp.report.compare import NOTHING, Comparison, compare

BITS = "w/a/k/v/q/group"
_PRIVATE = ("metrics", "settings", "config", "updated")  # of a row: for the table, not for a reader


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Prints the table; where the console is no terminal, as Markdown, which keeps the bold."""
    comparison = compare(rows)
    if not comparison.lines:
        return
    if not console.is_terminal:
        console.file.write(_markdown(comparison))
        return
    console.print(_rich(comparison, console))
    for note in comparison.notes:
        console.print(Text(note, style="dim"))


def markdown(rows: Sequence[Row]) -> str:
    """A GitHub table with the best in bold, then the notes."""
    return _markdown(compare(rows))


def to_csv(rows: Sequence[Row]) -> str:
    """One line per value, the same columns as :func:`to_json`."""
    lines = [_plain(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def to_json(rows: Sequence[Row]) -> str:
    """A list of objects, one per value.

    ``value`` is a number or null; ``value_text`` is ``nan``, ``inf`` or ``-inf`` where a run
    broke, so that the JSON stays valid and the break stays visible.
    """
    return json.dumps([_plain(row) for row in rows], indent=1, allow_nan=False) + "\n"


def _plain(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in fields(row):
        if field.name not in _PRIVATE:
            plain[field.name] = getattr(row, field.name)
        if field.name == "value":
            broken = row.value is not None and not math.isfinite(row.value)
            plain |= {"value": None if broken else row.value}
            plain["value_text"] = str(row.value) if broken else None
    return plain


@dataclass(frozen=True)
class _Column:
    header: str
    texts: list[str]
    right: bool = False  # numbers are aligned on their last digit
    best: frozenset[int] = frozenset()  # lines


def _columns(comparison: Comparison, without: Sequence[str] = ()) -> list[_Column]:
    """All columns that say something: no model where there is one, no state where all is done."""
    lines = comparison.lines
    columns = [
        _Column("model", [line.model for line in lines]),
        _Column("protocol", [line.protocol for line in lines]),
    ]
    columns = [column for column in columns if len({*column.texts} - {""}) > 1]
    columns.append(_Column("method", [line.method for line in lines]))
    columns.append(_Column(BITS, [line.bits for line in lines]))
    for i, name in enumerate(comparison.columns):
        best = frozenset(n for n, line in enumerate(lines) if line.entries[i].best)
        columns.append(_Column(name, [line.entries[i].text for line in lines], True, best))
    optional = [
        _Column("bits/weight", [line.effective_bits for line in lines], True),
        _Column("calibration", [line.seconds for line in lines], True),
        _Column("state", [line.state for line in lines]),
    ]
    return columns + [
        column
        for column in optional
        if {*column.texts} - {"", NOTHING} and column.header not in without
    ]


def _markdown(comparison: Comparison) -> str:
    columns = _columns(comparison)
    texts = [
        [f"**{text}**" if n in column.best else text for n, text in enumerate(column.texts)]
        for column in columns
    ]
    table = tabulate(
        [[text.replace("|", "\\|") for text in line] for line in zip(*texts, strict=True)],
        [column.header for column in columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if column.right else "left" for column in columns],
    )
    # two blanks end a line in Markdown
    notes = "  \n".join(note.replace("|", "\\|") for note in comparison.notes)
    return f"{table}\n\n{notes}\n" if notes else f"{table}\n"


def _rich(comparison: Comparison, console: Console) -> Table:
    """The fullest table that fits the terminal: costs give way before results do."""
    wide = console.options.update(max_width=10_000)
    for without in ((), ("calibration",), ("calibration", "bits/weight")):
        table = _drawn(comparison, _columns(comparison, without))
        if console.measure(table, options=wide).maximum <= console.width:
            break
    return table


def _drawn(comparison: Comparison, columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in columns:
        # only words are wrapped: a number in two lines is no number
        words = column.header in ("method", "state")
        table.add_column(
            # the data set above its metric keeps columns of numbers narrow
            Text(column.header.replace(" ", "\n", 1)),
            justify="right" if column.right else "left",
            no_wrap=not words,
            min_width=_longest_word(column.texts) if words else None,
        )
    lines = comparison.lines
    for n, line in enumerate(lines):
        table.add_row(
            *(Text(column.texts[n], style="bold" * (n in column.best)) for column in columns),
            end_section=n + 1 < len(lines) and lines[n + 1].group != line.group,
        )
    return table


def _longest_word(texts: Sequence[str]) -> int:
    # names are not cut in two; a path among a method's options may be
    return min(24, max(len(word) for text in texts for word in text.split()))
