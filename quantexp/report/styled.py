"""LaTeX and HTML by pandas' Styler; imported for these formats only: pandas is slow."""

import html
import re
from typing import TYPE_CHECKING

import pandas as pd

from quantexp.report.layout import Cell, Grid

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_SYMBOLS = {
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "Δ": r"$\Delta$",
    "–": "--",
    "×": r"$\times$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
}
_SPECIAL = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>quantexp results</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --soft: #666; --line: #ccc; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --paper: #161616; --soft: #a0a0a0; --line: #444; }}
}}
body {{ margin: 2rem; font: 15px/1.4 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; border-block: 2px solid var(--ink);
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .75rem; text-align: left; white-space: nowrap; }}
th {{ font-weight: 600; vertical-align: bottom; }}
th[colspan]:not(:empty) {{ text-align: center; border-bottom: 1px solid var(--line); }}
thead tr:last-child th {{ border-bottom: 1px solid var(--ink); }}
.number {{ text-align: right; }}
.break {{ border-top: 1px solid var(--line); }}
.best {{ font-weight: 700; }}
.second {{ text-decoration: underline; text-underline-offset: .15em; }}
.notes {{ color: var(--soft); font-size: .85em; padding-left: 1.2em; max-width: 75em; }}
</style>
</head>
<body>
<div class="table">
{table}
</div>
{notes}
</body>
</html>
"""


def to_latex(grid: Grid) -> str:
    r"""A ``table`` environment with the notes below it; needs ``\usepackage{{booktabs}}``.

    The best is bold, the second underlined. All text is escaped; it compiles with pdflatex.
    """
    style = _style(grid).apply(
        lambda _: pd.DataFrame(
            [[_emphasis(cell) for cell in row] for row in _rows(grid)], columns=_frame(grid).columns
        ),
        axis=None,
    )
    style = style.format(_symbols, escape="latex")
    style = style.format_index(_symbols, escape="latex", axis=1)
    text = style.to_latex(
        hrules=True,
        multicol_align="c",
        column_format="".join("r" if column.number else "l" for column in grid.columns),
    )
    notes = "".join(f"\\\\[2pt] \\footnotesize {_escape(note)}\n" for note in grid.notes)
    # a box as wide as the page lets notes wrap below the table
    body = f"\\par\\smallskip\n\\begin{{minipage}}{{\\linewidth}}\n{notes[7:]}\\end{{minipage}}\n"
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"{_rules(text, grid)}{body if notes else ''}\\end{{table}}\n"
    )


def to_html(grid: Grid) -> str:
    """One page that needs nothing else, for light and dark screens; all text is escaped."""
    frame = _frame(grid)
    classes = pd.DataFrame(
        [[_classes(grid, n, c) for c in range(len(grid.columns))] for n in range(grid.height)],
        index=frame.index,
        columns=frame.columns,
    )
    style = _style(grid).set_td_classes(classes).format(escape="html")
    style = style.format_index(escape="html", axis=1)
    numbers = [n for n, column in enumerate(grid.columns) if column.number]
    table = style.to_html(table_uuid="results", sparse_columns=True)
    table = re.sub(r"<style[^>]*>.*?</style>\s*", "", table, flags=re.DOTALL)
    for n in numbers:
        table = re.sub(rf'(class="col_heading level\d+ col{n})"( >)', r'\1 number"\2', table)
    notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in grid.notes)
    return _PAGE.format(table=table, notes=f'<ul class="notes">\n{notes}</ul>' if notes else "")


def _frame(grid: Grid) -> pd.DataFrame:
    headers = [column.header for column in grid.columns]
    if len(headers[0]) == 1:
        columns = pd.Index([header[0] for header in headers])
    else:
        columns = pd.MultiIndex.from_tuples(headers)
    texts = [[cell.text for cell in row] for row in _rows(grid)]
    return pd.DataFrame(texts, columns=columns, dtype=object)


def _rows(grid: Grid) -> list[tuple[Cell, ...]]:
    return list(zip(*(column.cells for column in grid.columns), strict=True))


def _style(grid: Grid) -> "Styler":
    return _frame(grid).style.hide(axis="index")


def _emphasis(cell: Cell) -> str:
    return "textbf:--rwrap;" if cell.best else "underline:--rwrap;" if cell.second else ""


def _classes(grid: Grid, row: int, column: int) -> str:
    cell = grid.columns[column].cells[row]
    marks = {
        "number": grid.columns[column].number,
        "break": row in grid.breaks,
        "best": cell.best,
        "second": cell.second,
    }
    return " ".join(name for name, holds in marks.items() if holds)


def _rules(text: str, grid: Grid) -> str:
    """Adds what Styler does not draw: rules below grouped headers and between groups of rows."""
    depth = len(grid.columns[0].header)
    made, row, head = [], 0, 0
    for line in text.splitlines():
        inside = line.endswith("\\\\")
        if inside and head >= depth:
            if row in grid.breaks:
                made.append("\\midrule")
            row += 1
        made.append(line)
        if inside and head < depth:
            head += 1
            if head < depth and (rules := _spans(grid, head)):
                made.append(rules)
    return "\n".join(made) + "\n"


def _spans(grid: Grid, level: int) -> str:
    """The rules below the headers of a level that span several columns."""
    headers = [column.header[:level] for column in grid.columns]
    found, first = [], 0
    for n in range(1, len(headers) + 1):
        if n == len(headers) or headers[n] != headers[first]:
            if n - first > 1 and headers[first][-1]:
                found.append(f"\\cmidrule(lr){{{first + 1}-{n}}}")
            first = n
    return " ".join(found)


def _symbols(text: object) -> str:
    r"""Text that is escaped already, with our signs as LaTeX has them; what it lacks becomes ?."""
    known = "".join(_SYMBOLS.get(sign, sign) for sign in str(text))
    return re.sub(r"[^\x00-\u017f]", "?", known)


def _escape(text: str) -> str:
    return _symbols(text.translate(_SPECIAL))
