"""Marks behind values: † for numerical fallbacks, with a note that says which and how many."""

import json

import pytest
from fake_outputs import FakeOutputs

from quantexp.report import styled, table
from quantexp.report.collect import collect
from quantexp.report.compare import compare
from quantexp.report.layout import lay_out
from quantexp.report.view import View

BLOCKS = [
    {"block": 0, "ladder": [{"step": "float32", "cause": "loss is nan"}]},
    {
        "block": 1,
        "ladder": [
            {"step": "float32", "cause": "loss is nan"},
            {"step": "learning rate / 10", "cause": "loss is inf"},
        ],
    },
    {
        "block": 2,
        "ladder": [
            {"step": "damping 0.05", "cause": "q_proj"},
            {"step": "damping 0.05", "cause": "k_proj"},
        ],
    },
    {"block": 3, "ladder": []},
]
NOTE = (
    "† FlatQuant 4/4/16/16/16/–: numerical fallback, float32 in 2 blocks, learning rate / 10 in "
    "1 block, damping 0.05 in 1 block"
)


@pytest.mark.parametrize("step", ["micro-batches of 2", "passes of 1024 tokens"])
def test_short_memory_is_marked_and_is_no_numerical_fallback(
    step: str, outputs: FakeOutputs
) -> None:
    split = {"step": step, "cause": "out of GPU memory"}
    outputs.calibration(
        outputs.cell("flatquant", ppl=5.0),
        report_blocks=[{"block": i, "ladder": [split]} for i in (0, 1)],
    )
    text = table.markdown(collect(outputs.root))
    assert "5.00†" in text
    assert f"memory fallback, {step} in 2 blocks" in text


def test_a_cell_that_fell_back_is_marked_and_says_how(outputs: FakeOutputs) -> None:
    fallen = outputs.cell("flatquant", ppl=5.0)
    outputs.calibration(outputs.cell("rtn", ppl=6.0), blocks=4)
    outputs.calibration(fallen, report_blocks=BLOCKS)
    rows = collect(outputs.root)
    text = table.markdown(rows)
    assert "**5.00†**" in text
    assert NOTE in text
    assert text.count("†") == 2
    plain = {row["method"]: row["fallbacks"] for row in json.loads(table.to_json(rows))}
    assert plain["flatquant"].startswith("float32 in 2 blocks")
    assert plain["rtn"] is None
    grid = lay_out(compare(rows))
    assert r"$^\dagger$" in styled.to_latex(grid)
    assert "5.00†" in styled.to_html(grid)


def test_the_mark_stands_at_the_value_where_models_stand_in_columns(outputs: FakeOutputs) -> None:
    outputs.cell("flatquant", ppl=7.0, model="llama2_7b")
    outputs.calibration(outputs.cell("flatquant", ppl=5.0), report_blocks=BLOCKS)
    text = table.markdown(collect(outputs.root), View(cols=("model", "dataset")))
    (line,) = [line for line in text.splitlines() if line.startswith("| FlatQuant")]
    assert "5.00†" in line
    assert "7.00†" not in line


def test_an_evaluation_says_it_where_the_calibrations_report_is_gone(outputs: FakeOutputs) -> None:
    path = outputs.evaluation(outputs.cell("gptq"), 5.0)
    data = json.loads(path.read_text()) | {"fallbacks": {"damping 0.1": 3}}
    data.pop("checksum")
    path.write_text(json.dumps(data))
    (row,) = collect(outputs.root)
    assert row.fallbacks == "damping 0.1 in 3 blocks"


def test_seeds_that_fell_back_are_counted(outputs: FakeOutputs) -> None:
    outputs.cell("flatquant", ppl=7.0, seed=1)
    outputs.calibration(outputs.cell("flatquant", ppl=5.0), report_blocks=BLOCKS[:1])
    assert any(
        "float32 in 1 block (1 of 2 cells)" in n for n in compare(collect(outputs.root)).notes
    )


def test_json_has_the_interval_to_the_best(outputs: FakeOutputs) -> None:
    nll = [100.0 + n for n in range(16)]
    for label, factor in (("rtn", 1.2), ("gptq", 1.0), ("awq", 1.0)):
        values = [v * factor + (label == "awq") * (-1) ** n for n, v in enumerate(nll)]
        ppl = {"rtn": 9.0, "gptq": 7.0, "awq": 7.5}[label]
        outputs.evaluation(outputs.cell(label), ppl, window_nll=values)
    found = json.loads(table.to_json(collect(outputs.root), View(significance=True)))
    rows = {row["method"] if row["label"] != "gptq" else "gptq": row["to_best"] for row in found}
    assert rows["gptq"] is None
    assert rows["rtn"]["significant"]
    assert rows["rtn"]["low"] > 1
    assert not rows["awq"]["significant"]
    assert rows["awq"]["measure"] == "ratio"
    assert "to_best" not in json.loads(table.to_json(collect(outputs.root)))[0]
