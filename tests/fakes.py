"""Stand-ins that let the runner be tested without a model: a checkpoint's outside, and its work."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantexp.experiment import record, run
from quantexp.experiment.cell import Cell
from quantexp.experiment.status import Status

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


def fake_model(folder: Path, **changes: object) -> Path:
    """A folder that looks like a checkpoint from outside: enough for all that needs no torch."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    return folder


def finish(cell: Cell, value: float = 2.0) -> None:
    """Writes all records of a cell, and a checkpoint's files."""
    for item in cell.evaluations:
        path = cell.folder / "evaluations" / item.file_name
        content = {"kind": item.kind, "dataset": item.name, "metric": "ppl", "value": value}
        record.write(path, content)
    if cell.quantized:
        (cell.checkpoint / "checkpoint").mkdir(parents=True, exist_ok=True)
        (cell.checkpoint / "checkpoint" / "00000.safetensors").write_bytes(b"\0" * 1000)
        record.write(cell.checkpoint / "manifest.json", {"files": {}})


class Work:
    """Replaces calibrating and evaluating; remembers what was asked, fails where told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, BaseException] = {}

    def __call__(self, cell: Cell, status: Status, calibrated: Callable[[], None]) -> None:
        label = cell.config.label
        self.done.append(label)
        status.progress("calibrate", 1, 2, 0.5)
        if label in self.failing:
            raise self.failing[label]
        finish(cell)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The stand-in, installed for cells that run in this process."""
    stand_in = Work()
    monkeypatch.setattr(run, "_calibrate_and_evaluate", stand_in)
    return stand_in
