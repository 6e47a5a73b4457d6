"""What the mirror shows holds everything the records hold, and nothing that is private."""

import json
import math
from pathlib import Path

import pytest
from fake_outputs import FakeOutputs

from quantexp.experiment import record
from quantexp.tracking.content import content


@pytest.fixture
def outputs(tmp_path: Path) -> FakeOutputs:
    return FakeOutputs(tmp_path / "outputs")


def test_columns_are_flat_and_the_configuration_is_nested(outputs: FakeOutputs) -> None:
    cell = outputs.cell("flatquant+gptq", "w4a4kv4", 7.0, seed=3, method={"lr": 0.005})
    shown = content(outputs.root, cell, "table1")
    assert shown is not None
    config = shown["config"]
    assert (config["model"], config["method"], config["rounding"]) == ("demo", "flatquant", "gptq")
    assert (config["bits"], config["seed"], config["data_seed"]) == ("w4a4kv4", 3, 3)
    assert (config["protocol"], config["key_bits"], config["query_bits"]) == ("uniform", 4, 16)
    assert config["scheme"] == "weight:symmetric activation:symmetric key:symmetric value:symmetric"
    assert config["config"]["method"]["lr"] == 0.005
    assert (shown["id"], shown["group"], shown["job_type"]) == (cell, "table1", "flatquant+gptq")


def test_what_cannot_change_a_number_is_not_shown(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=7.0)
    shown = content(outputs.root, cell, None)
    assert str(outputs.root) not in json.dumps(shown)


def test_the_group_is_the_sweep_that_lists_the_cell(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=7.0)
    assert (content(outputs.root, cell, None) or {})["group"] == "demo"
    outputs.sweep("pareto", [cell])
    assert (content(outputs.root, cell, None) or {})["group"] == "pareto"


def test_blocks_join_calibration_and_diagnostics(outputs: FakeOutputs) -> None:
    cell = outputs.cell("flatquant", ppl=7.0)
    outputs.calibration(cell)
    outputs.block_error(cell)
    shown = content(outputs.root, cell, None)
    assert shown is not None
    assert shown["blocks"][1] == {
        "block": 1,
        "block/seconds": 3.0,
        "block/peak_memory_gib": 1.0,
        "block/loss_first": 0.4,
        "block/loss_last": 0.1,
        "block/mse": 0.2,
        "block/sqnr_db": 19.0,
    }
    assert shown["losses"][2] == {"epoch": 2, "loss/block_00": 0.1, "loss/block_01": 0.1}
    assert shown["summary"]["calibration/seconds"] == 61
    assert shown["summary"]["calibration/peak_memory_gib"] == 2
    assert shown["summary"]["effective_bits"] == 4.25


def test_the_baseline_has_results_and_no_curves(outputs: FakeOutputs) -> None:
    shown = content(outputs.root, outputs.cell("none", "w16a16", 5.0), None)
    assert shown is not None
    assert (shown["blocks"], shown["losses"]) == ([], [])
    assert shown["summary"] == {"status": "done", "pydocs/ppl": 5.0}


def test_a_broken_value_stays_visible(outputs: FakeOutputs) -> None:
    shown = content(outputs.root, outputs.cell("rtn", ppl=math.nan), None)
    assert (shown or {})["summary"]["pydocs/ppl"] == "NaN"


def test_another_attempt_with_equal_results_shows_the_same(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=7.0)
    before = content(outputs.root, cell, None)
    record.write(
        outputs.folder(cell) / "status.json",
        {"state": "done", "attempt": 2, "updated": "2027-01-01", "pid": 7},
    )
    assert content(outputs.root, cell, None) == before
