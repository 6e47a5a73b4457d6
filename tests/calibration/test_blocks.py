"""The block loop, for every method of the registry: oracles O19, O32, O33, O34, O35, and resuming.

A method of one's own is tested here without an edit, as soon as the registry knows it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    METHODS,
    calibrated,
    deviation,
    hidden,
    logits,
    make_config,
    plain_blocks,
    quick,
    relative,
    silent,
    spy,
    stored_blocks,
    streamed,
    tiny_llama,
    windows,
)
from preserved import follow, transparent, unrounded
from torch import Tensor, nn

from quantexp import registry
from quantexp.calibration import blocks
from quantexp.calibration.blocks import CalibrationBlock
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.calibration.passes import run
from quantexp.errors import CalibrationError, ConfigError
from quantexp.methods.base import Method
from quantexp.models.load import StreamedModel
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.gptq import Hessian
from quantexp.quantization.linear import QuantLinear
from quantexp.quantization.quantizer import Quantizer

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied-biases": {
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "intermediate_size": 176,
    },
    "qwen2": {"kind": "qwen2", "intermediate_size": 176},
    "mistral": {"kind": "mistral", "sliding_window": 8},
}
TOKENS = windows()
ROUNDINGS = ["rtn", "gptq"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_llama(root / name, **settings) for name, settings in MODELS.items()}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, norms too (transformers computes them in float32)."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.mistral.modeling_mistral import MistralRMSNorm
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def norm(self: Any, x: Tensor) -> Tensor:
        out: Tensor = self.weight * x * (x.square().mean(-1, True) + self.variance_epsilon).rsqrt()
        return out

    for cls in (LlamaRMSNorm, MistralRMSNorm, Qwen2RMSNorm):
        monkeypatch.setattr(cls, "forward", norm)
    monkeypatch.setattr(blocks, "FIT_DTYPE", torch.float64)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_o19_with_all_bits_at_16_the_function_is_preserved(
    method: str,
    model: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transparent(monkeypatch)
    config = unrounded(folders[model], method)
    found = follow(monkeypatch, config, tmp_path, torch.float32, torch.float32)
    assert deviation(found.fitted, found.exact) < 1e-4
    assert deviation(found.merged, found.exact) < 1e-4
    assert deviation(found.stored, found.exact) < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["llama", "llama-tied-biases", "qwen2"])
@pytest.mark.usefixtures("double")
def test_o19_in_float64_to_ten_digits(
    method: str,
    model: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transparent(monkeypatch)
    config = unrounded(folders[model], method)
    found = follow(monkeypatch, config, tmp_path, torch.float64, torch.float64)
    assert deviation(found.fitted, found.exact) < 1e-10
    assert deviation(found.merged, found.exact) < 1e-10
    assert deviation(found.stored, found.exact) < 1e-10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["llama", "llama-tied-biases"])
def test_o19_stored_in_float16(
    method: str,
    model: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transparent(monkeypatch)
    config = unrounded(folders[model], method)
    found = follow(monkeypatch, config, tmp_path, torch.float32, torch.float16)
    assert deviation(found.merged, found.exact) < 2e-2
    assert deviation(found.stored, found.exact) < 2e-2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("double")
def test_o22_the_merged_model_is_the_one_that_was_fitted(
    method: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in float64: float32 noise tips a value over a rounding border now and then
    config = make_config(folders["llama"], method, (4, 4, 4, 4))
    model = streamed(config)
    model.stored = torch.float64
    kwargs = model.block_kwargs(TOKENS.shape[1], torch.float64)
    x = model.embed(TOKENS, torch.float64)
    before = []

    def note(quant: QuantBlock, stored: torch.dtype) -> None:
        quant.start_fitting()  # also for a method that fits nothing by gradients
        with torch.no_grad():
            quant.refresh()
        before.append(run(quant.module, x, kwargs[len(before)], model.device))

    spy(QuantBlock, "merge", monkeypatch, note)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    rebuilt = stored_blocks(model, config, checkpoint, torch.float64)
    for expected, block, keywords in zip(before, rebuilt, kwargs, strict=True):
        assert relative(run(block, x, keywords, model.device), expected) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_o33_only_declared_parameters_change(
    method: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders["llama-tied-biases"], method, (4, 4, 4, 4))
    model = streamed(config)
    compared = 0

    def check(quant: QuantBlock, stored: torch.dtype) -> None:
        nonlocal compared
        original = dict(model.block(compared, torch.float32).named_parameters())
        own = {n.replace(".norm.", "."): p for n, p in quant.module.named_parameters()}
        for name, parameter in original.items():
            assert torch.equal(own[name].cpu(), parameter.cpu()), name
            assert not own[name].requires_grad, name
        compared += 1

    spy(QuantBlock, "merge", monkeypatch, check)
    calibrated(model, config, TOKENS, tmp_path)
    assert compared == model.blocks


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "blocks").glob("*.safetensors"))}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("method", METHODS)
def test_o34_the_same_seed_gives_identical_bytes(
    method: str, rounding: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(folders["llama"], method, (4, 4, 4, 4), rounding=rounding)
    found = []
    for attempt in ("a", "b"):
        torch.manual_seed(len(found))  # the global generator decides nothing
        calibrated(streamed(config), config, TOKENS, tmp_path / attempt)
        found.append(contents(tmp_path / attempt))
    assert len(found[0]) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_matters_exactly_where_the_method_says_so(
    method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    found = []
    for seed in (0, 1):
        config = make_config(folders["llama"], method, (4, 4, 4, 4), seed=seed)
        calibrated(streamed(config), config, TOKENS, tmp_path / str(seed))
        found.append(contents(tmp_path / str(seed)))
    assert (found[0] != found[1]) == registry.method(method)(config.method.options).seeded


@pytest.mark.parametrize("method", METHODS)
def test_forward_bits_matter_only_where_the_method_says_so(
    method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    # cells that differ in them share a checkpoint, so it must not depend on them
    options = make_config(folders["llama"], method).method.options
    if registry.method(method)(options).uses_forward_bits:
        pytest.skip("it says so")
    found = []
    for bits in ((4, 16, 16, 16), (4, 4, 4, 4)):
        config = make_config(folders["llama"], method, bits)
        folder = tmp_path / config.bits.label
        calibrated(streamed(config), config, TOKENS, folder)
        found.append(contents(folder))
    assert found[0] == found[1]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("static", [False, True])
def test_o34_what_was_saved_loads_as_exactly_the_same_block(
    method: str,
    rounding: str,
    static: bool,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = {"activation": {"granularity": "per_tensor", "dynamic": False}} if static else {}
    config = make_config(
        folders["llama-tied-biases"], method, (3, 8, 4, 4), rounding=rounding, tensors=tensors
    )
    model = streamed(config)
    kwargs = model.block_kwargs(TOKENS.shape[1], torch.float32)
    x = model.embed(TOKENS, torch.float32)
    saved: list[Tensor] = []

    def note(quant: QuantBlock, stored: torch.dtype) -> None:
        saved.append(run(quant.module, x, kwargs[len(saved)], model.device))

    spy(QuantBlock, "state", monkeypatch, note)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    rebuilt = stored_blocks(model, config, checkpoint)
    for expected, block, keywords in zip(saved, rebuilt, kwargs, strict=True):
        assert torch.equal(run(block, x, keywords, model.device), expected)


def test_groups_in_act_order_survive_the_checkpoint(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        folders["llama"],
        rounding="gptq",
        gptq={"act_order": True},
        tensors={"weight": {"group_size": 4}},
    )
    weights: list[Tensor] = []

    def note(quant: QuantBlock, stored: torch.dtype) -> None:
        weights.extend(linear.weight.data.clone() for linear in quant.linears.values())

    spy(QuantBlock, "state", monkeypatch, note)
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    loaded = [
        module.weight
        for block in stored_blocks(model, config, checkpoint)
        for module in block.modules()
        if isinstance(module, QuantLinear)
    ]
    saved = checkpoint.saved_block(0)
    assert saved is not None
    assert "self_attn.q_proj.group_index" in saved[0]
    assert len(loaded) == len(weights)
    for found, expected in zip(loaded, weights, strict=True):
        assert torch.equal(found, expected)


class KilledError(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["after a block", "while saving", "truncated", "first lost"])
def test_an_interrupted_calibration_ends_as_an_unbroken_one(
    method: str, rounding: str, how: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(folders["llama"], method, (4, 4, 4, 4), rounding=rounding)
    calibrated(streamed(config), config, TOKENS, tmp_path / "unbroken")

    def stop(_: str, done: int, total: int, loss: float | None) -> None:
        if done == 1:
            raise KilledError

    folder = tmp_path / "broken"
    checkpoint = QuantizedCheckpoint(folder)
    fitter = registry.method(method)(config.method.options)
    with pytest.raises(KilledError):
        blocks.calibrate_blocks(streamed(config), fitter, config, TOKENS, checkpoint, stop)
    assert list(contents(folder)) == ["00000.safetensors"]
    first = folder / "blocks" / "00000.safetensors"
    if how == "while saving":
        first.rename(first.with_suffix(".tmp"))
    elif how == "truncated":
        first.write_bytes(first.read_bytes()[:-3])
    elif how == "first lost":
        calibrated(streamed(config), config, TOKENS, folder)
        first.unlink()
    calibrated(streamed(config), config, TOKENS, folder)
    assert contents(folder) == contents(tmp_path / "unbroken")


def test_blocks_that_are_there_are_not_fitted_again(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders["llama"], "flatquant", (4, 4, 4, 4))
    calibrated(streamed(config), config, TOKENS, tmp_path)

    def refuse(*_: Any) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(registry.method("flatquant"), "fit", refuse)
    calibrated(streamed(config), config, TOKENS, tmp_path)


class Reader(Method):
    """Notes what the loop offers a method."""

    streams = ("fp",)

    def __init__(self) -> None:
        super().__init__(None)
        self.seen: list[CalibrationBlock] = []

    def fit(self, block: CalibrationBlock) -> dict[str, Any]:
        # the loop overwrites its streams
        block.inputs, block.targets = block.inputs.clone(), block.targets.clone()
        self.seen.append(block)
        return {}


def test_o35_fp_inputs_and_targets_are_those_of_the_unquantized_prefix(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(folders["llama"], "rtn", (2, 16, 16, 16))
    model, reader = streamed(config), Reader()
    blocks.calibrate_blocks(model, reader, config, TOKENS, QuantizedCheckpoint(tmp_path), silent)
    plain = plain_blocks(model)
    for index, seen in enumerate(reader.seen):
        assert torch.equal(seen.inputs, hidden(model, plain[:index], TOKENS))
        assert torch.equal(seen.targets, hidden(model, plain[: index + 1], TOKENS))


def test_channel_maxima_are_those_of_each_linears_inputs(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(folders["llama"], "rtn", (2, 16, 16, 16))
    model, reader = streamed(config), Reader()
    blocks.calibrate_blocks(model, reader, config, TOKENS, QuantizedCheckpoint(tmp_path), silent)
    block = model.block(1, torch.float32)
    kwargs = model.block_kwargs(TOKENS.shape[1], torch.float32)[1]
    for path, found in reader.seen[1].channel_max.items():
        inputs: list[Tensor] = []
        hook = block.get_submodule(path).register_forward_pre_hook(
            lambda _, args, inputs=inputs: inputs.append(args[0])
        )
        block(reader.seen[1].inputs.to(model.device), **kwargs)
        hook.remove()
        assert torch.equal(found, inputs[0].abs().flatten(0, 1).amax(0))


@pytest.mark.parametrize("method", METHODS)
def test_o35_gptq_reads_the_stream_of_the_quantized_prefix(
    method: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders["llama"], method, (2, 16, 16, 16), rounding="gptq")
    model = streamed(config)
    seen: list[Tensor] = []

    def note(loop: Any, index: int) -> None:
        assert len(seen) == index
        seen.append(loop.quantized.clone())

    spy(blocks._Loop, "_fit", monkeypatch, note)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    rebuilt = stored_blocks(model, config, checkpoint)
    for index, found in enumerate(seen):
        assert torch.equal(found, hidden(model, rebuilt[:index], TOKENS))


def test_gptqs_hessians_are_those_of_quantized_inputs(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders["llama"], "rtn", (4, 2, 16, 16), rounding="gptq")
    levels: list[int] = []

    def note(_: Hessian, x: Tensor) -> None:
        levels.extend(len(token.unique()) for token in x.flatten(0, 1))

    spy(Hessian, "add", monkeypatch, note)
    calibrated(streamed(config), config, TOKENS, tmp_path)
    assert len(levels) == 2 * 4 * TOKENS.numel()  # blocks; q, k and v share one, as gate and up do
    assert max(levels) <= 4


def test_each_block_draws_from_its_own_seed(folders: dict[str, Path], tmp_path: Path) -> None:
    # so that a resumed run draws what an unbroken one would have drawn
    found = []
    for seed in (0, 1):
        config = make_config(folders["llama"], "rtn", (4, 16, 16, 16), seed=seed)
        model, reader = streamed(config), Reader()
        checkpoint = QuantizedCheckpoint(tmp_path / str(seed))
        blocks.calibrate_blocks(model, reader, config, TOKENS, checkpoint, silent)
        found += [seen.generator.initial_seed() for seen in reader.seen]
    assert len(set(found)) == 4


@pytest.mark.parametrize("sequential", [True, False])
def test_true_sequential_reads_the_errors_of_earlier_linears(
    sequential: bool, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(
        folders["llama"], bits=(2, 16, 16, 16), rounding="gptq",
        gptq={"true_sequential": sequential},
    )  # fmt: skip
    rounded: list[set[str]] = []

    def note(linear: QuantLinear, x: Tensor) -> None:
        if linear.observer is not None:
            rounded.append({p for p, m in current[0].linears.items() if m.integers is not None})

    current: list[QuantBlock] = []
    spy(QuantBlock, "merge", monkeypatch, lambda quant, _: current.insert(0, quant))
    spy(QuantLinear, "forward", monkeypatch, note)
    calibrated(streamed(config), config, TOKENS, tmp_path)
    counts = [len(r) for r in rounded]
    assert counts == ([0, 3, 4, 6] if sequential else [0] * 4) * 2


@pytest.mark.parametrize("method", METHODS)
def test_o32_fitting_lowers_the_loss(method: str, folders: dict[str, Path], tmp_path: Path) -> None:
    options = quick(method)
    if "epochs" not in options:
        pytest.skip("nothing is trained")
    config = make_config(folders["llama"], method, (4, 4, 4, 4), options=options | {"epochs": 6})
    checkpoint = calibrated(streamed(config), config, windows(12, 48), tmp_path)
    for index in range(2):
        saved = checkpoint.saved_block(index)
        assert saved is not None
        losses = saved[1]["loss"]
        assert len(losses) == 6
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("method", METHODS)
def test_static_activations_use_the_range_of_the_calibration_windows(
    method: str, scheme: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    static = {"granularity": "per_tensor", "dynamic": False, "scheme": scheme}
    tensors = dict.fromkeys(("activation", "key", "value"), static)
    try:
        config = make_config(folders["llama"], method, (16, 8, 8, 8), tensors=tensors)
    except ConfigError:  # the method is about weights
        config = make_config(folders["llama"], method, (8, 8, 8, 8), tensors=tensors)
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    found = stored_blocks(model, config, checkpoint)
    exact = logits(model, plain_blocks(model), TOKENS)
    assert relative(logits(model, found, TOKENS), exact) < 0.1
    # a token alone sees the stored range, not its own: results do not depend on the batch
    together, alone = logits(model, found, TOKENS), logits(model, found, TOKENS[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)
    for name, quantizer in _quantizers(found[0]):
        assert quantizer.low is not None, name
        assert quantizer.low < quantizer.high, name


def _quantizers(block: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    for name, module in block.named_modules():
        forward = isinstance(module, Quantizer) and not name.endswith("weight_quantizer")
        if forward and module.active and not module.spec.dynamic:
            yield name, module


def test_static_ranges_are_the_extremes_of_what_the_quantizer_meets(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    static = {"granularity": "per_tensor", "dynamic": False}
    config = make_config(folders["llama"], bits=(16, 8, 16, 16), tensors={"activation": static})
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    plain = model.block(0, torch.float32)
    normed = plain.input_layernorm(model.embed(TOKENS, torch.float32).to(model.device))
    quantizer = stored_blocks(model, config, checkpoint)[0].self_attn.q_proj.input_quantizer
    assert float(quantizer.low) == float(normed.min())
    assert float(quantizer.high) == float(normed.max())


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("method", METHODS)
def test_groups_of_weights_are_stored_with_a_scale_each(
    method: str, rounding: str, tmp_path: Path
) -> None:
    path = tiny_llama(tmp_path / "m", intermediate_size=176)
    config = make_config(
        path, method, (3, 16, 16, 16), rounding=rounding,
        tensors={"weight": {"group_size": 16, "scheme": "asymmetric"}},
    )  # fmt: skip
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path / "c")
    saved = checkpoint.saved_block(0)
    assert saved is not None
    assert saved[0]["mlp.down_proj.scale"].shape == (64, 11)
    assert saved[0]["mlp.down_proj.zero"].shape == (64, 11)
    exact = logits(model, plain_blocks(model), TOKENS)
    assert relative(logits(model, stored_blocks(model, config, checkpoint), TOKENS), exact) < 0.8


def test_outputs_that_are_not_finite_are_refused_with_the_block(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders["llama"], "smoothquant", (4, 16, 16, 16))
    model = streamed(config)
    read: Callable[..., nn.Module] = model.block

    def broken(index: int, dtype: torch.dtype) -> nn.Module:
        block = read(index, dtype)
        if index == 1:
            block.mlp.down_proj.weight.data[0, 0] = torch.inf
        return block

    monkeypatch.setattr(StreamedModel, "block", lambda self, *a: broken(*a))
    with pytest.raises(CalibrationError, match="block 1: the unquantized model's own outputs"):
        calibrated(model, config, TOKENS, tmp_path)
