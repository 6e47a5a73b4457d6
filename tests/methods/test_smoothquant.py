"""SmoothQuant: oracle O20, and where its scales go."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import calibrated, make_config, spy, streamed, tiny_llama, windows
from torch import Tensor

from quantexp.errors import ConfigError
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


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(path: Path, alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"method\.alpha=.*allowed 0 to 1"):
        make_config(path, "smoothquant", options={"alpha": alpha})
