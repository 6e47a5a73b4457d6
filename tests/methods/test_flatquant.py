"""FlatQuant: oracle O22, its parts, and what its checkpoint holds."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    calibrated,
    deviation,
    logits,
    make_config,
    plain_blocks,
    quick,
    relative,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)

from quantexp import registry
from quantexp.calibration import gradient
from quantexp.calibration.blocks import CalibrationBlock, calibrate_blocks
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.errors import ConfigError
from quantexp.experiment.cell import Cell
from quantexp.experiment.preflight import problems
from quantexp.quantization.clipping import LearnedClamp, LearnedRange
from quantexp.quantization.factors import make_factor
from quantexp.quantization.linear import QuantLinear, Siblings
from quantexp.quantization.transforms import Diagonal, Heads, Kronecker

TOKENS = windows()
SITES = ("attention_input", "attention_output", "mlp_input", "mlp_output")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flatquant") / "model"
    return tiny_llama(folder, attention_bias=True, mlp_bias=True)


def neutral(block: CalibrationBlock, *_: Any, **__: Any) -> list[float]:
    """Stands for the training: P stays the identity, c becomes 1, no clip is felt."""
    for module in block.quant.module.modules():
        if isinstance(module, LearnedClamp | LearnedRange):
            module.logits.data.fill_(30)
        if isinstance(module, Diagonal):
            module.scale.data.fill_(1)
    return [0.0]


@pytest.mark.parametrize("parametrization", ["svd", "direct"])
@pytest.mark.parametrize("bits", [(4, 4, 4, 4), (3, 16, 16, 16), (16, 4, 16, 16), (16, 16, 3, 3)])
@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
def test_o22_neutral_transforms_and_clips_are_plain_rounding(
    path: Path,
    tmp_path: Path,
    bits: tuple[int, int, int, int],
    rounding: str,
    parametrization: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if bits[0] == 16 and rounding == "gptq":
        pytest.skip("GPTQ rounds weights")
    monkeypatch.setattr(gradient, "fit_output", neutral)
    found = {}
    for method, options in (
        ("rtn", {}),
        ("flatquant", {"init": "identity", "parametrization": parametrization}),
    ):
        config = make_config(path, method, bits, options=options, rounding=rounding)
        model = streamed(config)
        checkpoint = calibrated(model, config, TOKENS, tmp_path / method)
        found[method] = logits(model, stored_blocks(model, config, checkpoint), TOKENS)
    assert relative(found["flatquant"], found["rtn"]) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"parametrization": "direct"},
        {"transform": False},
        {"per_channel_scaling": False},
        {"clipping": False},
        {"transform": False, "per_channel_scaling": False},
        {"init": "identity"},
        {"init": "hadamard"},
        {"init": "hadamard", "parametrization": "direct"},
        {"clipping_position": "before"},
        {"clipping_position": "before", "value_transform": "online"},
        {"value_transform": "online"},
        {"scale_init": "one"},
        {"kronecker_hidden": [4, 16], "kronecker_intermediate": [1, None]},
        {"precision": "bf16"},
        {"zero_point_gradient": True},
    ],
)
def test_each_ablation_trains_rounds_and_loads(
    path: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    if options.get("init") == "hadamard":  # 172 channels have no Hadamard factors
        path = tiny_llama(tmp_path / "model", intermediate_size=128)
    settings = quick("flatquant", epochs=6) | options
    config = make_config(path, "flatquant", (4, 4, 4, 4), options=settings)
    model = streamed(config)
    checkpoint = calibrated(model, config, windows(12, 48), tmp_path)
    saved = checkpoint.saved_block(0)
    assert saved is not None
    losses = saved[1]["loss"]
    assert losses[-1] < losses[0]
    exact = logits(model, plain_blocks(model), TOKENS)
    assert relative(logits(model, stored_blocks(model, config, checkpoint), TOKENS), exact) < 0.8


@pytest.mark.parametrize("bits", [(4, 4, 4, 4), (16, 16, 4, 4), (4, 16, 16, 16), (16, 16, 4, 16)])
def test_matrices_are_stored_where_figure_3_has_them(
    path: Path, tmp_path: Path, bits: tuple[int, int, int, int]
) -> None:
    config = make_config(path, "flatquant", bits)
    saved = calibrated(streamed(config), config, TOKENS, tmp_path).saved_block(0)
    assert saved is not None
    shapes = {k[7:]: tuple(v.shape) for k, v in saved[0].items() if k.startswith("online.")}
    expected = {}
    if min(bits[:2]) < 16:
        expected = {
            "attention_input.left": (8, 8), "attention_input.right": (8, 8),
            "attention_output.left": (4, 4),
            "mlp_input.left": (8, 8), "mlp_input.right": (8, 8),
            "mlp_output.left": (2, 2), "mlp_output.right": (86, 86),
        }  # fmt: skip
    if bits[2] < 16:
        expected |= {"key.right": (16, 16), "query.right": (16, 16)}
    assert shapes == expected


@pytest.mark.parametrize("bits", [(8, 8, 8, 8), (16, 16, 8, 8), (8, 16, 16, 16)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"value_transform": "online"},
        {"clipping_position": "before"},
        {"clipping_position": "before", "value_transform": "online"},
    ],
)
def test_o22_the_merged_block_computes_what_was_fitted(
    path: Path,
    tmp_path: Path,
    bits: tuple[int, int, int, int],
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def untrained(block: CalibrationBlock, *_: Any, **__: Any) -> list[float]:
        block.quant.refresh()
        with torch.no_grad():
            # streams are overwritten block by block
            inputs, targets = block.inputs.clone(), block.targets.clone()
            seen.append((inputs, block.forward(inputs), targets))
        return [0.0]

    monkeypatch.setattr(gradient, "fit_output", untrained)
    config = make_config(path, "flatquant", bits, options=options)
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    inputs, fitted, target = seen[0]
    block = stored_blocks(model, config, checkpoint)[0]
    with torch.no_grad():
        merged = block(inputs, **model.block_kwargs(TOKENS.shape[1], torch.float32)[0])
    # a sum rounded otherwise moves an 8-bit integer now and then
    assert relative(merged, fitted) < 5e-3
    if "clipping_position" not in options:
        assert relative(fitted, target) < 0.05


def test_values_are_turned_online_where_asked(path: Path, tmp_path: Path) -> None:
    options = quick("flatquant", value_transform="online", clipping_position="before")
    config = make_config(path, "flatquant", (16, 16, 4, 4), options=options)
    saved = calibrated(streamed(config), config, TOKENS, tmp_path).saved_block(0)
    assert saved is not None
    online = {k[7:]: tuple(v.shape) for k, v in saved[0].items() if k.startswith("online.")}
    assert online == {
        "key.right": (16, 16), "key.clip": (2,), "query.right": (16, 16),
        "value.right": (16, 16), "value.clip": (2,),
    }  # fmt: skip
    assert not any(name.startswith("clip.") for name in saved[0])


@torch.no_grad()
def test_a_clamp_before_the_transform_acts_on_the_weight_as_it_is(path: Path) -> None:
    config = make_config(path, "flatquant", (4, 4, 4, 4))
    linear = QuantLinear(streamed(config).block(0, torch.float32).self_attn.o_proj, config.bits)
    draw = torch.Generator().manual_seed(0)
    linear.site = Heads(None, make_factor(16, "svd", "random", draw))
    linear.clamp, linear.clamp_first = LearnedClamp(64), True
    linear.clamp.logits.fill_(0)
    expected = linear.site.weight_in(linear.clamp(linear.weight))
    assert torch.equal(linear.derived()[0], expected)


def test_weights_derived_together_are_those_derived_alone(path: Path) -> None:
    config = make_config(path, "flatquant", (4, 4, 4, 4))
    block = streamed(config).block(0, torch.float32)
    draw = torch.Generator().manual_seed(0)
    linears = [
        QuantLinear(getattr(block.self_attn, f"{name}_proj"), config.bits).cpu() for name in "qkv"
    ]
    site = Kronecker(*(make_factor(8, "svd", "random", draw) for _ in "ab"))
    for linear in linears:
        linear.site, linear.clamp = site, LearnedClamp(len(linear.weight))
    linears[2].heads = Heads(None, make_factor(16, "svd", "random", draw))
    together = Siblings(linears)
    for linear in linears:
        weight, bias = together.derived(linear)
        alone, own = linear.derived()
        # 1e-7 of difference moves a 4-bit integer that lies on an edge
        assert relative(weight, linear.weight_quantizer(alone)) < 0.01
        assert (bias is None) == (own is None)
        assert bias is None or relative(bias, own) < 1e-6


def test_training_beats_rounding_on_a_model_with_outliers(path: Path, tmp_path: Path) -> None:
    found = {}
    for method, options in (("rtn", {}), ("flatquant", quick("flatquant", epochs=8))):
        config = make_config(path, method, (4, 4, 4, 4), options=options)
        model = streamed(config)
        read = model.block

        def with_outliers(index: int, dtype: torch.dtype, read: Any = read) -> Any:
            block = read(index, dtype)
            block.input_layernorm.weight.data[:2] *= 30
            for name in ("q_proj", "k_proj", "v_proj"):
                getattr(block.self_attn, name).weight.data[:, :2] /= 30
            return block

        model.block = with_outliers  # type: ignore[method-assign]
        checkpoint = calibrated(model, config, TOKENS, tmp_path / method)
        exact = logits(model, plain_blocks(model), TOKENS)
        blocks = stored_blocks(model, config, checkpoint)
        found[method] = relative(logits(model, blocks, TOKENS), exact)
    assert found["flatquant"] < found["rtn"]


@pytest.mark.parametrize("parametrization", ["svd", "direct"])
def test_a_loss_that_is_not_finite_goes_down_the_ladder_with_block_and_epoch(
    path: Path, tmp_path: Path, parametrization: str
) -> None:
    options = {"lr": 1e30, "epochs": 3, "batch_size": 2, "parametrization": parametrization}
    config = make_config(path, "flatquant", (4, 4, 4, 4), options=options)
    checkpoint = calibrated(streamed(config), config, TOKENS, tmp_path)
    saved = checkpoint.saved_block(0)
    assert saved is not None
    taken = saved[1]["ladder"]
    assert [rung["step"] for rung in taken] == ["learning rate / 10", "initial parameters"]
    assert all(re.match(r"block 0, epoch \d of 3: ", rung["cause"]) for rung in taken)


@torch.no_grad()
def test_values_are_clamped_before_they_are_turned(path: Path) -> None:
    # section 5: input transform, clamp, and only then P_v on the rows of the value projection
    config = make_config(path, "flatquant", (4, 4, 4, 4))
    model = streamed(config)
    linear = QuantLinear(model.block(0, torch.float32).self_attn.v_proj, config.bits).cpu()
    draw = torch.Generator().manual_seed(0)
    linear.heads = Heads(None, make_factor(16, "svd", "random", draw))
    linear.clamp = LearnedClamp(32)
    linear.clamp.logits.fill_(0)
    clamped = linear.clamp(linear.weight).unflatten(0, (2, 16))
    P = linear.heads.right.matrix
    expected = torch.einsum("dk,hdc->hkc", P, clamped).flatten(0, 1)
    assert relative(linear.derived()[0], expected) < 1e-6


def test_losses_are_reported_while_fitting(path: Path, tmp_path: Path) -> None:
    config = make_config(path, "flatquant", (4, 4, 4, 4))
    model = streamed(config)
    method = registry.method("flatquant")(config.method.options)
    told: list[float] = []

    def progress(_: str, done: int, total: int, loss: float | None) -> None:
        if loss is not None:
            told.append(loss)

    report = calibrate_blocks(
        model, method, config, TOKENS, QuantizedCheckpoint(tmp_path), progress
    )
    assert told == [loss for block in report["blocks"] for loss in block["loss"]]


def test_a_last_batch_that_is_smaller_counts_by_its_windows(path: Path, tmp_path: Path) -> None:
    config = make_config(path, "flatquant", (4, 4, 4, 4), options=quick("flatquant", batch_size=3))
    saved = calibrated(streamed(config), config, TOKENS, tmp_path).saved_block(0)
    assert saved is not None
    assert all(loss > 0 for loss in saved[1]["loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"method\.epochs=0"),
        ({"lr": 0.0}, r"method\.lr=0"),
        ({"alpha": 2.0}, r"method\.alpha=2"),
        ({"parametrization": "svdd"}, "did you mean 'svd'"),
        ({"init": "randm"}, "did you mean 'random'"),
        ({"transform": False, "per_channel_scaling": False, "clipping": False}, "learns nothing"),
        ({"precision": "fp8"}, "fp32"),
        ({"clipping_position": "before", "transform": False}, "nothing to clip before"),
        ({"clipping_position": "before", "clipping": False}, "nothing to clip before"),
        ({"transform": False, "init": "hadamard"}, r"init=hadamard, but .*no matrices"),
        ({"transform": False, "value_transform": "online"}, "no P_v"),
        ({"per_channel_scaling": False, "scale_init": "one"}, "no scales"),
        ({"kronecker_hidden": [4]}, r"kronecker_hidden=\[4\] must be two sizes"),
        ({"kronecker_hidden": [None, None]}, "two sizes"),
    ],
)
def test_options_out_of_range_are_refused(
    path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(path, "flatquant", (4, 4, 4, 4), options=options)


@pytest.mark.parametrize(
    "tensors", [{"weight": {"clip_search": "grid"}}, {"activation": {"clip_ratio": 0.9}}]
)
def test_two_clips_of_the_same_tensor_are_refused(path: Path, tensors: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="clipped twice"):
        make_config(path, "flatquant", (4, 4, 4, 4), tensors=tensors)
    make_config(path, "flatquant", (4, 4, 4, 4), tensors=tensors, options={"clipping": False})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kronecker_hidden": [8, 9]}, r"hidden size 64: allowed \[8, 8\], \[4, 16\]"),
        ({"kronecker_intermediate": [3, None]}, "intermediate size 172"),
        ({"init": "hadamard"}, r"size 86 \(method.kronecker_intermediate, right\)"),
    ],
)
def test_factors_that_the_model_cannot_have_are_refused_before_any_work(
    path: Path, options: dict[str, Any], message: str
) -> None:
    cell = Cell(make_config(path, "flatquant", (4, 4, 4, 4), options=options))
    assert any(re.search(message, problem) for problem in problems(cell))


def test_only_random_matrices_are_seeded(path: Path) -> None:
    for options, seeded in (
        ({}, True),
        ({"init": "identity"}, False),
        ({"transform": False}, False),
    ):
        config = make_config(path, "flatquant", (4, 4, 4, 4), options=options)
        assert Cell(config).method.seeded is seeded


def test_float16_storage_costs_no_accuracy_by_itself(path: Path, tmp_path: Path) -> None:
    # the inverses undo the matrices as they are stored, see Factor.freeze
    errors = {}
    for dtype in (torch.float32, torch.float16):
        config = make_config(path, "flatquant", (16, 8, 16, 16))
        model = streamed(config)
        model.stored = dtype
        checkpoint = calibrated(model, config, TOKENS, tmp_path / str(dtype))
        found = logits(model, stored_blocks(model, config, checkpoint), TOKENS)
        errors[dtype] = deviation(found, logits(model, plain_blocks(model), TOKENS))
    assert errors[torch.float16] < 1.5 * errors[torch.float32] + 1e-2
