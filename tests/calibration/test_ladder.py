"""The numerical ladder: nothing falls back in silence, and nothing finite is thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import calibrated, make_config, streamed, tiny_llama, windows
from torch import Tensor

from quantexp.calibration import blocks, gradient
from quantexp.calibration.ladder import Rung, rungs
from quantexp.config import ExperimentConfig
from quantexp.errors import CalibrationError
from quantexp.quantization import gptq

TOKENS = windows()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def config(tiny_folder: Path) -> ExperimentConfig:
    return make_config(tiny_folder, "flatquant", (4, 4, 4, 4))


def broken_losses(monkeypatch: pytest.MonkeyPatch, failures: int) -> list[float]:
    """The first ``failures`` fits meet a NaN in their second epoch; returns the rates seen."""
    step, rates = gradient._step, []
    seen: list[torch.optim.Optimizer] = []

    def poisoned(block: Any, optimizer: Any, *rest: Any) -> Tensor:
        loss = step(block, optimizer, *rest)
        if not any(optimizer is other for other in seen):
            seen.append(optimizer)
            rates.append(optimizer.param_groups[0]["lr"])
        return loss * float("nan") if len(seen) <= failures else loss

    monkeypatch.setattr(gradient, "_step", poisoned)
    return rates


def report_of(folder: Path, config: ExperimentConfig) -> list[dict[str, Any]]:
    checkpoint = calibrated(streamed(config), config, TOKENS, folder)
    found = [checkpoint.saved_block(i) for i in range(2)]
    return [item[1] for item in found if item is not None]


def test_a_finite_fit_takes_no_rung(config: ExperimentConfig, tmp_path: Path) -> None:
    assert all("ladder" not in block for block in report_of(tmp_path, config))


@pytest.mark.parametrize("failures", [1, 2])
def test_a_non_finite_loss_goes_down_the_ladder(
    failures: int, config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = broken_losses(monkeypatch, failures)
    first, second = report_of(tmp_path, config)
    steps = ["learning rate / 10", "initial parameters"][:failures]
    assert [taken["step"] for taken in first["ladder"]] == steps
    assert "block 0, epoch 1" in first["ladder"][0]["cause"]
    assert rates[1] == pytest.approx(rates[0] / 10)
    assert len(first["loss"]) == (config.method.options.epochs if failures == 1 else 0)
    assert "ladder" not in second


def test_the_last_rung_is_the_blocks_initial_parameters(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfitted block still is the same function up to rounding: its error stays bounded."""
    broken_losses(monkeypatch, failures=99)
    for block in report_of(tmp_path, config):
        assert block["loss"] == []
        assert block["error"]["method"] < 1


def test_a_retry_starts_where_the_first_attempt_did(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = report_of(tmp_path / "whole", config)
    monkeypatch.setattr(blocks, "ladder_rungs", lambda _: (Rung("first"), Rung("again")))
    broken_losses(monkeypatch, failures=1)
    again = report_of(tmp_path / "again", config)
    assert [taken["step"] for taken in again[0]["ladder"]] == ["again"]
    assert again[0]["loss"] == whole[0]["loss"]


def test_gptq_says_which_damping_it_needed(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_folder, "rtn", rounding="gptq")
    factor = gptq._inverse_factor
    monkeypatch.setattr(
        gptq, "_inverse_factor", lambda H, damping: (factor(H, damping)[0], damping * 10)
    )
    for block in report_of(tmp_path, config):
        assert {taken["step"] for taken in block["ladder"]} == {"damping 0.1"}
        assert "self_attn.q_proj" in block["ladder"][0]["cause"]


def test_a_merged_weight_that_is_not_finite_stops_the_calibration(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_folder, "smoothquant")
    monkeypatch.setattr(
        "quantexp.quantization.smoothing.smoothing_scale",
        lambda x_max, *_: torch.full_like(x_max, float("nan")),
    )
    with pytest.raises(CalibrationError, match=r"block 0, self_attn\.q_proj: the merged weight"):
        report_of(tmp_path, config)


def test_the_ladder_begins_with_16_bit_products_only_where_a_method_has_them() -> None:
    assert rungs(autocast=True)[0].name == "autocast"
    assert rungs(autocast=False)[0].name == "float32"
