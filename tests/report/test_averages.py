"""Averages are those of the papers, whole or not at all, and accuracies are shown in per cent."""

import math
from typing import Any

import pytest
from fake_outputs import FakeOutputs

from quantexp.evaluation.tasks import TASKS
from quantexp.experiment import record
from quantexp.report.averages import AVERAGES, with_averages
from quantexp.report.collect import Row, collect
from quantexp.report.compare import compare
from quantexp.tracking.content import content

ACC = {name: 0.1 + 0.05 * i for i, name in enumerate(sorted(TASKS))}


def zeroshot(
    outputs: FakeOutputs, cell: str, task: str, shift: float = 0.0, **details: Any
) -> None:
    """A record with acc, and acc_norm 0.02 above it where the task has it."""
    metric = TASKS[task].metric
    metrics = {"acc": ACC[task] + shift}
    if metric == "acc_norm":
        metrics["acc_norm"] = metrics["acc"] + 0.02
    limit = details.get("limit")
    record.write(
        outputs.folder(cell) / "evaluations" / f"zeroshot-{task}-{limit}.json",
        {
            "kind": "zeroshot",
            "dataset": task,
            "metric": metric,
            "value": metrics[metric],
            "stderr": 0.01,
            "details": {"metrics": metrics, "limit": limit, "text_hash": task, **details},
        },
    )


def rows(outputs: FakeOutputs) -> list[Row]:
    return with_averages(collect(outputs.root))


def averages(outputs: FakeOutputs) -> dict[str, float | None]:
    return {str(r.dataset): r.value for r in rows(outputs) if r.kind == "zeroshot_average"}


def test_averages_take_the_metrics_of_their_papers(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn")
    for task in TASKS:
        zeroshot(outputs, cell, task)
    # four of the six have acc_norm
    six = AVERAGES["avg6"].members
    assert averages(outputs) == {
        "avg6": pytest.approx(sum(ACC[t] for t in six) / 6 + 0.02 * 4 / 6),
        "avg6_omniquant": pytest.approx(
            sum(ACC[t] for t in AVERAGES["avg6_omniquant"].members) / 6
        ),
    }


def test_an_average_with_a_member_missing_is_not_shown(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn")
    for task in AVERAGES["avg6"].members[:-1]:
        zeroshot(outputs, cell, task)
    assert averages(outputs) == {}
    zeroshot(outputs, cell, AVERAGES["avg6"].members[-1], limit=20)
    assert averages(outputs) == {}  # some documents of one task, all of the others
    zeroshot(outputs, cell, AVERAGES["avg6"].members[-1])
    assert set(averages(outputs)) == {"avg6"}


def test_a_broken_member_breaks_the_average(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn")
    for task in AVERAGES["avg6"].members:
        zeroshot(outputs, cell, task, math.nan if task == "piqa" else 0.0)
    value = averages(outputs)["avg6"]
    assert value is not None
    assert math.isnan(value)


def test_guessing_is_known() -> None:
    assert AVERAGES["avg6"].chance == pytest.approx((0.25 * 3 + 0 + 0.5 + 0.5) / 6)
    assert AVERAGES["avg6_omniquant"].chance == pytest.approx((0.25 * 3 + 0.5 * 3) / 6)


def test_tables_show_per_cent_and_the_highest_is_best(outputs: FakeOutputs) -> None:
    for label, shift in (("rtn", 0.0), ("flatquant", 0.1)):
        cell = outputs.cell(label)
        for task in AVERAGES["avg6"].members:
            zeroshot(outputs, cell, task, shift, limit=20, note="other text" * (task == "piqa"))
    table = compare(rows(outputs))
    assert "arc_easy acc_norm ↑" in table.columns
    assert "avg6 ↑" in table.columns
    column = table.columns.index("arc_easy acc_norm ↑")
    shown = {line.method: line.entries[column] for line in table.lines}
    assert (shown["RTN"].text, shown["RTN"].best) == ("17.00", False)
    assert (shown["FlatQuant"].text, shown["FlatQuant"].best) == ("27.00", True)
    average = table.columns.index("avg6 ↑")
    assert [line.entries[average].best for line in table.lines] == [False, True]
    notes = "\n".join(table.notes)
    assert "guessing gets arc_challenge 25.0" in notes
    assert "avg6 29.2" in notes
    assert "limit=20: the first 20 documents of each task only" in notes
    assert "piqa: other text" in notes


def test_documents_of_unlike_number_get_columns_of_their_own(outputs: FakeOutputs) -> None:
    zeroshot(outputs, outputs.cell("rtn"), "piqa", limit=20)
    zeroshot(outputs, outputs.cell("awq"), "piqa")
    columns = compare(rows(outputs)).columns
    assert {"piqa acc_norm (limit=20) ↑", "piqa acc_norm (limit=None) ↑"} <= set(columns)


def test_a_task_that_is_not_done_has_a_row(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=7.0, state="running")
    stored = record.read(outputs.folder(cell) / "cell.json")
    assert stored is not None
    stored["config"]["evaluation"]["tasks"] = ["piqa", "arc_easy"]
    record.write(outputs.folder(cell) / "cell.json", stored)
    zeroshot(outputs, cell, "piqa")
    found = {(r.dataset, r.metric): r.value for r in rows(outputs)}
    assert found[("arc_easy", "acc_norm")] is None
    assert found[("piqa", "acc_norm")] is not None


def test_the_mirror_has_a_flat_key_for_each_task(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn")
    zeroshot(outputs, cell, "arc_easy")
    zeroshot(outputs, cell, "winogrande")
    shown = content(outputs.root, cell, None)
    assert shown is not None
    assert shown["summary"]["arc_easy/acc_norm"] == pytest.approx(ACC["arc_easy"] + 0.02)
    assert shown["summary"]["winogrande/acc"] == pytest.approx(ACC["winogrande"])
