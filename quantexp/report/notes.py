"""Notes under a table: what a reader must know that no column says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quantexp.calibration import ladder
from quantexp.experiment import status
from quantexp.report import seeds
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column

FALLBACK, TUNED = "†", "‡"

if TYPE_CHECKING:
    from quantexp.report.compare import Line


def general(
    rows: Sequence[Row], lines: Sequence[Line], order: Sequence[Column], older: int
) -> list[str]:
    """Seeds, cells left out, unlike versions, edited records and failures.

    Args:
        rows: What the table shows.
        lines: Its lines; their entries name rows by index.
        order: Its columns.
        older: How many cells were left out for newer ones.
    """
    notes = _seeds(rows, lines, order)
    if older:
        notes.append(
            f"{older} older cell{'s' * (older > 1)} with the same configuration left out: the code "
            "or a file it reads has changed since"
        )
    notes += _versions(rows, lines, order)
    notes += _marked(rows, lines)
    for cell in dict.fromkeys(row.cell for row in rows if row.status == EDITED):
        notes.append(f"{cell}: a record was edited after it was written; its value is left out")
    causes = {row.cell: row.cause for row in rows if row.status == status.FAILED}
    for cell, cause in causes.items():
        # one line each; the traceback is in the cell's status.json
        notes.append(f"{cell} failed: {(cause or 'no cause noted').splitlines()[0]}")
    return notes


def _seeds(rows: Sequence[Row], lines: Sequence[Line], order: Sequence[Column]) -> list[str]:
    notes = []
    if any("±" in entry.text for line in lines for entry in line.entries):
        notes.append("mean±sample standard deviation (number of seeds)")
    for line in lines:
        for indices, column in zip(line.rows, order, strict=True):
            found = seeds.spreads([rows[i] for i in indices])
            if len(found) > 1:
                parts = [f"{axis} ±{seeds.number(sd)} (n={n})" for axis, (sd, n) in found.items()]
                notes.append(f"{_place(line)}, {' '.join(column[:2])}: {', '.join(parts)}")
    return notes


def _marked(rows: Sequence[Row], lines: Sequence[Line]) -> list[str]:
    """One note for each line and mark: which rungs of the ladder, or how options were chosen."""
    notes: dict[str, None] = {}
    several = len({line.model for line in lines}) > 1
    for line in lines:
        shown = [rows[i] for part in line.rows for i in part]
        cells = {row.cell for row in shown}
        for mark, kind in ((FALLBACK, "fallbacks"), (TUNED, "tuned")):
            texts = {row.cell: text for row in shown if (text := getattr(row, kind))}
            for text in dict.fromkeys(texts.values()):
                of = sum(found == text for found in texts.values())
                some = f" ({of} of {len(cells)} cells)" if len(cells) > 1 else ""
                fell = kind == "fallbacks"
                said = f"{ladder.kind(text)} fallback, {text}" if fell else text
                whose = f" of {line.model}" if several else ""
                notes[f"{mark} {_place(line)}{whose}: {said}{some}"] = None
    return list(notes)


def _versions(rows: Sequence[Row], lines: Sequence[Line], order: Sequence[Column]) -> list[str]:
    """One note for each column and library whose versions differ within the column."""
    notes = []
    for i, column in enumerate(order):
        users: dict[str, dict[str, list[str]]] = {}
        for line in lines:
            for index in line.rows[i]:
                for library, version in rows[index].versions.items():
                    users.setdefault(library, {}).setdefault(version, []).append(_place(line))
        for library, versions in users.items():
            if len(versions) > 1:
                parts = [
                    f"{version} for {', '.join(dict.fromkeys(who))}"
                    for version, who in sorted(versions.items())
                ]
                notes.append(
                    f"{' '.join(column[:2])} mixes versions of {library}, which can change "
                    f"numbers: {'; '.join(parts)}"
                )
    return notes


def _place(line: Line) -> str:
    return f"{line.method} {line.bits}"
