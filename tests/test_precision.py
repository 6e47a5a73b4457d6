"""Float32 products on an accelerator: which are whose. What a flag says needs no accelerator."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers import calibrated, make_config, spy, streamed, tiny_llama, windows

from quantexp.checks import check
from quantexp.errors import ConfigError
from quantexp.experiment.cell import Cell
from quantexp.methods.awq import AWQ
from quantexp.precision import products
from quantexp.quantization import gptq
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.linear import QuantLinear

TOKENS = windows(4, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("precision") / "model")


class KilledError(Exception):
    """Anything that ends a calibration."""


def setting() -> str:
    return str(torch.backends.cuda.matmul.fp32_precision)


def test_it_ends_with_the_context() -> None:
    before = setting()
    with products("tf32"):
        with suppress(KilledError), products("float32"):
            assert setting() == "ieee"
            raise KilledError
        assert setting() == "tf32"
    assert setting() == before


@pytest.mark.parametrize("chosen", ["float32", "tf32"])
def test_passes_follow_the_configuration_statistics_and_factorizations_do_not(
    chosen: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "awq", (4, 8, 16, 16), rounding="gptq", products=chosen)
    passes: set[str] = set()
    searches: set[str] = set()
    exact: set[str] = set()
    spy(QuantLinear, "forward", monkeypatch, lambda *_: passes.add(setting()))
    spy(AWQ, "fit", monkeypatch, lambda *_: searches.add(setting()))
    spy(torch.Tensor, "addmm_", monkeypatch, lambda *_, **__: exact.add(setting()))
    spy(gptq, "_inverse_factor", monkeypatch, lambda *_: exact.add(setting()))
    before = setting()
    calibrated(streamed(config), config, TOKENS, tmp_path)
    assert passes == searches == {"ieee" if chosen == "float32" else "tf32"}
    assert exact == {"ieee"}
    assert setting() == before


def test_fits_have_an_option_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folder, "flatquant", (4, 4, 16, 16), products="tf32")
    seen: set[tuple[bool, str]] = set()
    spy(
        QuantBlock, "refresh", monkeypatch, lambda _: seen.add((torch.is_grad_enabled(), setting()))
    )
    calibrated(streamed(config), config, TOKENS, tmp_path)
    assert (True, "ieee") in seen
    assert (True, "tf32") not in seen


def test_it_is_another_calibration_and_the_default_is_as_before(folder: Path) -> None:
    usual, other = (
        Cell(make_config(folder, "awq", (4, 16, 16, 16), products=name))
        for name in ("float32", "tf32")
    )
    assert "products" not in usual.calibration_inputs
    assert other.calibration_inputs.pop("products") == "tf32"
    assert other.calibration_inputs == usual.calibration_inputs


def test_another_name_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"products.*bf16.*float32.*tf32"):
        check(make_config(folder, "rtn", (4, 16, 16, 16), products="bf16"))
