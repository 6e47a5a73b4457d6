"""Rows hold every record, and every cell that has none."""

import math

import pytest
from fake_outputs import FakeOutputs

from quantexp.errors import ConfigError
from quantexp.report.collect import collect


def test_a_row_joins_value_configuration_and_calibration(outputs: FakeOutputs) -> None:
    cell = outputs.cell("flatquant+gptq", "w3a16g128", 7.5, seed=2)
    outputs.calibration(cell)
    outputs.sweep("table1", [cell])
    (row,) = collect(outputs.root)
    assert (row.model, row.method, row.rounding, row.label) == (
        *("demo", "flatquant", "gptq"),
        "flatquant+gptq",
    )
    assert (row.weight_bits, row.activation_bits, row.key_bits) == (3, 16, 16)
    assert (row.group_size, row.dataset, row.metric, row.value) == (128, "pydocs", "ppl", 7.5)
    assert (row.seed, row.data_seed, row.cell, row.status) == (2, 2, cell, "done")
    assert (row.effective_bits, row.calibration_seconds, row.peak_memory_bytes) == (4.25, 61, 2**31)
    assert (row.sweep, row.protocol) == ("table1", "uniform")


@pytest.mark.parametrize("state", ["running", "failed", "queued"])
def test_a_cell_without_results_is_seen(outputs: FakeOutputs, state: str) -> None:
    outputs.cell("rtn", state=state, cause="ValueError: too small")
    (row,) = collect(outputs.root)
    assert (row.status, row.dataset, row.metric, row.value) == (state, "pydocs", "ppl", None)
    assert row.cause == "ValueError: too small"


def test_a_cell_that_only_a_sweep_knows_is_seen(outputs: FakeOutputs) -> None:
    outputs.sweep("s", [outputs.cell("rtn", ppl=5.0), "demo-awq-w4a4-12345678"])
    waiting = collect(outputs.root)[-1]
    assert (waiting.cell, waiting.status, waiting.value) == (
        *("demo-awq-w4a4-12345678", "queued"),
        None,
    )


def test_a_sweep_filters_and_keeps_its_order(outputs: FakeOutputs) -> None:
    cells = [outputs.cell(label, ppl=5.0) for label in ("rtn", "flatquant", "awq")]
    outputs.sweep("small", [cells[1], cells[0]])
    assert [row.cell for row in collect(outputs.root, "small")] == [cells[1], cells[0]]


def test_an_unknown_sweep_is_refused_with_the_nearest_name(outputs: FakeOutputs) -> None:
    with pytest.raises(ConfigError, match="holds no sweep yet"):
        collect(outputs.root, "quickstart")
    outputs.sweep("quickstart", [])
    outputs.sweep("pareto", [])
    with pytest.raises(ConfigError, match=r"did you mean 'quickstart'.*pareto, quickstart"):
        collect(outputs.root, "quikstart")


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "perpl',
        "[1, 2]",
        '{"other": 1}',
        '{"kind": 1}',
        "\ud800".encode("utf-8", "replace"),
    ],
)
def test_a_broken_or_foreign_record_is_skipped_with_its_name(
    outputs: FakeOutputs, text: str | bytes
) -> None:
    cell = outputs.cell("rtn", ppl=5.0)
    foreign = outputs.folder(cell) / "evaluations" / "zz.json"
    foreign.write_bytes(text if isinstance(text, bytes) else text.encode())
    warnings: list[str] = []
    rows = collect(outputs.root, warn=warnings.append)
    assert [row.value for row in rows] == [5.0]
    (line,) = warnings
    assert str(foreign) in line
    assert "\n" not in line


@pytest.mark.parametrize("value", [True, "5.0", "many", [1]])
def test_a_value_that_is_no_number_is_no_record(outputs: FakeOutputs, value: object) -> None:
    cell = outputs.cell("rtn")
    outputs.evaluation(cell, value)  # type: ignore[arg-type]
    warnings: list[str] = []
    (row,) = collect(outputs.root, warn=warnings.append)
    assert (row.value, len(warnings)) == (None, 1)


def test_a_configuration_of_another_shape_skips_its_cell_only(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", ppl=5.0)
    other = outputs.cell("awq", ppl=4.0)
    path = outputs.folder(other) / "cell.json"
    path.write_text(path.read_text().replace('"weight": {', '"weight": null, "w": {'))
    warnings: list[str] = []
    rows = collect(outputs.root, warn=warnings.append)
    assert [row.method for row in rows] == ["rtn"]
    assert other in warnings[0]


def test_values_that_json_lacks_come_back(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", "w4a4", math.nan)
    outputs.cell("awq", "w4a4", math.inf)
    values = [row.value for row in collect(outputs.root)]
    assert values[0] == math.inf
    assert values[1] is not None
    assert math.isnan(values[1])
