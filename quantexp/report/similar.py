"""Marks in a comparison what is not significantly different from the best of its group."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quantexp.errors import DataError
from quantexp.report import records, significance
from quantexp.report.collect import EDITED, Row
from quantexp.report.distinguish import Column

if TYPE_CHECKING:
    from quantexp.report.compare import Entry, Line


@dataclass(frozen=True)
class Samples:
    """What a test set gave part by part, and what says that two were the same test set.

    ``predictions`` per window for a perplexity; ``None`` for scores of documents.
    """

    values: tuple[float, ...]
    tokens: str
    predictions: int | None


def samples(data: Mapping[str, Any]) -> Samples | None:
    """The windows or documents of an evaluation record; ``None`` where it keeps none."""
    details = data.get("details") or {}
    tokens = details.get("token_hash") or details.get("text_hash")
    try:
        if details.get("window_nll"):
            predictions = int(details["seq_len"]) - 1
            return Samples(_floats(details["window_nll"]), str(tokens), predictions)
        return Samples(_floats(details["scores"][data["metric"]]), str(tokens), None)
    except (KeyError, TypeError, ValueError):
        return None


def of_rows(rows: Sequence[Row]) -> Samples | None:
    """The samples of rows of unlike seeds: their mean, part by part."""
    found = []
    for row in rows:
        if row.record is not None and row.status != EDITED:
            one = samples(json.loads(row.record.read_text(encoding="utf-8")))
            if one is None:
                return None
            found.append(one)
    if len({(one.tokens, len(one.values), one.predictions) for one in found}) != 1:
        return None
    means = [
        math.fsum(values) / len(found) for values in zip(*(s.values for s in found), strict=True)
    ]
    return replace(found[0], values=tuple(means))


def interval(a: Samples, b: Samples) -> significance.Interval:
    """Ratio of two perplexities, or difference of two accuracies, with its interval.

    Raises:
        DataError: They were measured on different tokens, or there is no interval.
    """
    if a.tokens != b.tokens or a.predictions != b.predictions:
        raise DataError(
            f"measured on different tokens ({a.tokens[:8]} and {b.tokens[:8]}): no pairs to compare"
        )
    if a.predictions is not None:
        return significance.perplexity_ratio(a.values, b.values, a.predictions)
    return significance.accuracy_difference(a.values, b.values)


def mark(
    rows: Sequence[Row], lines: Sequence[Line], order: Sequence[Column]
) -> tuple[list[Line], list[str]]:
    """Lines with ``similar`` set, and the note that explains the mark."""
    best: dict[Any, Samples | None] = {}
    for line in lines:
        for i, entry in enumerate(line.entries):
            if entry.best:
                best.setdefault((line.group, i), of_rows([rows[j] for j in line.rows[i]]))
    made, marked, unknown = [], False, 0
    for line in lines:
        entries: list[Entry] = []
        for i, entry in enumerate(line.entries):
            first = best.get((line.group, i))
            if entry.rank is not None and not entry.best:
                own = of_rows([rows[j] for j in line.rows[i]])
                found = None
                if first and own:
                    with contextlib.suppress(DataError):  # other tokens, too few windows
                        found = interval(own, first)
                unknown += found is None
                alike = found is not None and not found.significant
                marked |= alike
                entry = replace(entry, similar=alike, interval=found)
            entries.append(entry)
        made.append(replace(line, entries=tuple(entries)))
    notes = []
    if marked:
        notes.append(
            "≈ not significantly different from the best of its group (95 % interval of a paired "
            "block bootstrap over the test set's windows or documents; seeds are averaged first)"
        )
    if unknown:
        notes.append(
            f"{unknown} value{'s' * (unknown > 1)} without a test of significance: too few windows "
            "or documents, other tokens, or a record that keeps none"
        )
    return made, notes


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    # broken values are stored as text
    return tuple(found if (found := records.number(v)) is not None else math.nan for v in values)
