"""What stands in which panel: for the figures and for the report page, which draws them itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantexp.figures.lines import Line, bits_text, heading, lines
from quantexp.report import names, records
from quantexp.report.collect import Row
from quantexp.report.distinguish import Column


@dataclass(frozen=True)
class Panel:
    """Perplexities of one test set at one precision of activations and cache.

    Attributes:
        lines: Quantized ones with their effective bits, some without a finite value.
        baseline: The unquantized model of the same group.
    """

    title: str
    column: Column
    lines: tuple[Line, ...]
    baseline: tuple[Line, ...]


@dataclass(frozen=True)
class Perplexities:
    """All lines, those with effective bits, and the panels that these stand in."""

    lines: tuple[Line, ...]
    quantized: tuple[Line, ...]
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class ErrorPanel:
    """One bit setting: of each line the curves of its seeds, block → Σ(y-ŷ)²/Σy²."""

    title: str
    curves: tuple[tuple[Line, tuple[dict[int, float], ...]], ...]


def perplexities(rows: Sequence[Row]) -> Perplexities:
    """Panels of perplexity against bits; only those in which a value is finite."""
    found = lines([row for row in rows if row.metric == "ppl" and row.value is not None])
    shown = [line for line in found if line.first.effective_bits is not None]
    groups: dict[Any, list[Line]] = {}
    for line in shown:
        groups.setdefault((line.group, line.column, line.place[3:7]), []).append(line)
    keys = [key for key in sorted(groups, key=_order) if any(line.values for line in groups[key])]
    several = len({column for _, column, _ in keys}) > 1
    panels = []
    for group, column, forward in keys:
        of = groups[group, column, forward]
        name = names.column_name(*column).removesuffix(" ↓") if several else ""
        full = [o for o in found if o.baseline and (o.group, o.column) == (group, column)]
        title = heading(of[0], shown, name, _forward(forward))
        panels.append(Panel(title, column, tuple(of), tuple(full)))
    return Perplexities(tuple(found), tuple(shown), tuple(panels))


def block_errors(rows: Sequence[Row]) -> list[ErrorPanel]:
    """Panels of relative block errors, one per bit setting and calibration text."""
    found = lines([row for row in rows if row.kind == "block_error" and row.value is not None])
    groups: dict[Any, list[tuple[Line, tuple[dict[int, float], ...]]]] = {}
    for line in found:
        if of := tuple(curve for row in line.rows if (curve := _errors(row))):
            groups.setdefault((line.place, line.column), []).append((line, of))
    several = len({column for _, column in groups}) > 1
    panels = []
    for (_, column), members in groups.items():
        first = members[0][0]
        title = heading(first, found, bits_text(first), column[0] if several else "")
        panels.append(ErrorPanel(title, tuple(members)))
    return panels


def shared(curves: Sequence[Mapping[int, float]]) -> list[int]:
    """The blocks that all curves have."""
    return sorted(set.intersection(*(set(curve) for curve in curves)))


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Weights only first, then activations from many bits to few."""
    group, column, forward = key
    return (group, column, tuple(-(bits or 16) for bits in forward))


def bits(line: Line) -> float:
    """Mean over seeds: transforms take the same room in each."""
    found = [row.effective_bits for row in line.rows if row.effective_bits is not None]
    return sum(found) / len(found)


def _forward(bits: tuple[int | None, ...]) -> str:
    activation, key, value, query = (bit or 16 for bit in bits)
    parts = [f"activations {activation} bit"] if activation < 16 else []
    if key == value and key < 16:
        parts.append(f"KV {key} bit")
    else:
        parts += [f"{name} {b} bit" for name, b in (("keys", key), ("values", value)) if b < 16]
    parts += [f"queries {query} bit"] if query < 16 else []
    return ", ".join(parts) or "weights only"


def _errors(row: Row) -> dict[int, float]:
    """Block → Σ(y-ŷ)²/Σy², from the record's SQNR; blocks without any error are left out."""
    data: Mapping[str, Any] = (records.load(row.record) if row.record else None) or {}
    found = {}
    for block in (data.get("details") or {}).get("blocks") or ():
        sqnr = records.number(block.get("sqnr_db"))
        if sqnr is not None and (error := 10 ** (-sqnr / 10)) > 0:
            found[int(block["block"])] = error
    return found
