"""Too little memory for a batch: it is read in parts, and the optimizer's step stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import calibrated, make_config, streamed, tiny_llama, windows
from torch import Tensor

from quantexp.calibration.blocks import CalibrationBlock
from quantexp.config import ExperimentConfig
from quantexp.experiment import faults

TOKENS = windows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


def small_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device on which at most so many windows fit, with gradients; returns the sizes tried."""
    forward, seen = CalibrationBlock.forward, []

    def limited(block: CalibrationBlock, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(len(x))
            if len(x) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(block, x)

    monkeypatch.setattr(CalibrationBlock, "forward", limited)
    return seen


def fitted(
    config: ExperimentConfig, folder: Path
) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
    checkpoint = calibrated(streamed(config), config, TOKENS, folder)
    return [item for i in range(2) if (item := checkpoint.saved_block(i)) is not None]


@pytest.mark.parametrize("method", ["flatquant", "omniquant"])  # one has the logarithm of the loss
def test_parts_of_a_batch_make_the_same_step(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 2, "batch_size": 4}
    config = make_config(folder, method, (8, 8, 16, 16), options=options)
    whole = fitted(config, tmp_path / "whole")
    seen = small_memory(monkeypatch, 1)
    parts = fitted(config, tmp_path / "parts")
    assert seen[:3] == [4, 2, 1]
    assert set(seen[3:]) == {1}  # what the first block found out holds for the next
    for (_, one), (_, other) in zip(whole, parts, strict=True):
        assert "ladder" not in one
        assert other["ladder"] == [{"step": "micro-batches of 1", "cause": "out of GPU memory"}]
        assert other["micro_batch"] == 1
        # the first loss is before any step; AdamW's first step makes much of a rounding error
        assert other["loss"][0] == pytest.approx(one["loss"][0], rel=1e-4)
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-2)


def test_a_fit_is_reproducible_or_says_that_it_is_not(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On an accelerator, where some operations have no deterministic kernel."""
    forward, strict = CalibrationBlock.forward, list[bool]()

    def refused(block: CalibrationBlock, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            strict.append(not torch.is_deterministic_algorithms_warn_only_enabled())
            if strict[-1] and block.index == 1:
                raise RuntimeError("cumsum does not have a deterministic implementation")
        return forward(block, x)

    config = make_config(folder, "flatquant", (8, 8, 16, 16), options={"epochs": 1})
    whole = fitted(config, tmp_path / "whole")
    monkeypatch.setattr(CalibrationBlock, "forward", refused)
    torch.use_deterministic_algorithms(True, warn_only=True)  # as on an accelerator
    try:
        again = fitted(config, tmp_path / "again")
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert strict[0]
    assert not strict[-1]
    told = capsys.readouterr().out
    assert told.count("will not be the same to the bit again") == 1
    assert "block 1 will not" in told
    for (one, _), (other, _) in zip(whole, again, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_gradient_is_the_batchs_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before rounding can make a difference: one step of one parameter, in float64."""
    from types import SimpleNamespace

    from quantexp.calibration import gradient

    weight = torch.nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3))
    x = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block: Any = SimpleNamespace(
        quant=SimpleNamespace(refresh=lambda: None),
        products=lambda: torch.autocast("cpu", enabled=False),
        forward=lambda part: SimpleNamespace(float=lambda: part @ weight.T),
    )
    optimizer = torch.optim.SGD([weight], lr=0.1)
    target = torch.ones(5, 4, 2, dtype=torch.float64)
    for log_loss in (False, True):
        found = []
        for size in (5, 2):  # the last part is smaller than the others
            loss = gradient._gradients(block, optimizer, x.split(size), [target], log_loss)
            assert weight.grad is not None
            found.append((float(loss), weight.grad.clone()))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=0)


def test_one_window_that_does_not_fit_is_a_failure_with_its_cause(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "flatquant", (4, 4, 4, 4))
    small_memory(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError, match=r"one window.*gpu_type") as raised:
        fitted(config, tmp_path)
    assert faults.of_exception(raised.value) == faults.GPU_MEMORY


def test_a_range_that_spans_the_batch_forbids_parts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"activation": {"granularity": "per_tensor"}}
    config = make_config(folder, "flatquant", (4, 4, 16, 16), tensors=tensors)
    small_memory(monkeypatch, 1)
    with pytest.raises(torch.OutOfMemoryError, match="spans the batch"):
        fitted(config, tmp_path)


def test_a_resumed_run_goes_on_in_the_same_parts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "flatquant", (4, 4, 4, 4))
    small_memory(monkeypatch, 1)
    unbroken = fitted(config, tmp_path)
    (tmp_path / "blocks" / "00001.json").unlink()
    monkeypatch.undo()
    seen = small_memory(monkeypatch, 99)
    again = fitted(config, tmp_path)
    assert set(seen) == {1}
    for name, tensor in unbroken[1][0].items():
        assert torch.equal(tensor, again[1][0][name])
