"""What must not pass unseen: edited records, mixed library versions, two kinds of seed."""

import json
import math

import pytest
from fake_outputs import FakeOutputs

from quantexp.experiment import record
from quantexp.report import table
from quantexp.report.collect import collect
from quantexp.report.compare import compare


def test_a_record_as_written_is_not_altered(outputs: FakeOutputs) -> None:
    path = outputs.evaluation(outputs.cell("rtn"), math.nan, window_nll=[1.0, math.inf, 0.1, 1e22])
    stored = record.read(path)
    assert stored is not None
    assert len(stored["checksum"]) == 64
    assert not record.altered(stored)


@pytest.mark.parametrize("reformat", [True, False])
def test_layout_is_no_edit_but_a_digit_is(outputs: FakeOutputs, reformat: bool) -> None:
    path = outputs.evaluation(outputs.cell("rtn"), 5.25)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data if reformat else {**data, "value": 5.2}, sort_keys=True))
    stored = record.read(path)
    assert stored is not None
    assert record.altered(stored) is not reformat


def test_records_without_a_checksum_make_no_claim(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=5.0)
    for path in outputs.root.rglob("*.json"):
        data = json.loads(path.read_text())
        data.pop("checksum", None)
        path.write_text(json.dumps(data))
    warnings: list[str] = []
    (row,) = collect(outputs.root, warn=warnings.append)
    assert (row.cell, row.value, row.status, warnings) == (cell, 5.0, "done", [])


def test_an_edited_value_is_warned_of_and_never_the_best_or_averaged(outputs: FakeOutputs) -> None:
    outputs.cell("rtn", ppl=9.0)
    better = outputs.cell("awq", ppl=8.0)
    seeds = [outputs.cell("flatquant", ppl=7.0 + n, seed=n) for n in range(3)]
    for cell in (better, seeds[0]):
        (path,) = (outputs.folder(cell) / "evaluations").glob("*.json")
        path.write_text(path.read_text().replace('"value": ', '"value": 0'.rstrip("0") + "1"))
    warnings: list[str] = []
    rows = collect(outputs.root, warn=warnings.append)
    assert len(warnings) == 2
    assert all("was edited after it was written" in line for line in warnings)
    lines = {line.method: line for line in compare(rows).lines}
    assert (lines["AWQ"].entries[0].text, lines["AWQ"].state) == ("edited", "edited")
    assert lines["FlatQuant"].entries[0].text == "8.50±0.71 (2, 1 edited)"
    assert not lines["AWQ"].entries[0].best
    statuses = {row["cell"]: row["status"] for row in json.loads(table.to_json(rows))}
    assert statuses[better] == "edited"


def test_an_edited_configuration_taints_all_values_of_its_cell(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=9.0)
    path = outputs.folder(cell) / "cell.json"
    path.write_text(path.read_text().replace('"bits": 4', '"bits": 3', 1))
    warnings: list[str] = []
    (row,) = collect(outputs.root, warn=warnings.append)
    assert (row.status, len(warnings)) == ("edited", 1)


def test_an_edited_calibration_report_is_not_believed(outputs: FakeOutputs) -> None:
    cell = outputs.cell("rtn", ppl=9.0)
    outputs.calibration(cell)
    (path,) = outputs.root.glob("calibrations/*/report.json")
    path.write_text(path.read_text().replace("4.25", "2.25"))
    warnings: list[str] = []
    (row,) = collect(outputs.root, warn=warnings.append)
    assert (row.effective_bits, row.status, len(warnings)) == (None, "done", 1)


def test_a_column_of_several_library_versions_says_so(outputs: FakeOutputs) -> None:
    for label, version in (("rtn", "2.12.0"), ("awq", "2.13.0")):
        libraries = {"torch": version, "transformers": "5.23.0", "lm-eval": version}
        outputs.evaluation(outputs.cell(label), 9.0, libraries=libraries)
    (note,) = compare(collect(outputs.root)).notes
    # lm-eval measures no perplexity
    assert note == (
        "pydocs ppl mixes versions of torch, which can change numbers: 2.12.0 for RTN "
        "4/4/16/16/16/–; 2.13.0 for AWQ 4/4/16/16/16/–"
    )


def test_the_two_seeds_are_told_apart(outputs: FakeOutputs) -> None:
    for seed in (0, 1):
        for data_seed in (0, 1, 2):
            value = 6.0 + 0.2 * seed + 2.0 * data_seed
            outputs.cell("flatquant", ppl=value, seed=seed, data_seed=data_seed)
    found = compare(collect(outputs.root))
    assert found.lines[0].entries[0].text == "8.10±1.79 (6)"
    assert "FlatQuant 4/4/16/16/16/–, pydocs ppl: seed ±0.14 (n=2), data.seed ±2.00 (n=3)" in (
        found.notes
    )


def test_seeds_that_change_together_are_not_told_apart(outputs: FakeOutputs) -> None:
    for seed in (0, 1):
        outputs.cell("flatquant", ppl=6.0 + seed, seed=seed)
    assert compare(collect(outputs.root)).notes == (
        "mean±sample standard deviation (number of seeds)",
    )
