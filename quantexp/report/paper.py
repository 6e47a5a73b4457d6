"""Puts published values into a comparison: beside ours, with difference and verdict, or as rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quantexp.report import agreement, names, published, seeds
from quantexp.report.collect import Row
from quantexp.report.distinguish import Column, place
from quantexp.report.view import View

if TYPE_CHECKING:
    from quantexp.report.compare import Entry, Line

STATE = "published"  # behind the name of a method that no cell of ours stands behind


def compare(
    rows: Sequence[Row], lines: Sequence[Line], order: Sequence[Column], view: View
) -> tuple[list[Line], list[str]]:
    """Lines with the published values that agree with them, and the notes that belong to these."""
    lines, notes = list(lines), []
    if view.published:
        found = agreement.matches(rows)
        reasons = agreement.withheld(rows, found)
        lines = [_beside(rows, line, found, reasons) for line in lines]
        shown = {i: m for i, m in found.items() if rows[i].kind != "block_error"}
        notes += [f"difference withheld: {reason}" for reason in dict.fromkeys(reasons.values())]
        notes += _disagreements(shown)
        notes += _sources(match.published for match in shown.values())
        notes += _other_protocols(rows)
    if view.published_rows:
        added = _missing(rows, lines, order)
        for line in added:
            same = [n for n, other in enumerate(lines) if _bits(other) == _bits(line)]
            lines.insert(same[-1] + 1, line)
        if added:
            notes.append(f"{STATE}: as printed by the papers, not measured here and not ranked")
    return lines, notes


def plain(rows: Sequence[Row]) -> dict[int, dict[str, Any]]:
    """For JSON and CSV: the published value of each row (by its index), and what follows from it.

    ``verdict`` is ``ok``, ``off``, ``withheld`` (the baseline is off or missing), or ``None`` where
    no tolerance is known or our value is not finite.
    """
    found = agreement.matches(rows)
    reasons = agreement.withheld(rows, found)
    told = {}
    for index, match in found.items():
        value = rows[index].value
        assert value is not None
        delta, theirs = match.delta(value), match.published.value
        told[index] = {
            "published": theirs if math.isfinite(theirs) else None,
            "published_source": match.published.source,
            "delta": delta if index not in reasons and math.isfinite(delta) else None,
            "verdict": "withheld" if index in reasons else match.verdict(value) or None,
        }
    return told


def _beside(
    rows: Sequence[Row],
    line: Line,
    found: dict[int, agreement.Match],
    reasons: dict[int, str],
) -> Line:
    entries: list[Entry] = []
    for entry, indices in zip(line.entries, line.rows, strict=True):
        matched = [i for i in indices if i in found]
        if matched:
            match = found[matched[0]]
            values = [v for i in matched if (v := rows[i].value) is not None]
            delta = seeds.NOTHING
            # a mean that leaves broken seeds out is no result to compare
            if all(map(math.isfinite, values)) and matched[0] not in reasons:
                value = statistics.mean(values)
                # plus zero: what rounds to nothing has no sign
                delta = f"{round(match.delta(value), 2) + 0.0:+.2f} {match.verdict(value)}".strip()
            entry = replace(entry, paper=match.published.text, delta=delta)
        entries.append(entry)
    return replace(line, entries=tuple(entries))


def _missing(rows: Sequence[Row], lines: Sequence[Line], order: Sequence[Column]) -> list[Line]:
    """Methods that papers print at a place (model and bits) of ours and that we have no cell of."""
    from quantexp.report.compare import Entry, Line

    comparable = {
        column[:2]: i
        for i, column in enumerate(order)
        if any(agreement.measured_alike(rows[n]) for line in lines for n in line.rows[i])
    }
    places: dict[tuple[str, str], Row] = {}
    ours: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        model = published.paper_model(row)
        if model is not None:
            key = (model, published.bits_of(row))
            places.setdefault(key, row)
            ours.setdefault(key, set()).add(row.label)
    found: dict[tuple[str, str, str], dict[int, str]] = {}
    for (label, model, bits, dataset, metric), items in published.load().items():
        lacking = (model, bits) in places and label not in ours[model, bits]
        if lacking and (dataset, metric) in comparable and not _variant(label):
            texts = found.setdefault((model, bits, label), {})
            texts[comparable[dataset, metric]] = items[0].text
    made = []
    for (model, bits, label), texts in sorted(
        found.items(), key=lambda item: (*item[0][:2], names.method_order(item[0][2]))
    ):
        row = places[model, bits]
        made.append(
            Line(
                group=(row.model, agreement.PROTOCOL, *place(row)[2:]),
                model=row.model,
                protocol=agreement.PROTOCOL,
                method=f"{names.method_name(label)} ({STATE})",
                bits=bits.replace("-", seeds.NOTHING),
                entries=tuple(Entry(texts.get(i, seeds.NOTHING)) for i in range(len(order))),
                effective_bits=seeds.NOTHING,
                seconds=seeds.NOTHING,
                state="",
                label=label,
                rows=tuple(() for _ in order),
            )
        )
    return made


def _bits(line: Line) -> tuple[str, str]:
    return (line.model, line.bits)


def _variant(label: str) -> bool:
    """Whether a printed name is a variant of a method (an ablation, another recipe)."""
    return any(sign in label for sign in "[=(") or label.startswith(
        tuple(f"{name} " for name in names.known())
    )


def _sources(items: Iterable[published.Published]) -> list[str]:
    used = sorted({item.source for item in items})
    return [f"published values: {', '.join(used)}"] if used else []


def _disagreements(found: dict[int, agreement.Match]) -> list[str]:
    notes: dict[str, None] = {}
    for match in found.values():
        item = match.published
        unlike = [other for other in match.others if other.value != item.value]
        place = f"{names.method_name(item.label)} {item.bits} of {item.model} on {item.set}"
        if unlike and item.label != published.BASELINE:
            others = ", ".join(f"{other.text} ({other.source})" for other in unlike)
            notes[f"{place}: shown is {item.text} ({item.source}); others print {others}"] = None
        if item.note:
            notes[f"{place}: {item.note}"] = None
    return list(notes)


def _other_protocols(rows: Sequence[Row]) -> list[str]:
    """Said where a cell has no published value for its protocol alone."""
    if any(
        published.paper_model(row) is not None
        and row.protocol != agreement.PROTOCOL
        and row.label != published.BASELINE
        for row in rows
    ):
        return [
            "published values were made with each paper's own settings: cells of another protocol "
            f"than '{agreement.PROTOCOL}' are not compared with them"
        ]
    return []
