"""SmoothQuant: oracle O20, and where its scales go."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import calibrated, make_config, spy, streamed, tiny_llama, windows
from torch import Tensor

from quantexp import registry
from quantexp.errors import ConfigError
from quantexp.methods.smoothquant import SmoothQuantOptions
from quantexp.quantization.block import QuantBlock

TOKENS = windows()
READERS = {
    "attention_input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp_input": ("mlp.gate_proj", "mlp.up_proj"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("smoothquant") / "model")


def merged(
    path: Path, alpha: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Largest |x| and |w| of each channel in block 0 after smoothing, by site."""
    config = make_config(path, "smoothquant", (16, 16, 16, 16), options={"alpha": alpha})
    model = streamed(config)
    blocks: list[QuantBlock] = []
    spy(QuantBlock, "state", monkeypatch, lambda quant, _: blocks.append(quant))
    calibrated(model, config, TOKENS, folder)
    quant = blocks[0]
    inputs: dict[str, Tensor] = {}
    for site, paths in READERS.items():
        quant.linears[paths[0]].observer = lambda x, site=site: inputs.update({site: x})
    x = model.embed(TOKENS, torch.float32).to(model.device)
    quant.module(x, **model.block_kwargs(TOKENS.shape[1], torch.float32)[0])
    tops = {site: x.abs().flatten(0, 1).amax(0) for site, x in inputs.items()}
    weights = {
        site: torch.stack([quant.linears[p].weight.abs().amax(0) for p in paths]).amax(0)
        for site, paths in READERS.items()
    }
    return tops, weights


@pytest.mark.parametrize("site", list(READERS))
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_o20_alpha_moves_the_difficulty_between_activations_and_weights(
    path: Path, tmp_path: Path, alpha: float, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tops, weights = merged(path, alpha, tmp_path, monkeypatch)
    x, w = tops[site], weights[site]
    one = torch.ones_like(x)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}
    if alpha == 1:
        torch.testing.assert_close(x, one, **close)
    elif alpha == 0:
        torch.testing.assert_close(w, one, **close)
    else:
        torch.testing.assert_close(x, w, **close)


def test_output_and_down_projections_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    config = make_config(path, "smoothquant", (16, 16, 16, 16))
    model = streamed(config)
    saved = calibrated(model, config, TOKENS, tmp_path).saved_block(0)
    assert saved is not None
    original = model.block(0, torch.float32)
    for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        assert torch.equal(saved[0][name], original.get_parameter(name).cpu())
    assert not any(name.startswith("online") for name in saved[0])


GRID = [0.3, 0.5, 0.8]
W4A4 = (4, 4, 16, 16)


def test_the_grid_takes_the_alpha_of_least_block_error(path: Path, tmp_path: Path) -> None:
    config = make_config(path, "smoothquant", W4A4, options={"alpha_grid": GRID})
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path / "grid")
    for index in range(model.blocks):
        saved = checkpoint.saved_block(index)
        assert saved is not None
        tensors, report = saved
        errors = report["alpha_errors"]
        assert list(errors) == [str(a) for a in GRID]
        assert errors[str(report["alpha"])] == min(errors.values())
        # the block is the one of that alpha alone, whose error is the one that was searched
        alone = make_config(path, "smoothquant", W4A4, options={"alpha": report["alpha"]})
        other = calibrated(model, alone, TOKENS, tmp_path / str(report["alpha"]))
        single = other.saved_block(index)
        assert single is not None
        assert all(torch.equal(tensors[name], single[0][name]) for name in single[0])
    assert len(set(errors.values())) == len(GRID)


def test_a_grid_is_judged_under_the_cells_bits(path: Path, tmp_path: Path) -> None:
    found = []
    for bits in (W4A4, (4, 16, 16, 16)):
        config = make_config(path, "smoothquant", bits, options={"alpha_grid": GRID})
        method = registry.method("smoothquant")(config.method.options)
        assert method.uses_forward_bits
        saved = calibrated(streamed(config), config, TOKENS, tmp_path / str(bits[1]))
        block = saved.saved_block(0)
        assert block is not None
        found.append(block[1]["alpha_errors"])
    assert found[0] != found[1]
    assert not registry.method("smoothquant")(SmoothQuantOptions()).uses_forward_bits


def test_a_grid_without_anything_quantized_or_out_of_range_is_refused(path: Path) -> None:
    for bits, grid, said in [
        ((16, 16, 4, 4), GRID, "every alpha gives the same"),
        (W4A4, [0.5, 1.5], r"method\.alpha_grid\[1\]=1\.5.*0 to 1"),
    ]:
        with pytest.raises(ConfigError, match=said):
            make_config(path, "smoothquant", bits, options={"alpha_grid": grid})


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(path: Path, alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"method\.alpha=.*allowed 0 to 1"):
        make_config(path, "smoothquant", options={"alpha": alpha})
