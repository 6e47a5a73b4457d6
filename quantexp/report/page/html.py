"""Grid → an HTML table that reads without JavaScript; all text is escaped."""

import math
import re
from html import escape

from quantexp.report.layout import Cell, Grid, GridColumn

_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


def table(grid: Grid) -> str:
    """The table with the marks of :func:`quantexp.report.styled.to_html`.

    Cells of number columns carry ``data-value``, by which the page sorts them.
    """
    depth = len(grid.columns[0].header)
    head = "\n".join(f"<tr>{''.join(_heads(grid, level))}</tr>" for level in range(depth))
    body = "\n".join(_row(grid, n) for n in range(grid.height))
    return f'<table id="results">\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def notes(grid: Grid) -> str:
    """The notes below the table."""
    items = "".join(f"<li>{escape(note)}</li>\n" for note in grid.notes)
    return f'<ul class="notes">\n{items}</ul>' if items else ""


def sort_value(text: str) -> float | None:
    """The number that a printed text begins with, durations in seconds; ``None`` for none."""
    if text.startswith(("inf", "-inf")):
        return math.inf if text[0] == "i" else -math.inf
    found = _NUMBER.match(text)
    if found is None:
        return None
    return float(found[0]) * _SECONDS.get(text[found.end() :].strip(), 1)


def _heads(grid: Grid, level: int) -> list[str]:
    columns, last = grid.columns, len(grid.columns[0].header) - 1
    made, first = [], 0
    for n in range(1, len(columns) + 1):
        top = columns[first].header[: level + 1]
        if level < last and n < len(columns) and columns[n].header[: level + 1] == top and top[-1]:
            continue
        text = escape(top[-1])
        if level == last:
            number = ' class="number"' if columns[first].number else ""
            made.append(f'<th scope="col"{number}>{text}</th>')
        elif text:
            made.append(f'<th scope="colgroup" colspan="{n - first}">{text}</th>')
        else:
            made.append("<td></td>")
        first = n
    return made


def _row(grid: Grid, row: int) -> str:
    kind = "row break" if row in grid.breaks else "row"
    cells = "".join(_cell(column, column.cells[row]) for column in grid.columns)
    return f'<tr class="{kind}">{cells}</tr>'


def _cell(column: GridColumn, cell: Cell) -> str:
    marks = {"number": column.number, "best": cell.best, "second": cell.second}
    names = " ".join(name for name, holds in marks.items() if holds)
    attributes = f' class="{names}"' if names else ""
    if column.number:
        value = sort_value(cell.text)
        # JavaScript's name; what has no number is NaN and comes last
        text = str(value).replace("inf", "Infinity") if value is not None else "NaN"
        attributes += f' data-value="{text}"'
    return f"<td{attributes}>{escape(cell.text)}</td>"
