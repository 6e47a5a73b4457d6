"""``report --compare A B``: tells whether the difference of two cells is more than noise."""

import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from quantexp.errors import ConfigError, DataError, unknown
from quantexp.report import similar
from quantexp.report.collect import Row


def compare_cells(rows: Sequence[Row], a: str, b: str, form: str | None = None) -> str:
    """All test sets that two cells share, with the interval of the difference.

    Args:
        rows: All rows of an outputs folder.
        a: Name of a cell or an unambiguous part of it.
        b: The other cell.
        form: ``json``, or else a Markdown table.

    Raises:
        ConfigError: No cell or several have such a name, or the format is another.
        DataError: No test set is shared, a record keeps no windows, or tokens differ.
    """
    if form not in (None, "md", "json"):
        raise ConfigError(f"--compare has no --format {form}: allowed: md, json")
    first, second = _find(rows, a), _find(rows, b)
    found = [
        _one(mine, theirs)
        for mine in rows
        for theirs in rows
        if (mine.cell, theirs.cell) == (first, second)
        and mine.record is not None
        and theirs.record is not None
        and mine.kind != "block_error"
        and (mine.kind, mine.dataset, mine.metric) == (theirs.kind, theirs.dataset, theirs.metric)
    ]
    if not found:
        raise DataError(f"{first} and {second} have no finished evaluation of one test set")
    if form == "json":
        return json.dumps({"a": first, "b": second, "results": found}, indent=1) + "\n"
    table = tabulate(
        [
            [
                item["dataset"],
                item["measure"],
                f"{item['estimate']:.4f}",
                f"[{item['low']:.4f}, {item['high']:.4f}]",
                "yes" if item["significant"] else "no",
                item["count"],
                item["block"],
            ]
            for item in found
        ],
        ["test set", "measure", "estimate", "95 % interval", "significant", "n", "block"],
        tablefmt="pipe",
        disable_numparse=True,
    )
    return (
        f"a = {first}\nb = {second}\n\n{table}\n\n"
        "paired block bootstrap over n windows or documents, in runs of `block` neighbours\n"
    )


def _one(a: Row, b: Row) -> dict[str, Any]:
    mine, theirs = similar.of_rows([a]), similar.of_rows([b])
    if mine is None or theirs is None:
        lacking = a if mine is None else b
        raise DataError(
            f"{lacking.cell} on {lacking.dataset}: its record was edited or keeps no windows"
        )
    try:
        interval = similar.interval(mine, theirs)
    except DataError as error:
        raise DataError(f"{a.dataset} {a.metric}: {error}") from None
    ratio = mine.predictions is not None
    return {
        "dataset": a.dataset,
        "metric": a.metric,
        "measure": f"{a.metric}(a) / {a.metric}(b)" if ratio else f"{a.metric}(a) - {a.metric}(b)",
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "significant": interval.significant,
        "count": interval.count,
        "block": interval.block,
    }


def _find(rows: Sequence[Row], name: str) -> str:
    cells = list(dict.fromkeys(row.cell for row in rows))
    if name in cells:
        return name
    found = [cell for cell in cells if name in cell]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(unknown("cell", name, cells))
    raise ConfigError(f"'{name}' is part of several cells: {', '.join(found)}: name one of them")
