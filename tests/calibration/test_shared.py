"""What cells of one process share changes no number, and stays small."""

import json
from pathlib import Path

import pytest
import torch
from helpers import make_config, silent, tiny_llama, windows

from quantexp.calibration import shared
from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.experiment.evaluate import evaluate


def test_values_are_made_once_and_the_oldest_go() -> None:
    made: list[int] = []

    def make(n: int) -> torch.Tensor:
        made.append(n)
        return torch.full((256,), float(n))  # 1 KiB

    store = shared.Shared(limit=2048)
    for n in (1, 2, 1, 3, 1, 2):
        assert store.get(n, lambda n=n: make(n))[0] == n  # type: ignore[misc]
    assert made == [1, 2, 3, 2]


def test_what_is_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_LARGEST", 100)
    store = shared.Shared()
    first = store.get("x", lambda: (torch.zeros(50), {}))
    assert store.get("x", lambda: (torch.ones(50), {})) is not first


@pytest.mark.parametrize("method", ["smoothquant", "awq", "flatquant"])
def test_cells_of_one_process_give_what_they_give_alone(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(tmp_path / "model")
    ids = tmp_path / "windows.json"
    ids.write_text(json.dumps({"windows": windows().tolist()}))
    results = []
    for kind in ("alone", "together"):
        found = []
        monkeypatch.setattr(shared, "here", shared.Shared())
        for name in ("awq", "smoothquant", method):
            if kind == "alone":
                monkeypatch.setattr(shared, "here", shared.Shared())
            config = make_config(
                path, name, (4, 16, 16, 16),
                data={"name": "local", "path": str(ids)},
                evaluation={"name": "none", "block_error_windows": 2},
                paths={"outputs": str(tmp_path / kind)},
            )  # fmt: skip
            cell = Cell(config)
            calibrate(cell, silent)
            for item in cell.evaluations:
                evaluate(cell, item, silent)
            files = (cell.checkpoint / "checkpoint").glob("*.safetensors")
            values = [(cell.result(e) or {})["details"] for e in cell.evaluations]
            found.append(([file.read_bytes() for file in files], values))
        results.append(found)
    assert results[0] == results[1]
