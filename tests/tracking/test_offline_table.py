"""Offline runs, read back by W&B's own reader, hold every number that the table holds."""

import json
import math
from typing import Any

import pytest
from fake_outputs import FakeOutputs
from test_mirror import cell_of, inspect, offline_runs, outputs

from quantexp.config import TrackerConfig
from quantexp.evaluation.tasks import TASKS
from quantexp.experiment import record
from quantexp.report.cli import main
from quantexp.tracking.content import result_key
from quantexp.tracking.mirror import mirror, mirror_sweep

__all__ = ["outputs"]  # the fixture: no key, no network
_COSTS = {
    "effective_bits": ("effective_bits", 1),
    "calibration_seconds": ("calibration/seconds", 1),
    "peak_memory_bytes": ("calibration/peak_memory_gib", 2**30),
}


@pytest.fixture
def cells(outputs: FakeOutputs) -> list[str]:
    found = [
        outputs.cell("none", "w16a16", 5.678901234),
        outputs.cell("rtn", "w4a4", math.nan),
        outputs.cell("flatquant+gptq", "w4a4kv4", 6.0123456789, seed=1),
    ]
    for n, cell in enumerate(found):
        for k, (task, known) in enumerate(sorted(TASKS.items())):
            metrics = {"acc": 0.3 + k / 97 + n / 1000, known.metric: 0.4 + k / 89 + n / 1000}
            zeroshot = {"kind": "zeroshot", "dataset": task, "metric": known.metric}
            details = {"metrics": metrics, "limit": None, "text_hash": task}
            record.write_signed(
                outputs.folder(cell) / "evaluations" / f"zeroshot-{task}.json",
                {**zeroshot, "value": metrics[known.metric], "stderr": 0.01, "details": details},
            )
        outputs.evaluation(cell, 7.0 + n / 3, "c4")
    for cell in found[1:]:
        outputs.block_error(cell)
        outputs.calibration(cell, seconds=12.3456789, peak_memory_bytes=123456789)
    outputs.sweep("sweep1", found)
    return found


def as_text(value: Any) -> Any:
    """W&B writes its own words for what JSON has no number for."""
    return {"NaN": "nan", "Infinity": "inf"}.get(value, value) if isinstance(value, str) else value


def test_every_number_of_the_table_is_in_the_offline_runs(
    outputs: FakeOutputs, cells: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in cells:
        mirror(cell_of(outputs, cell))
    mirror_sweep(outputs.root, "sweep1", TrackerConfig("wandb", "offline", "quantexp-test"))
    capsys.readouterr()
    assert main(["--sweep", "sweep1", "--format", "json", "--outputs", str(outputs.root)]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {row["cell"] for row in table} == set(cells)
    assert {"avg6", "avg6_omniquant", "c4", "pydocs", *TASKS} <= {row["dataset"] for row in table}

    runs = offline_runs(outputs)
    shown = [json.loads(inspect(run, "--summary")) for run in runs]
    summaries = {one["run_id"]: one["summary"] for one in shown}
    (sweep,) = [run for run, one in zip(runs, shown, strict=True) if "sweep-" in one["run_id"]]
    (file,) = sweep.rglob("*.table.json")
    stored = json.loads(file.read_text())
    lines = [dict(zip(stored["columns"], line, strict=True)) for line in stored["data"]]
    wide = {line["cell"]: line for line in lines}
    compared = 0
    for row in table:
        summary, line = summaries[row["cell"]], wide[row["cell"]]
        if row["kind"] != "block_error" or result_key(row["dataset"], row["metric"]) in summary:
            key = result_key(row["dataset"], row["metric"])
            value = row["value_text"] or row["value"]
            assert as_text(summary[key]) == value, (row["cell"], key)
            assert as_text(line[key]) == value, (row["cell"], key)
            compared += 1
        for column, (key, unit) in _COSTS.items():
            if row[column] is not None:
                assert summary[key] * unit == pytest.approx(row[column], rel=1e-12)
                assert line[column] == row[column]
                compared += 1
    assert compared == len(table) + 3 * sum(row["label"] != "none" for row in table)
