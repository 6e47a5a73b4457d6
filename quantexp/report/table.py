"""Draws a table in a terminal and in Markdown; writes rows as CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from quantexp.report.collect import Row
from quantexp.report.compare import Comparison, compare
from quantexp.report.layout import WORDS, Cell, Grid, lay_out
from quantexp.report.paper import plain as plain_published
from quantexp.report.view import View

# of a row: for the table, not for a reader
_PRIVATE = ("metrics", "settings", "config", "updated", "record", "versions")


def print_table(rows: Sequence[Row], console: Console, view: View | None = None) -> None:
    """Prints the table; where the console is no terminal, as Markdown, which keeps the bold."""
    comparison = compare(rows, view)
    if not comparison.lines:
        return
    if not console.is_terminal:
        console.file.write(_markdown(lay_out(comparison, view)))
        return
    console.print(_rich(comparison, view, console))
    for note in comparison.notes:
        console.print(Text(note, style="dim"))


def markdown(rows: Sequence[Row], view: View | None = None) -> str:
    """A GitHub table with the best in bold and the second in italics, then the notes."""
    return _markdown(lay_out(compare(rows, view), view))


def to_csv(rows: Sequence[Row]) -> str:
    """One line per value, the same columns as :func:`to_json`."""
    lines = _all_plain(rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def to_json(rows: Sequence[Row], view: View | None = None) -> str:
    """A list of objects, one per value.

    ``value`` is a number or null; ``value_text`` is ``nan``, ``inf`` or ``-inf`` where a run
    broke, so that the JSON stays valid and the break stays visible. ``published`` (accuracies in
    percent), ``published_source``, ``delta`` and ``verdict`` are null where no published value was
    made alike. With ``view.significance`` each has ``to_best``: ratio of perplexities (difference
    of accuracies) to the best of its group with its 95 % interval; null for the best itself and
    where there is no test. Seeds are averaged first, so that rows of one line share it.
    """
    lines = _all_plain(rows)
    if view is not None and view.significance:
        intervals = _intervals(rows, view)
        for row, line in zip(rows, lines, strict=True):
            line["to_best"] = intervals.get(id(row))
    return json.dumps(lines, indent=1, allow_nan=False) + "\n"


def _intervals(rows: Sequence[Row], view: View) -> dict[int, dict[str, Any]]:
    comparison = compare(rows, view)
    return {
        id(comparison.rows[index]): {
            "measure": "ratio" if entry.interval.neutral else "difference",
            "estimate": entry.interval.estimate,
            "low": entry.interval.low,
            "high": entry.interval.high,
            "significant": entry.interval.significant,
        }
        for line in comparison.lines
        for entry, indices in zip(line.entries, line.rows, strict=True)
        if entry.interval is not None
        for index in indices
    }


def _all_plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    none = dict.fromkeys(("published", "published_source", "delta", "verdict"))
    found = plain_published(rows)
    return [{**_plain(row), **found.get(i, none)} for i, row in enumerate(rows)]


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


def _markdown(grid: Grid) -> str:
    texts = [[_emphasis(cell) for cell in column.cells] for column in grid.columns]
    table = tabulate(
        [[text.replace("|", "\\|") for text in line] for line in zip(*texts, strict=True)],
        [" ".join(filter(None, column.header)) for column in grid.columns],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["right" if column.number else "left" for column in grid.columns],
    )
    # two blanks end a line in Markdown
    notes = "  \n".join(note.replace("|", "\\|") for note in grid.notes)
    return f"{table}\n\n{notes}\n" if notes else f"{table}\n"


def _emphasis(cell: Cell) -> str:
    """Bold for the best, italics for the second: Markdown cannot underline."""
    return f"**{cell.text}**" if cell.best else f"*{cell.text}*" if cell.second else cell.text


def _rich(comparison: Comparison, view: View | None, console: Console) -> Table:
    """The fullest table that fits the terminal: costs give way before results do."""
    wide = console.options.update(max_width=10_000)
    for without in ((), ("calibration",), ("calibration", "bits/weight")):
        table = _drawn(lay_out(comparison, view, without))
        if console.measure(table, options=wide).maximum <= console.width:
            break
    return table


def _drawn(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in grid.columns:
        # only words are wrapped: a number in two lines is no number
        words = column.header[-1] in WORDS
        # the data set above its metric keeps columns of numbers narrow
        header = "\n".join(part.replace(" ", "\n", 1) for part in column.header if part)
        table.add_column(
            Text(header),
            justify="right" if column.number else "left",
            no_wrap=not words,
            min_width=_longest_word([cell.text for cell in column.cells]) if words else None,
        )
    for n in range(grid.height):
        table.add_row(
            # the text alone is styled: padding must not be underlined
            *(Text.assemble((c.cells[n].text, _style(c.cells[n]))) for c in grid.columns),
            end_section=n + 1 in grid.breaks,
        )
    return table


def _style(cell: Cell) -> str:
    return "bold" if cell.best else "underline" if cell.second else ""


def _longest_word(texts: Sequence[str]) -> int:
    # names are not cut in two; a path among a method's options may be
    return min(24, max(len(word) for text in texts for word in text.split()))
