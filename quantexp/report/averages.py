"""Averages of zero-shot tasks as papers define them: derived rows, made from records alone.

An average is shown only where a cell has all of its tasks, measured in one way.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantexp.evaluation.tasks import TASKS
from quantexp.report.collect import EDITED, Row

KIND = "zeroshot_average"
METRIC = "mean_accuracy"
_WAY = ("limit", "num_fewshot", "lm_eval")  # settings that all tasks of an average must share


@dataclass(frozen=True)
class Average:
    """A plain mean of tasks.

    Attributes:
        members: The tasks.
        normalized: Whether ``acc_norm`` counts where a task defines it; ``acc`` otherwise.
    """

    members: tuple[str, ...]
    normalized: bool

    @property
    def chance(self) -> float:
        """What guessing gets."""
        return statistics.mean(TASKS[task].chance for task in self.members)

    def metric(self, task: str) -> str:
        """The metric of a member that enters."""
        return TASKS[task].metric if self.normalized else "acc"


AVERAGES = {
    # QuaRot (2404.00456) and FlatQuant (2410.09426), both by their code
    "avg6": Average(
        ("arc_challenge", "arc_easy", "hellaswag", "lambada_openai", "piqa", "winogrande"), True
    ),
    # OmniQuant (2308.13137), table 2
    "avg6_omniquant": Average(
        ("piqa", "arc_easy", "arc_challenge", "boolq", "hellaswag", "winogrande"), False
    ),
}


def with_averages(rows: Sequence[Row]) -> list[Row]:
    """The rows, and after each cell's own those of the averages that it has all tasks of."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row.cell, []).append(row)
    found: list[Row] = []
    for own in cells.values():
        found += own + [row for name in AVERAGES for row in _averages(name, own)]
    return found


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of zero-shot columns must know: chance levels, texts that are not the hub's."""
    shown = {row.dataset for row in rows if row.value is not None and row.dataset}
    chances = {name: TASKS[name].chance for name in TASKS if name in shown}
    chances |= {name: average.chance for name, average in AVERAGES.items() if name in shown}
    found = []
    if chances:
        levels = ", ".join(f"{name} {100 * chance:.1f}" for name, chance in chances.items())
        found.append(f"accuracies in %; guessing gets {levels}")
    limits = sorted({row.settings["limit"] for row in rows if row.settings.get("limit")})
    found += [f"limit={limit}: the first {limit} documents of each task only" for limit in limits]
    told = {(r.dataset, str(r.settings["note"])) for r in rows if r.settings.get("note")}
    return found + [f"{dataset}: {note}" for dataset, note in sorted(told, key=str)]


def _averages(name: str, rows: Sequence[Row]) -> list[Row]:
    """One row for each way in which all members were measured."""
    average = AVERAGES[name]
    ways: dict[str, dict[str, Row]] = {}
    for row in rows:
        usable = row.kind == "zeroshot" and row.value is not None and row.status != EDITED
        if usable and row.dataset in average.members:
            ways.setdefault(_way(row.settings), {})[row.dataset] = row  # the newest counts
    found = []
    for members in ways.values():
        if len(members) < len(average.members):
            continue
        values = [members[task].metrics.get(average.metric(task)) for task in average.members]
        if any(value is None for value in values):
            continue
        first = next(iter(members.values()))
        texts = [str(members[task].settings.get("text_hash")) for task in sorted(members)]
        settings = {key: first.settings.get(key) for key in _WAY}
        found.append(
            replace(
                first,
                kind=KIND,
                dataset=name,
                metric=METRIC,
                value=statistics.mean(v for v in values if v is not None),
                stderr=None,
                metrics={},
                record=None,  # it is of no single one
                settings={**settings, "text_hash": " ".join(texts)},
            )
        )
    return found


def _way(settings: Mapping[str, object]) -> str:
    return json.dumps([settings.get(key) for key in _WAY])
