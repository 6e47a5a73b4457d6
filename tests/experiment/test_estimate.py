"""What a plan will take: close to what was written, and silent where nothing is known."""

from pathlib import Path

import pytest
from fakes import fake_model, finish
from helpers import make_config

from quantexp.calibration import checkpoint
from quantexp.experiment import estimate, record
from quantexp.experiment.cell import Cell
from quantexp.experiment.plan import Job, make

LLAMA3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
TEXT = {"name": "x", "perplexity": [{"name": "pydocs", "corpus": "pydocs", "seq_len": 2048}]}


def cell(tmp_path: Path, **fields: object) -> Cell:
    folder = tmp_path / "model"
    if not folder.is_dir():
        fake_model(folder, **LLAMA3_8B)
    data = {"name": "pydocs", "corpus": "pydocs", "num_samples": 128, "seq_len": 2048}
    paths = {"outputs": str(tmp_path / "outputs")}
    given = {"evaluation": TEXT, "data": data, "paths": paths, **fields}
    return Cell(make_config(folder, **given))  # type: ignore[arg-type]


def test_the_size_of_a_file_is_that_of_the_code() -> None:
    assert checkpoint._SHARD == estimate._SHARD


def test_a_model_is_counted_as_its_name_says(tmp_path: Path) -> None:
    model = cell(tmp_path).model
    embedding = 2 * LLAMA3_8B["vocab_size"] * LLAMA3_8B["hidden_size"]
    total = model.shape.block_weights * model.blocks + embedding
    assert total == pytest.approx(8.03e9, rel=0.001)


def test_disk_is_the_packed_integers_and_twice_for_the_one_that_is_joined(tmp_path: Path) -> None:
    one = cell(tmp_path)
    quarter = one.model.shape.block_weights * one.model.blocks / 2  # bytes at 4 bits
    assert estimate.disk([Job((one,))]).bytes == pytest.approx(2 * quarter, rel=0.05)
    two = [Job((one,)), Job((cell(tmp_path, bits=(8, 16, 16, 16)),))]
    assert estimate.disk(two).bytes == pytest.approx(5 * quarter, rel=0.05)
    freed = [Job((cell(tmp_path, keep="records"),))]
    assert estimate.disk(freed).bytes == pytest.approx(quarter, rel=0.05)
    finish(one)
    assert estimate.disk([Job((one,))]).bytes == 0


def test_the_demo_model_takes_what_it_took(tmp_path: Path) -> None:
    from quantexp.models.source import DEMO

    data = {"model": {"name": "demo", "source": "demo"}, "paths": {"outputs": str(tmp_path)}}
    demo = Cell(make_config(DEMO, **data))  # type: ignore[arg-type]
    assert estimate._checkpoint(demo) == pytest.approx(1_404_904, rel=0.1)


def test_memory_has_one_block_and_the_streams_not_the_model(tmp_path: Path) -> None:
    short = {**TEXT, "max_windows": 8}
    rtn = estimate.memory(cell(tmp_path, evaluation=short))
    gptq = estimate.memory(cell(tmp_path, evaluation=short, rounding="gptq"))
    flat = estimate.memory(cell(tmp_path, evaluation=short, method="flatquant", rounding="gptq"))
    stream = 128 * 2048 * 4096 * 4
    # two more: FlatQuant's inputs and targets; GPTQ's own is overwritten block by block
    assert flat.host - gptq.host == pytest.approx(2 * stream, rel=0.01)
    assert 3 * 4 * 14336**2 < gptq.gpu < rtn.gpu + 7 * 4 * 14336**2
    assert 4 << 30 < gptq.gpu < 24 << 30
    tasks = {**TEXT, "tasks": ["piqa"]}
    assert estimate.memory(cell(tmp_path, evaluation=tasks)).gpu > 15 << 30


def test_a_disk_too_small_is_refused_with_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job((cell(tmp_path),))]
    assert estimate.lacking(jobs, tmp_path / "absent" / "outputs") is None
    monkeypatch.setattr(estimate, "free_bytes", lambda outputs: 1000)
    text = estimate.lacking(jobs, tmp_path) or ""
    assert "GiB will be written to" in text
    assert "clean --state done" in text
    assert "keep=records" in text


def test_time_is_that_of_the_same_model_and_method_or_unknown(tmp_path: Path) -> None:
    before, now = cell(tmp_path), cell(tmp_path, bits=(3, 16, 16, 16))
    outputs = tmp_path / "outputs"
    assert estimate.History(outputs).seconds(now) is None
    finish(before)
    inputs = before.calibration_inputs
    record.write(before.checkpoint / "report.json", {"inputs": inputs, "seconds": 100.0})
    for item in before.evaluations:
        path = before.folder / "evaluations" / item.file_name
        record.write(path, {**(record.read(path) or {}), "seconds": 10.0})
    times = estimate.History(outputs)
    assert times.seconds(now) == 100 + 10 * len(now.evaluations)
    assert times.seconds(before) == 0
    assert times.seconds(cell(tmp_path, rounding="gptq")) is None  # another method
    plan = make([now.config], baselines=False)
    assert estimate.disk(plan.jobs).files == 3 + 2 + len(now.evaluations)
