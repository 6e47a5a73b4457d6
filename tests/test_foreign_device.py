"""Nothing stays behind on the CPU: every method and model on a device that refuses to mix.

The device is the CPU under another name (``foreign_device.py``), so what no gradient decides is
equal bit by bit. It says nothing of a GPU's kernels, streams and memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from foreign_device import foreign
from helpers import (
    METHODS,
    calibrated,
    make_config,
    quick,
    silent,
    stored_blocks,
    streamed,
    windows,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantexp.config import ExperimentConfig
from quantexp.evaluation.block_error import block_errors
from quantexp.evaluation.perplexity import window_nll
from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.figures.flatness import measure
from quantexp.models.load import StreamedModel

TRAINED = ("omniquant", "flatquant")
BITS = (4, 4, 4, 4)


@pytest.fixture(autouse=True)
def one_attention() -> Iterator[None]:
    """The kernel that every device has."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def measured(config: ExperimentConfig, folder: Path, device: Any = None) -> tuple[Tensor, Tensor]:
    """Losses of windows, errors of blocks: calibrated, stored and rebuilt on a device."""
    model = streamed(config)
    model.device = device or model.device
    blocks = stored_blocks(model, config, calibrated(model, config, windows(), folder))
    nll = window_nll(model, blocks.__getitem__, windows(), silent)
    errors = block_errors(model, blocks.__getitem__, windows(), silent)
    return torch.tensor(nll), torch.tensor([error["mse"] for error in errors])


def check(config: ExperimentConfig, folder: Path) -> None:
    expected = measured(config, folder / "here")
    with foreign() as device:
        found = measured(config, folder / "there", device)
    # optimizers and autocast are others there, and one flipped integer changes what follows
    tolerance = 0.3 if config.method.name in TRAINED else 0.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str, tmp_path: Path) -> None:
    check(make_config(zoo.make("llama", tmp_path / "model"), method, BITS), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_methods_under_gptq(method: str, tmp_path: Path) -> None:
    path = zoo.make("llama", tmp_path / "model")
    check(make_config(path, method, BITS, rounding="gptq"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.TRANSFORMED)
def test_architectures(name: str, tmp_path: Path) -> None:
    path = zoo.make(name, tmp_path / "model")
    check(make_config(path, "rtn", BITS, rounding="gptq"), tmp_path)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("flatquant", {"options": quick("flatquant", precision="bf16", value_transform="online")}),
        ("flatquant", {"options": quick("flatquant", parametrization="direct", init="hadamard")}),
        ("omniquant", {"options": quick("omniquant", init="awq", aug_loss=True)}),
        ("smoothquant", {"options": {"alpha_grid": (0.3, 0.6)}}),
        ("rtn", {"tensors": {"activation": {"granularity": "per_tensor", "dynamic": False}}}),
        ("rtn", {"tensors": {"weight": {"group_size": 16, "clip_search": "grid"}}}),
        ("rtn", {"rounding": "gptq", "gptq": {"act_order": True}, "activations": "device"}),
    ],
)
def test_options(method: str, fields: dict[str, Any], tmp_path: Path) -> None:
    check(make_config(zoo.make("llama", tmp_path / "model"), method, BITS, **fields), tmp_path)


def test_flatness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "windows.json"
    text.write_text(f'{{"windows": {windows().tolist()}}}')
    config = make_config(
        zoo.make("llama", tmp_path / "model"),
        "smoothquant",
        BITS,
        data={"name": "local", "path": str(text)},
        evaluation={"name": "local", "perplexity": [{"name": "own", "path": str(text)}]},
        paths={"outputs": str(tmp_path / "outputs")},
    )
    cell = Cell(config)
    calibrate(cell, silent)
    expected = measure([cell], None, silent)
    with foreign() as device:
        build = StreamedModel.__init__

        def elsewhere(self: StreamedModel, *args: Any) -> None:
            build(self, *args)
            self.device = device

        monkeypatch.setattr(StreamedModel, "__init__", elsewhere)
        found = measure([cell], None, silent)
    assert found["mse"] == expected["mse"]


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    with foreign() as device:
        here, there = torch.ones(3), torch.ones(3, device=device)
        for mixed in (lambda: here + there, lambda: there.copy_(here) @ here):
            with pytest.raises(RuntimeError, match="two devices"):
                mixed()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device=device, generator=torch.Generator())
        assert there[torch.tensor([1])].cpu().tolist() == [1.0]
        assert (there * torch.tensor(2.0)).device == device
