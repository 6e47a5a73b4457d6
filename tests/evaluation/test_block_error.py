"""The error of each block's output."""

import math
from pathlib import Path

import pytest
import torch
from helpers import (
    calibrated,
    hidden,
    make_config,
    plain_blocks,
    silent,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)

from quantexp.evaluation.block_error import block_errors

TOKENS = windows()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("error") / "model")


def test_errors_are_those_of_the_two_streams(path: Path, tmp_path: Path) -> None:
    config = make_config(path, bits=(4, 8, 16, 16))
    model = streamed(config)
    plain = plain_blocks(model)
    found = stored_blocks(model, config, calibrated(model, config, None, tmp_path))
    errors = block_errors(model, lambda i: found[i], TOKENS, silent)
    assert [e["block"] for e in errors] == [0, 1]
    for index, error in enumerate(errors):
        exact = hidden(model, plain[: index + 1], TOKENS).double()
        noise = hidden(model, found[: index + 1], TOKENS).double() - exact
        assert error["mse"] == pytest.approx(float(noise.square().mean()), rel=1e-4)
        ratio = exact.square().sum() / noise.square().sum()
        assert error["sqnr_db"] == pytest.approx(10 * math.log10(ratio), rel=1e-4)


def test_without_quantization_nothing_differs(path: Path) -> None:
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    plain = plain_blocks(model)
    for error in block_errors(model, lambda i: plain[i], TOKENS, silent):
        assert error["mse"] == 0
        assert error["sqnr_db"] == math.inf


def test_more_bits_have_less_error(path: Path, tmp_path: Path) -> None:
    last = []
    for bits in (2, 3, 4, 8):
        config = make_config(path, bits=(bits, 16, 16, 16))
        model = streamed(config)
        found = stored_blocks(model, config, calibrated(model, config, None, tmp_path / str(bits)))
        errors = block_errors(model, lambda i, f=found: f[i], TOKENS, silent)
        last.append(errors[-1]["sqnr_db"])
    assert last == sorted(last)
    assert torch.tensor(last).isfinite().all()
