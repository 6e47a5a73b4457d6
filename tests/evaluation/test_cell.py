"""A cell from configuration to records, without the command line: calibrate, then evaluate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import METHODS, make_config, silent, small_device, tiny_llama, windows, words

from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.experiment.evaluate import evaluate
from quantexp.experiment.record import altered


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("cell") / "model", dtype=torch.float16)


def cell(path: Path, folder: Path, method: str, **fields: Any) -> Cell:
    text = folder / "text.txt"
    text.write_text(words(200))
    ids = folder / "windows.json"
    ids.write_text(json.dumps({"windows": windows().tolist()}))
    bits = (16, 16, 16, 16) if method == "none" else (4, 8, 8, 8)
    config = make_config(
        path, method, bits,
        data={"name": "local", "path": str(ids)},
        evaluation={
            "name": "local",
            "block_error_windows": 2,
            "perplexity": [{"name": "mine", "path": str(text), "seq_len": 32}],
        },
        paths={"outputs": str(folder / "outputs")},
        **fields,
    )  # fmt: skip
    return Cell(config)


def measured(cell: Cell) -> dict[str, dict[str, Any]]:
    if cell.quantized:
        calibrate(cell, silent)
    for evaluation in cell.missing:
        evaluate(cell, evaluation, silent)
    assert not cell.missing
    found = {e.kind: cell.result(e) for e in cell.evaluations}
    return {kind: result for kind, result in found.items() if result is not None}


def test_where_memory_is_short_evaluations_take_fewer_tokens_and_say_so(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "usual").mkdir()
    usual = measured(cell(path, tmp_path / "usual", "rtn"))
    calibrate(made := cell(path, tmp_path, "rtn"), silent)
    seen = small_device(monkeypatch, 1)
    found = measured(made)
    assert max(seen) > 1
    for kind, record in found.items():
        assert record["details"]["pass_tokens"] == 32
        assert "pass_tokens" not in usual[kind]["details"]
        assert record["value"] == pytest.approx(usual[kind]["value"], rel=1e-4)


@pytest.mark.parametrize("method", [*METHODS, "none"])
def test_every_method_ends_in_records_that_name_their_protocol(
    method: str, path: Path, tmp_path: Path
) -> None:
    found = measured(cell(path, tmp_path, method))
    assert set(found) == ({"perplexity"} if method == "none" else {"perplexity", "block_error"})
    assert all("checksum" in each and not altered(each) for each in found.values())
    record = found["perplexity"]
    assert record["metric"] == "ppl"
    assert 1 < record["value"] < 1e4
    assert record["details"]["windows"] == 6
    assert record["details"]["bos"] == "once, at the start"
    assert record["stored_dtype"] == "float16"
    assert record["method"] == method
    if method != "none":
        assert found["block_error"]["value"] > 3  # dB


def test_a_finished_calibration_is_not_repeated(path: Path, tmp_path: Path) -> None:
    one = cell(path, tmp_path, "rtn")
    calibrate(one, silent)
    before = (one.checkpoint / "manifest.json").stat().st_mtime_ns
    calibrate(cell(path, tmp_path, "rtn"), silent)
    assert (one.checkpoint / "manifest.json").stat().st_mtime_ns == before


def test_a_checkpoint_names_what_its_integers_cost(path: Path, tmp_path: Path) -> None:
    one = cell(path, tmp_path, "rtn")
    calibrate(one, silent)
    manifest = json.loads((one.checkpoint / "manifest.json").read_text())
    rows, weights = 64 + 32 + 32 + 64 + 172 + 172 + 64, 64 * (64 + 32 + 32 + 64 + 3 * 172)
    assert manifest["effective_bits"] == pytest.approx(4 + 16 * rows / weights)
    packed = QuantizedCheckpoint(one.checkpoint).block(0)["mlp.down_proj.packed"]
    assert packed.shape == (64, 86)
