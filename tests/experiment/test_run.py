"""Running a cell: who may be at work at the same time."""

import threading
from pathlib import Path
from typing import Any

import pytest
import zoo
from helpers import make_config

from quantexp.config import ExperimentConfig, to_plain
from quantexp.experiment import calibrate, evaluate
from quantexp.experiment.cell import Cell
from quantexp.experiment.run import run_cell


def cell(folder: Path, activation: int) -> ExperimentConfig:
    return make_config(
        zoo.make("llama", folder / "model"),
        "rtn",
        (4, activation, 16, 16),
        evaluation={"name": "local", "path": "text.txt", "seq_len": 8},
        paths={"outputs": str(folder / "outputs")},
        tracker={"name": "none", "mode": "disabled"},
    )


def test_cells_of_one_calibration_are_evaluated_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("some words " * 100)
    configs = [cell(tmp_path, activation) for activation in (4, 8)]
    assert len({Cell(config).calibration for config in configs}) == 1
    calibrations, together = [], threading.Barrier(2)

    def calibrated(*given: Any) -> None:
        calibrations.append(given)

    def evaluated(*given: Any) -> None:
        together.wait(10)  # breaks unless both are here

    monkeypatch.setattr(calibrate, "calibrate", calibrated)
    monkeypatch.setattr(evaluate, "Subject", lambda _: None)  # models are not built in threads
    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    broken = []

    def run(config: ExperimentConfig) -> None:
        run_cell(to_plain(config))
        broken.append(together.broken)

    threads = [threading.Thread(target=run, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calibrations) == 2
    assert broken == [False, False]
