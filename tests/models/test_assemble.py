"""The whole model computes what the streamed blocks compute."""

from pathlib import Path

import pytest
import torch
from helpers import (
    METHODS,
    calibrated,
    logits,
    make_config,
    plain_blocks,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)

from quantexp.errors import DataError
from quantexp.models.assemble import assemble, placement
from quantexp.quantization.linear import QuantLinear


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_unquantized_model_is_the_streamed_one(kind: str, tied: bool, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "model", kind, tie_word_embeddings=tied)
    model = streamed(make_config(path))
    whole = assemble(model, lambda index: model.block(index, model.compute))
    assert torch.equal(whole(windows()).logits, logits(model, plain_blocks(model), windows()))


@pytest.mark.parametrize("method", METHODS)
def test_the_quantized_model_is_the_streamed_one(method: str, tmp_path: Path) -> None:
    model = streamed(config := make_config(tiny_llama(tmp_path / "model"), method, (4, 4, 4, 4)))
    blocks = stored_blocks(model, config, calibrated(model, config, windows(), tmp_path / "c"))
    expected = logits(model, blocks, windows())
    whole = assemble(model, blocks.__getitem__)
    assert torch.equal(whole(windows()).logits, expected)
    unquantized = logits(model, plain_blocks(model), windows())
    assert not torch.allclose(expected, unquantized, atol=0.1)
    # the integers would double the memory of a model that is whole
    assert all(m.integers is None for m in whole.modules() if isinstance(m, QuantLinear))


def test_a_stored_head_is_kept_apart_whatever_the_configuration_says(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "model", tie_word_embeddings=False)
    config = path / "config.json"
    config.write_text(
        config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    )
    model = streamed(make_config(path))
    whole = assemble(model, lambda index: model.block(index, model.compute))
    assert torch.equal(whole(windows()).logits, logits(model, plain_blocks(model), windows()))
    assert whole.lm_head.weight is not whole.model.embed_tokens.weight


@pytest.mark.filterwarnings("ignore")
def test_a_model_larger_than_a_device_is_cut_between_blocks(tmp_path: Path) -> None:
    model = streamed(make_config(tiny_llama(tmp_path / "model", num_hidden_layers=4)))
    one, two = 400_000, 10**9  # bytes; a block has 200,000
    devices = placement(model.skeleton(), model, {0: one, 1: two})
    assert {devices[f"model.layers.{i}"] for i in range(4)} == {0, 1}
    assert devices["model.layers.0"] == 0
    assert devices["model.layers.3"] == 1
    with pytest.raises(DataError, match="does not fit the memory that is free"):
        placement(model.skeleton(), model, {0: 1000, "cpu": 1000})
