"""Cells whose options were chosen among several: by a sweeper, or by ``report --best-by``."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quantexp.errors import ConfigError
from quantexp.evaluation import objective
from quantexp.report.records import Warn, load, number

_TESTS = ("perplexity", "zeroshot", "zeroshot_average")

if TYPE_CHECKING:
    from quantexp.report.collect import Row


def found(outputs: Path, warn: Warn) -> dict[str, str]:
    """Cell → how it was chosen, for the best trial of every sweep that a sweeper searched."""
    told = {}
    for path in sorted((outputs / "sweeps").glob("*/tuning.json")):
        data = load(path, warn)
        trials = [
            (value, str(trial["cell"]))
            for trial in (data or {}).get("trials", ())
            if (value := number(trial.get("value"))) is not None and math.isfinite(value)
        ]
        if data is not None and len(trials) > 1:
            words = objective.described(str(data["objective"]))
            told[min(trials)[1]] = f"chosen among {len(trials)} trials by the {words}"
    return told


def best_by(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows without the settings of a method that another setting of it is better than.

    Settings are compared at equal model, protocol and bits; the mean over seeds counts. Where no
    setting has the objective, all stay.

    Args:
        rows: All rows.
        name: An objective: ``block_error`` or ``validation/SET``.

    Raises:
        ConfigError: The objective is a test set, or no cell has it.
    """
    from quantexp.report.distinguish import option_names, place

    tests = {row.dataset for row in rows if row.dataset and row.kind in _TESTS}
    objective.refuse_test(name, tests)
    values: dict[str, float] = {}
    for row in rows:
        if row.record is not None and row.status != "edited" and row.cell not in values:
            data = json.loads(row.record.read_text(encoding="utf-8"))
            value = objective.value(name, [data])
            if value is not None and math.isfinite(value):
                values[row.cell] = value
    if not values:
        raise ConfigError(
            f"--best-by {name}: no cell has it: allowed block_error, where "
            "evaluation.block_error_windows is not 0, or validation/NAME, where "
            "evaluation.validation has that set"
        )
    options = option_names(rows)
    groups: dict[object, dict[str, set[str]]] = {}
    for row in rows:
        groups.setdefault((place(row), row.label), {}).setdefault(options[row.cell], set()).add(
            row.cell
        )
    dropped: set[str] = set()
    notes: dict[str, str] = {}
    for settings in groups.values():
        means = {
            option: statistics.mean(values[cell] for cell in cells)
            for option, cells in settings.items()
            if cells <= values.keys()
        }
        if len(means) < 2:
            continue
        best = min(means, key=means.__getitem__)
        words = objective.described(name)
        for option in means:
            if option != best:
                dropped |= settings[option]
        text = f"{best} chosen among {len(means)} settings by the {words}"
        notes |= dict.fromkeys(settings[best], text)
    return [
        replace(row, tuned=notes.get(row.cell, row.tuned))
        for row in rows
        if row.cell not in dropped
    ]
