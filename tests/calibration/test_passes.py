"""Passes without gradients: no further than somebody watches, and smaller where they must."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    calibrated,
    make_config,
    relative,
    small_device,
    spy,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)
from torch import Tensor

from quantexp.calibration import passes
from quantexp.config import ExperimentConfig
from quantexp.experiment import faults
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.gptq import Hessian
from quantexp.quantization.linear import QuantLinear

TOKENS = windows(4, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("passes") / "model")


def test_a_pass_ends_behind_the_last_linear_that_is_watched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = streamed(make_config(folder, "rtn", (4, 8, 16, 16)))
    config = make_config(folder, "rtn", (4, 8, 16, 16))
    quant = QuantBlock(model.block(0, torch.float32), model.source.architecture, config.bits)
    kwargs = model.block_kwargs(32, torch.float32)[0]
    x = model.embed(TOKENS, torch.float32)
    reached: list[str] = []
    names = {id(linear): path for path, linear in quant.linears.items()}
    spy(QuantLinear, "forward", monkeypatch, lambda linear, _: reached.append(names[id(linear)]))
    seen: dict[str, list[Tensor]] = {"self_attn.k_proj": [], "self_attn.o_proj": []}
    observers = {path: found.append for path, found in seen.items()}
    passes.observe(quant, observers, x, kwargs, model.device, tokens=64)
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    assert reached == attention * 2  # two windows in a pass, and nothing of the MLP
    assert [len(part) for part in seen["self_attn.o_proj"]] == [2, 2]
    assert all(linear.observer is None for linear in quant.linears.values())


@pytest.mark.parametrize("method", ["rtn", "flatquant"])
def test_linears_share_a_hessian_where_they_read_the_same_values(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, method, (4, 4, 16, 16), rounding="gptq")
    made: list[Hessian] = []
    spy(Hessian, "__init__", monkeypatch, lambda self, *_: made.append(self))
    checkpoint = calibrated(streamed(config), config, TOKENS, tmp_path)
    # FlatQuant learns a clip for the input of each linear
    assert len(made) == 2 * (4 if method == "rtn" else 7)
    assert sum(len(r["gptq"]) for r in checkpoint.reports()) == 2 * 7


def test_one_scale_for_a_matrix_is_of_that_matrix(folder: Path, tmp_path: Path) -> None:
    tensors = {"weight": {"granularity": "per_tensor"}}
    config = make_config(folder, "rtn", (4, 16, 16, 16), rounding="gptq", tensors=tensors)
    checkpoint = calibrated(streamed(config), config, TOKENS, tmp_path)
    saved = checkpoint.saved_block(0)
    assert saved is not None
    scales = {saved[0][f"self_attn.{name}_proj.scale"].unique().item() for name in "qkv"}
    assert len(scales) == 3


def reports(config: ExperimentConfig, folder: Path) -> list[dict[str, Any]]:
    return list(calibrated(streamed(config), config, TOKENS, folder).reports())


@pytest.mark.parametrize("method", ["gptq", "awq", "smoothquant"])
def test_where_memory_is_short_passes_take_fewer_tokens_once(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounding = "gptq" if method == "gptq" else "rtn"
    config = make_config(
        folder, "rtn" if method == "gptq" else method, (4, 8, 16, 16), rounding=rounding
    )
    seen = small_device(monkeypatch, 1)
    short = calibrated(streamed(config), config, TOKENS, tmp_path / "short")
    assert seen[0] == 4
    assert set(seen[1:]) == {1}
    for report in short.reports():
        assert report["pass_tokens"] == 32
        entry = {"step": "passes of 32 tokens", "cause": "out of GPU memory"}
        assert report["ladder"] == [entry]
    monkeypatch.undo()
    model = streamed(config)
    usual = calibrated(model, config, TOKENS, tmp_path / "usual")
    assert all("ladder" not in report for report in usual.reports())
    blocks = (stored_blocks(model, config, found) for found in (usual, short))
    for one, other in zip(*blocks, strict=True):
        for name, parameter in one.named_parameters():
            assert relative(other.get_parameter(name), parameter) < 0.05


def test_a_device_that_is_too_small_for_that_fails_with_its_cause(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "rtn", (4, 8, 16, 16), rounding="gptq")
    seen = small_device(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        reports(config, tmp_path)
    assert seen == [4, 1]
    assert faults.of_exception(raised.value) == faults.GPU_MEMORY


def test_a_range_that_spans_a_batch_forbids_smaller_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"activation": {"granularity": "per_tensor"}}
    config = make_config(folder, "rtn", (4, 8, 16, 16), rounding="gptq", tensors=tensors)
    seen = small_device(monkeypatch, 1)
    with pytest.raises(torch.OutOfMemoryError):
        reports(config, tmp_path)
    assert seen == [4]


def test_a_resumed_run_goes_on_with_passes_of_that_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "rtn", (4, 8, 16, 16), rounding="gptq")
    small_device(monkeypatch, 1)
    unbroken = calibrated(streamed(config), config, TOKENS, tmp_path)
    before = unbroken.saved_block(1)
    (tmp_path / "blocks" / "00001.json").unlink()
    monkeypatch.undo()
    seen = small_device(monkeypatch, 99)
    again = calibrated(streamed(config), config, TOKENS, tmp_path).saved_block(1)
    assert set(seen) == {1}
    assert before is not None
    assert again is not None
    assert all(torch.equal(again[0][name], tensor) for name, tensor in before[0].items())
