"""Comparison → grid: which dimensions stand in rows and which in columns. All drawings read it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantexp.report import names
from quantexp.report.compare import Comparison, Entry, Line
from quantexp.report.seeds import NOTHING
from quantexp.report.view import DIMENSIONS, View

BITS = "w/a/k/v/q/group"
WORDS = ("method", "state")  # columns whose texts may be wrapped


@dataclass(frozen=True)
class Cell:
    """One printed text; ``numeric`` ones are aligned on their last digit."""

    text: str
    best: bool = False
    second: bool = False


@dataclass(frozen=True)
class GridColumn:
    """One column; headers of neighbours that are equal from the top are one group."""

    header: tuple[str, ...]
    cells: tuple[Cell, ...]
    number: bool = False


@dataclass(frozen=True)
class Grid:
    """A table to draw.

    ``breaks``: rows (by index) that begin a new group; ``cells``: of each row, the ids of the cells
    that it shows.
    """

    columns: tuple[GridColumn, ...]
    breaks: frozenset[int]
    notes: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...] = ()

    @property
    def height(self) -> int:
        """Number of rows."""
        return len(self.columns[0].cells)


def lay_out(comparison: Comparison, view: View | None = None, without: Sequence[str] = ()) -> Grid:
    """The grid of a comparison.

    A dimension that is asked for is shown; one that is not stands in the rows where its values
    differ, so that no two numbers ever share a place.

    Args:
        comparison: What to show.
        view: Which dimensions stand where.
        without: Costs that are left out (``calibration``, ``bits/weight``).
    """
    view = view or View()
    across = view.cols or (() if "dataset" in view.rows else ("dataset",))
    if "dataset" not in (*view.rows, *across):
        across = (*across, "dataset")
    down = list(view.rows)
    for name in DIMENSIONS:
        if name not in (*view.rows, *across):
            unlike = {_value(comparison, line, 0, name) for line in comparison.lines} - {""}
            if name in ("method", "bits") or len(unlike) > 1:
                down.append(name)

    places: dict[tuple[tuple[str, ...], int], dict[tuple[str, ...], tuple[Line, int]]] = {}
    tops: dict[tuple[str, ...], None] = {}
    for line in comparison.lines:
        for i in range(max(1, len(comparison.columns))):
            row = tuple(_value(comparison, line, i, name) for name in down)
            top = tuple(_value(comparison, line, i, name) for name in across)
            # should two lines print alike, both stand in the table
            twin = 0
            while top in places.get((row, twin), {}):
                twin += 1
            places.setdefault((row, twin), {})[top] = (line, i)
            tops[top] = None
    rows = list(places)
    # columns of one model stand side by side
    seen = [list(dict.fromkeys(top[level] for top in tops)) for level in range(len(across))]
    ordered = sorted(tops, key=lambda top: [o.index(t) for o, t in zip(seen, top, strict=True)])
    merged = any(len({id(line) for line, _ in places[row].values()}) > 1 for row in rows)
    labels = [
        GridColumn((BITS if name == "bits" else name,), tuple(Cell(row[n]) for row, _ in rows))
        for n, name in enumerate(down)
    ]
    numbers = [
        column
        for top in (ordered if comparison.columns else ())
        for column in _values(comparison, [places[row].get(top) for row in rows], top, merged)
    ]
    costs = [] if merged else _costs([next(iter(places[r].values()))[0] for r in rows], without)
    depth = max((len(column.header) for column in numbers), default=1)
    columns = [replace(c, header=_deep(c.header, depth)) for c in (*labels, *numbers, *costs)]
    groups = [{line.group for line, _ in places[row].values()} for row in rows]
    breaks = frozenset(n for n in range(1, len(rows)) if groups[n].isdisjoint(groups[n - 1]))
    cells = [dict.fromkeys(c for line, _ in places[r].values() for c in line.cells) for r in rows]
    return Grid(tuple(columns), breaks, comparison.notes, tuple(map(tuple, cells)))


def _deep(header: tuple[str, ...], depth: int) -> tuple[str, ...]:
    """A header of so many levels: its last part stands at the bottom."""
    return (*header[:-1], *("",) * (depth - len(header)), header[-1])


def _values(
    comparison: Comparison,
    found: Sequence[tuple[Line, int] | None],
    top: tuple[str, ...],
    merged: bool,
) -> list[GridColumn]:
    """The column of ours, and the two of the papers' where these say something."""
    top = top or ("value",)
    cells = [Cell(NOTHING) if f is None else _cell(f[0].entries[f[1]], f[0], merged) for f in found]
    papers = [NOTHING if f is None else f[0].entries[f[1]].paper or NOTHING for f in found]
    deltas = [NOTHING if f is None else f[0].entries[f[1]].delta or NOTHING for f in found]
    if set(papers) == {NOTHING}:
        return [GridColumn(top, tuple(cells), True)]
    for n, item in enumerate(found):
        if item is not None and not any(item[0].rows):  # a line of the papers' alone
            papers[n], cells[n] = cells[n].text, Cell(NOTHING)
    return [
        GridColumn((*top, "ours"), tuple(cells), True),
        GridColumn((*top, "paper"), tuple(map(Cell, papers)), True),
        GridColumn((*top, "Δ"), tuple(map(Cell, deltas)), True),
    ]


def _cell(entry: Entry, line: Line, merged: bool) -> Cell:
    text = entry.text if entry.text == NOTHING else f"{entry.text}{entry.marks}"
    text = f"{text} ≈" if entry.similar else text
    if (
        merged
        and entry.text == NOTHING
        and line.state
        and not any(other.text != NOTHING for other in line.entries)
    ):
        text = line.state.partition(":")[0]
    return Cell(text, entry.best, entry.second)


def _costs(lines: Sequence[Line], without: Sequence[str]) -> list[GridColumn]:
    """Columns that belong to a whole line, where they say something."""
    columns = [
        GridColumn(("bits/weight",), tuple(Cell(line.effective_bits) for line in lines), True),
        GridColumn(("calibration",), tuple(Cell(line.seconds) for line in lines), True),
        GridColumn(("state",), tuple(Cell(line.state) for line in lines)),
    ]
    return [
        column
        for column in columns
        if {cell.text for cell in column.cells} - {"", NOTHING} and column.header[0] not in without
    ]


def _value(comparison: Comparison, line: Line, column: int, name: str) -> str:
    if name == "dataset":
        return names.column_name(*comparison.keys[column]) if comparison.keys else ""
    return str(getattr(line, name))
