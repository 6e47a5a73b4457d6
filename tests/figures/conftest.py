import sys
from pathlib import Path

# the small outputs folder is shared with the tests of the report
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

import pytest
from fake_outputs import FakeOutputs

from quantexp.evaluation.tasks import TASKS
from quantexp.experiment import record


def zeroshot(outputs: FakeOutputs, cell: str, task: str, value: float, stderr: float) -> None:
    metric = TASKS[task].metric
    record.write_signed(
        outputs.folder(cell) / "evaluations" / f"zeroshot-{task}.json",
        {
            "kind": "zeroshot",
            "dataset": task,
            "metric": metric,
            "value": value,
            "stderr": stderr,
            "details": {"metrics": {metric: value}, "limit": None, "text_hash": task},
        },
    )


@pytest.fixture
def outputs(tmp_path: Path) -> FakeOutputs:
    return FakeOutputs(tmp_path / "outputs")


@pytest.fixture
def filled(outputs: FakeOutputs) -> FakeOutputs:
    """Two methods and the baseline with everything that figures of records show."""
    full = outputs.cell("none", "w16a16", 5.5)
    cells = [full]
    for label, ppl, bits in (("rtn", 9.0, 4.05), ("flatquant", 5.8, 4.11)):
        cell = outputs.cell(label, "w4a4", ppl)
        outputs.block_error(cell, 3)
        outputs.calibration(cell, effective_bits=bits)
        cells.append(cell)
    for n, cell in enumerate(cells):
        for task in ("piqa", "arc_easy"):
            zeroshot(outputs, cell, task, 0.7 - 0.1 * n, 0.012)
    outputs.sweep("quickstart", cells)
    return outputs
