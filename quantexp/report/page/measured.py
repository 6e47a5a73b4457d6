"""FlatQuant's figures 1 and 2 for the page, from what ``figures --flatness`` stored; no model."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from quantexp.experiment import record
from quantexp.experiment.outputs import option
from quantexp.figures import palette, variants
from quantexp.figures.draw import DATA, folder
from quantexp.report.collect import Row
from quantexp.report.page.plots import digits, method_look

_POINTS = 90  # of a curve of channels
_COLUMNS, _ROWS = 48, 40  # of a map, at most
_TINY = 1e-12  # stands for no error at all, which a logarithm cannot show
# figure 1 compares per-channel scaling with FlatQuant
_SCALING, _LEARNED = ("smoothquant", "awq", "omniquant"), "flatquant"


def measured(
    outputs: Path, sweep: str | None, rows: Sequence[Row], place: Mapping[str, int]
) -> dict[str, Any]:
    """What the page draws of both figures; what is missing says which command measures it.

    Args:
        outputs: The folder of the records.
        sweep: Its name; ``None`` for everything.
        rows: All rows.
        place: Cell → the table's row that shows it.

    Returns:
        ``channels``, ``surface`` and ``maps``: panels; ``where`` they are of; ``missing``: a
        command or nothing.
    """
    data = record.read(folder(outputs, sweep) / DATA)
    usable = data is not None and data.get("kind") == "flatness" and not record.altered(data)
    made: dict[str, Any] = {"channels": [], "surface": [], "maps": [], "missing": "", "where": ""}
    if data is None or not usable:
        return made | {"missing": _command(outputs, sweep, rows)}
    try:
        return made | _panels(data, rows, place)
    except (AttributeError, KeyError, TypeError, ValueError):  # JSON of another shape
        return made | {"missing": _command(outputs, sweep, rows)}


def _panels(
    data: Mapping[str, Any], rows: Sequence[Row], place: Mapping[str, int]
) -> dict[str, Any]:
    labels = {row.cell: row.label for row in rows}
    shown = {labels[c]: place[c] for c in data["cells"] if c in labels and c in place}
    look = {name: _look(name, shown.get(name)) for name in data["mse"]}
    where = f"{data['model']} {data['bits']}"
    maps = _maps(data["mse"])
    return {
        "channels": [
            _channels(f"{variants.SITES.get(site, site)}: {tensor}", of, look)
            for site, tensors in data["channels"].items()
            for tensor, of in tensors.items()
        ],
        "surface": [
            {
                "title": f"{where}: mean over tokens",
                "x": "block",
                "y": "squared error",
                "whole": True,
                "series": [
                    {**look[name], "points": _means(error)} for name, error in data["mse"].items()
                ],
            }
        ],
        "maps": [
            {"title": f"{look[name]['name']}: mean {data['mean_mse'][name]:.2g}", **one}
            for name, one in maps.items()
        ],
        "where": f"{where}, channels of block {data['block']}",
    }


def _look(name: str, row: int | None) -> dict[str, Any]:
    found = {**method_look(name, 0), "name": variants.name(name)}
    if name == variants.ORIGINAL:
        found["dash"] = "6 3"
    if name == variants.HADAMARD:
        found["color"] = palette.PALE
    return found | ({} if row is None else {"row": row})


def _channels(
    title: str, of: Mapping[str, Sequence[float]], look: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Magnitudes divided by their root mean square, as in the figure."""
    series = []
    for name, magnitudes in of.items():
        scale = math.sqrt(sum(m * m for m in magnitudes) / len(magnitudes)) or 1.0
        points = [
            {"x": n + 1, "y": digits(magnitudes[n] / scale, 4)} for n in _chosen(len(magnitudes))
        ]
        series.append({**look[name], "points": points})
    return {
        "title": title,
        "x": "channel, sorted",
        "y": "relative magnitude",
        "whole": True,
        "linear": title.endswith("weights"),  # some columns of integers are zero
        "series": series,
    }


def _chosen(count: int) -> list[int]:
    """Indices: all of the first ones, where outliers are, and the others evenly."""
    first = min(count, _POINTS // 3)
    step = max(1, (count - first) // (_POINTS - first) + 1)
    return sorted({*range(first), *range(first, count, step), count - 1})


def _means(error: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    return [
        {"x": block, "y": digits(max(sum(of) / len(of), _TINY), 4)}
        for block, of in enumerate(error)
    ]


def _maps(mse: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """log10 of the mean error in each field of a map; all maps share one scale."""
    found = {name: _coarse(error) for name, error in mse.items()}
    every = [value for of in found.values() for line in of for value in line]
    return {
        name: {
            "values": of,
            "low": min(every),
            "high": max(every),
            "tokens": len(mse[name][0]),
            "blocks": len(mse[name]),
        }
        for name, of in found.items()
    }


def _coarse(error: Sequence[Sequence[float]]) -> list[list[float]]:
    blocks, tokens = _parts(len(error), _ROWS), _parts(len(error[0]), _COLUMNS)
    lines = []
    for first, last in blocks:
        line = []
        for left, right in tokens:
            part = [error[b][t] for b in range(first, last) for t in range(left, right)]
            line.append(round(math.log10(max(sum(part) / len(part), _TINY)), 2))
        lines.append(line)
    return lines


def _parts(count: int, most: int) -> list[tuple[int, int]]:
    parts = min(count, most)
    ends = [n * count // parts for n in range(parts + 1)]
    return list(pairwise(ends))


def _command(outputs: Path, sweep: str | None, rows: Sequence[Row]) -> str:
    """The command that measures; empty where no finished cells would show anything."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row.status == "done" and row.value is not None:
            groups.setdefault((row.model, row.bits), {}).setdefault(row.label, row.cell)
    for of in groups.values():
        scaling = next((of[label] for label in _SCALING if label in of), None)
        learned = next((cell for label, cell in of.items() if label.startswith(_LEARNED)), None)
        if scaling and learned:
            name = f"{sweep} " if sweep else ""
            measure = f"--flatness {scaling} {learned}{option(outputs)}"
            return f"python -m quantexp figures {name}{measure}"
    return ""
