"""What the figure of zero-shot accuracies shows: for matplotlib, and for the report page."""

from collections.abc import Sequence
from dataclasses import dataclass

from quantexp.evaluation.tasks import TASKS
from quantexp.figures.lines import Line, bits_text, heading, lines
from quantexp.report.averages import AVERAGES, KIND, with_averages
from quantexp.report.collect import Row
from quantexp.report.distinguish import Column


@dataclass(frozen=True)
class TaskPanel:
    """One bit setting: the unquantized model's lines first, and the tasks that they have."""

    title: str
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]


def accuracies(rows: Sequence[Row]) -> list[TaskPanel]:
    """A panel per bit setting; none without zero-shot records."""
    rows = [row for row in rows if row.kind in ("zeroshot", KIND) and row.value is not None]
    if not any(row.kind == KIND for row in rows):
        rows = with_averages(rows)
    found = [line for line in lines(rows) if line.values]
    full = [line for line in found if line.baseline]
    places = list(dict.fromkeys(line.place for line in found if not line.baseline))
    panels = []
    for where in places or [line.place for line in full[:1]]:
        of = [line for line in full if line.group == where[:2]]
        of += [line for line in found if line.place == where and not line.baseline]
        order = tuple(c for c in _order(found) if any(line.column == c for line in of))
        panels.append(TaskPanel(heading(of[-1], found, bits_text(of[-1])), tuple(of), order))
    return panels


def error(line: Line) -> float:
    """Standard deviation over seeds, of one seed the standard error over documents, in per cent.

    0 where it is not known: averages of tasks have the former only.
    """
    if len(line.values) > 1:
        return line.spread
    return 100 * (line.first.stderr or 0.0)


def meaning(panels: Sequence[TaskPanel]) -> str:
    """What the error bars are, in a few words."""
    found = [line for panel in panels for line in panel.lines if not line.baseline]
    seeds = {min(2, len(line.values)) for line in found} or {1}
    one, several = "standard error over documents", "standard deviation over seeds"
    if seeds == {1}:
        return f"error bars: {one}"
    return f"error bars: {several}" + (f" ({one} where there is one seed)" if 1 in seeds else "")


def chance(dataset: str) -> float | None:
    """What guessing gets, as a share; ``None`` where it is not known."""
    if dataset in AVERAGES:
        return AVERAGES[dataset].chance
    return TASKS[dataset].chance if dataset in TASKS else None


def task_name(column: Column) -> str:
    """As axes print it: an average's metric goes without saying."""
    dataset, metric, variant = column
    short = dataset if dataset in AVERAGES else f"{dataset.replace('_', ' ')} {metric}"
    return f"{short} {variant}".strip()


def _order(found: Sequence[Line]) -> list[Column]:
    """Tasks by name, averages after them."""
    return sorted({line.column for line in found}, key=lambda c: (c[0] in AVERAGES, c))
