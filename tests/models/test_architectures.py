"""Each architecture's table says what its model does, and every method runs by it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
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
from transformers import AutoModelForCausalLM

from quantexp.calibration.blocks import CalibrationBlock
from quantexp.errors import CalibrationError, ConfigError, DataError
from quantexp.experiment.cell import Cell
from quantexp.experiment.preflight import problems
from quantexp.methods.smoothquant import SmoothQuant
from quantexp.models.assemble import assemble
from quantexp.models.detect import architecture_of
from quantexp.models.source import find
from quantexp.quantization.block import QuantBlock

ALL = zoo.TRANSFORMED | zoo.REFUSED
TOKENS = windows()
MOVING = [m for m in METHODS if m != "rtn"]
# one of each kind by default; all of them with -m slow
QUICK = {
    "omniquant": ["qwen3", "gemma2", "phi3", "opt", "falcon-40b", "mixtral"],
    "flatquant": ["gemma3", "phi3", "opt", "falcon-7b", "qwen3-moe"],
    "awq": ["gemma2", "phi3", "opt", "falcon-7b", "mixtral"],
    "smoothquant": ["gemma2", "opt", "falcon-rw", "qwen3-moe"],
}
PAIRS = [
    pytest.param(name, method, marks=() if name in QUICK.get(method, ()) else pytest.mark.slow)
    for method in MOVING
    for name in zoo.TRANSFORMED
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("zoo")
    return {name: zoo.make(name, root / name) for name in ALL}


def options(path: Path, method: str) -> dict[str, Any]:
    """Without what an architecture refuses."""
    names = find(make_config(path).model).architecture
    if method == "omniquant" and (names.query_key_norm or names.partial_rope):
        return {"letqk": "off"}
    return {}


@pytest.mark.parametrize("name", ALL)
def test_the_pieces_are_the_model_of_transformers(name: str, folders: dict[str, Path]) -> None:
    model = streamed(make_config(folders[name], "none", (16, 16, 16, 16)))
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folders[name]).eval()(TOKENS).logits
    blocks = plain_blocks(model)
    assert deviation(logits(model, blocks, TOKENS), expected) < 1e-5
    bits = make_config(folders[name], "none", (16, 16, 16, 16)).bits
    for block in blocks:
        QuantBlock(block, model.source.architecture, bits)
    assert deviation(logits(model, blocks, TOKENS), expected) < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_the_weights_of_a_block_are_as_many_as_its_sizes_promise(
    name: str, folders: dict[str, Path]
) -> None:
    config = make_config(folders[name])
    model = streamed(config)
    plain = model.block(0, torch.float32)
    matrices = {n: p for n, p in plain.named_parameters() if p.dim() > 1 and n != "mlp.gate.weight"}
    quant = QuantBlock(plain, model.source.architecture, config.bits)
    found = sum(linear.weight.numel() for linear in quant.linears.values())
    assert found == model.source.shape.block_weights == sum(p.numel() for p in matrices.values())


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_o19_with_all_bits_at_16_the_function_is_preserved(
    name: str,
    method: str,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transparent(monkeypatch)
    path = folders[name]
    config = unrounded(path, method, **options(path, method))
    found = follow(monkeypatch, config, tmp_path, torch.float32, torch.float32)
    assert deviation(found.fitted, found.exact) < 1e-4
    assert deviation(found.merged, found.exact) < 1e-4
    assert deviation(found.stored, found.exact) < 1e-4


@pytest.mark.parametrize("name", ["opt", "qwen3"])
def test_o19_holds_for_shifts_whether_a_norm_has_a_bias_or_not(
    name: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transparent(monkeypatch)
    more = options(folders[name], "omniquant") | {"shift": True}
    config = unrounded(folders[name], "omniquant", **more)
    found = follow(monkeypatch, config, tmp_path, torch.float32, torch.float32)
    assert deviation(found.merged, found.exact) < 1e-4
    assert deviation(found.stored, found.exact) < 1e-4
    stored = calibrated(streamed(config), config, TOKENS, tmp_path).saved_block(0)
    assert stored is not None
    # a LayerNorm's bias takes the shift; an RMSNorm has none, and it stays online
    assert any(key.endswith(".shift") for key in stored[0]) == (name == "qwen3")


@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
@pytest.mark.parametrize("name", ALL)
def test_the_checkpoint_is_the_model_that_was_rounded(
    name: str, rounding: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(folders[name], "rtn", (4, 8, 4, 4), rounding=rounding)
    model = streamed(config)
    checkpoint = calibrated(model, config, TOKENS, tmp_path)
    blocks = stored_blocks(model, config, checkpoint)
    found = logits(model, blocks, TOKENS)
    again = logits(model, stored_blocks(model, config, checkpoint), TOKENS)
    assert torch.equal(found, again)
    exact = logits(model, plain_blocks(model), TOKENS)
    assert 0.01 < relative(found, exact) < 1
    for index in range(model.blocks):
        saved = checkpoint.saved_block(index)
        assert saved is not None
        packed = sum(t.numel() for key, t in saved[0].items() if key.endswith(".packed"))
        assert packed * 2 == model.source.shape.block_weights  # two integers of 4 bits in a byte
    whole = assemble(model, blocks.__getitem__)
    assert deviation(whole(TOKENS).logits, found) < 1e-5


@pytest.mark.parametrize("name", ["gemma2", "falcon-40b", "falcon-7b"])
def test_keys_values_and_queries_are_quantized_wherever_attention_is_computed(
    name: str, folders: dict[str, Path]
) -> None:
    model = streamed(config := make_config(folders[name]))
    exact = logits(model, plain_blocks(model), TOKENS)
    for tensor in ("key", "value", "query"):
        bits = make_config(folders[name], tensors={tensor: {"bits": 2}}).bits
        blocks = plain_blocks(model)
        for block in blocks:
            QuantBlock(block, model.source.architecture, bits)
        assert deviation(logits(model, blocks, TOKENS), exact) > 0.01, (tensor, config)


@pytest.mark.parametrize("name", ["phi3", "falcon-40b"])
def test_keys_of_a_fused_projection_are_quantized_before_rope_alone(
    name: str, folders: dict[str, Path]
) -> None:
    before = {"bits": 2, "granularity": "per_token_before_rope"}
    config = make_config(folders[name], tensors={"key": before})
    model = streamed(config)
    plain, block = model.block(0, torch.float32), model.block(0, torch.float32)
    quant = QuantBlock(block, model.source.architecture, config.bits)
    (fused,) = [f for f in model.source.architecture.fused if quant.architecture.key in f.linears]
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)).to(model.device)
    exact, found = plain.get_submodule(fused.path)(x), block.get_submodule(fused.path)(x)
    for part, ranges in fused.parts:
        index = [i for first, end in ranges for i in range(first, end)]
        same = torch.allclose(found[..., index], exact[..., index], atol=1e-5)
        assert same == (part != "k"), part


@pytest.mark.parametrize("name", zoo.REFUSED)
@pytest.mark.parametrize("method", MOVING)
def test_where_no_transform_is_defined_a_method_is_refused_by_name(
    name: str, method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    kind = zoo.REFUSED[name][0]
    config = make_config(folders[name], method, paths={"outputs": str(tmp_path)})
    (problem,) = [p for p in problems(Cell(config)) if p.startswith("method=")]
    assert f"method={method} with model_type {kind}" in problem
    assert "use method=rtn" in problem
    with pytest.raises(ConfigError, match=f"method={method} with model_type {kind}"):
        calibrated(streamed(config), config, TOKENS, tmp_path)


@pytest.mark.parametrize(
    ("name", "letqk", "reason"),
    [
        ("qwen3", "tied", "norms of queries and keys"),
        ("gemma3", "tied", "norms of queries and keys"),
        ("phi3-partial", "tied", "RoPE turns a part"),
    ],
)
def test_scales_between_queries_and_keys_are_refused_where_they_do_not_cancel(
    name: str, letqk: str, reason: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    def found(letqk: str) -> list[str]:
        config = make_config(
            folders[name], "omniquant", (4, 4, 4, 4), options={"letqk": letqk},
            paths={"outputs": str(tmp_path)},
        )  # fmt: skip
        return [p for p in problems(Cell(config)) if "letqk" in p]

    (problem,) = found(letqk)
    assert f"method.letqk={letqk}" in problem
    assert reason in problem
    assert "set method.letqk=off" in problem
    assert not found("off")


def test_a_scale_is_refused_where_nothing_lets_it_pass(folders: dict[str, Path]) -> None:
    from quantexp.quantization.transforms import Diagonal

    model = streamed(config := make_config(folders["falcon-7b"]))
    names = model.source.architecture
    quant = QuantBlock(model.block(0, torch.float32), names, config.bits)
    with pytest.raises(ConfigError, match="no scale at mlp_output: gelu stands before it"):
        quant.install("mlp_output", Diagonal(torch.ones(96)))
    with pytest.raises(ConfigError, match="no site 'mlp_input'"):
        quant.install("mlp_input", Diagonal(torch.ones(64)))


def test_what_stands_behind_a_relu_takes_positive_scales_only(folders: dict[str, Path]) -> None:
    from quantexp.quantization.transforms import Diagonal

    model = streamed(config := make_config(folders["opt"]))
    quant = QuantBlock(model.block(0, torch.float32), model.source.architecture, config.bits)
    quant.install("mlp_output", Diagonal(torch.linspace(-1, 1, 96)))
    with pytest.raises(CalibrationError, match="does not pass the ReLU"):
        quant.merge(torch.float32)


def test_an_unknown_decoder_is_used_and_named(folders: dict[str, Path]) -> None:
    source = find(make_config(folders["granite"]).model)
    assert source.architecture_name == "granite (as llama, by its tensors)"


def test_an_unknown_decoder_with_other_tensors_is_refused_with_the_first(tmp_path: Path) -> None:
    path = zoo.tiny_llama(tmp_path, "olmo2")
    with pytest.raises(ConfigError, match=r"block 0 has no 'input_layernorm\.weight'"):
        find(make_config(path).model)
    path = zoo.tiny_llama(tmp_path / "glm", "glm4", head_dim=16)
    with pytest.raises(ConfigError, match=r"block 0 has no 'mlp\.gate_proj\.weight'"):
        find(make_config(path).model)


def test_an_unknown_decoder_that_computes_attention_itself_is_refused(tmp_path: Path) -> None:
    """As remote code of 2023 does: quantizers of keys and values would never be called."""
    from transformers.models.granite.modeling_granite import GraniteAttention

    from quantexp.models.verify import check_detected

    class Written(GraniteAttention):
        def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
            return self.o_proj(self.q_proj(hidden_states)), None

    model = streamed(make_config(zoo.make("granite", tmp_path)))
    block = model.block(0, torch.float32)
    check_detected(block, model.source)
    block.self_attn.__class__ = Written
    with pytest.raises(DataError, match="self_attn computes attention by itself"):
        check_detected(block, model.source)


@pytest.mark.parametrize(("kind", "partial"), [("helium", True), ("stablelm", True), ("yi", False)])
def test_rope_that_config_json_does_not_tell_of(kind: str, partial: bool, tmp_path: Path) -> None:
    """Where it is another than Llama's, tied scales of queries and keys would not cancel."""
    config = {
        "model_type": kind, "architectures": [f"{kind}ForCausalLM"], "partial_rotary_factor": None,
        "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }  # fmt: skip
    if kind == "stablelm":
        del config["partial_rotary_factor"]
    files = find(make_config(tiny_llama(tmp_path)).model).weight_files
    assert architecture_of(config, files).partial_rope == partial


def test_an_unknown_decoder_whose_norm_adds_to_its_weight_is_refused(tmp_path: Path) -> None:
    path = zoo.tiny_llama(tmp_path, "gemma", head_dim=16, intermediate_size=96)
    with pytest.raises(DataError, match="input_layernorm does more with its weight"):
        streamed(make_config(path))


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_tokens_are_counted_per_expert_and_unseen_experts_are_an_explicit_choice(
    name: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = TOKENS[:1, :2]  # two tokens, two experts each, of four: one is never seen or hardly
    kinds: dict[str, Any] = {"rounding": "gptq"}
    config = make_config(folders[name], "rtn", **kinds)
    saved = calibrated(streamed(config), config, few, tmp_path / "few").saved_block(0)
    assert saved is not None
    report = saved[1]["gptq"]
    tokens = [report[f"mlp.experts.{i}.gate"]["tokens"] for i in range(4)]
    assert sum(tokens) == 2 * 2
    full = calibrated(streamed(config), config, TOKENS, tmp_path / "full").saved_block(0)
    assert full is not None
    assert sum(full[1]["gptq"][f"mlp.experts.{i}.down"]["tokens"] for i in range(4)) == 4 * 24 * 2
    one = calibrated(streamed(config), config, TOKENS[:1, :1], tmp_path / "one").saved_block(0)
    assert one is not None
    unseen = [k for k, v in one[1]["gptq"].items() if v.get("rounding") == "rtn"]
    assert len(unseen) == 2 * 3  # one token reaches two of the four experts
    assert "are rounded to nearest (gptq.unseen_experts=rtn)" in capsys.readouterr().out
    nearest = make_config(folders[name], "rtn")
    rounded = calibrated(streamed(nearest), nearest, None, tmp_path / "rtn").saved_block(0)
    assert rounded is not None
    for path in unseen:
        assert torch.equal(one[0][f"{path}.packed"], rounded[0][f"{path}.packed"])
    strict = make_config(folders[name], "rtn", gptq={"unseen_experts": "error"}, **kinds)
    with pytest.raises(CalibrationError, match=r"more windows .* gptq\.unseen_experts=rtn"):
        calibrated(streamed(strict), strict, TOKENS[:1, :1], tmp_path / "strict")


def test_an_option_about_experts_leaves_other_models_as_they_are(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def fingerprints(name: str) -> set[str]:
        policies, data = ("rtn", "error"), text(tmp_path)
        made = [
            make_config(folders[name], rounding="gptq", gptq={"unseen_experts": p}, data=data)
            for p in policies
        ]
        return {Cell(config).calibration for config in made}

    assert len(fingerprints("llama")) == 1
    assert len(fingerprints("mixtral")) == 2


def text(folder: Path) -> dict[str, Any]:
    """Calibration windows of a file of tokens: transformers gives some models its own tokenizer."""
    path = folder / "windows.json"
    path.write_text(json.dumps({"windows": windows(4, 16).tolist()}))
    return {"name": "local", "path": str(path), "num_samples": 2, "seq_len": 16}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_the_command_goes_from_a_folder_to_a_table(
    name: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from quantexp.__main__ import main

    path = text(tmp_path)["path"]
    arguments = (
        f"model=local model.path={folders[name]} method=rtn rounding=gptq bits=w4a4kv4 "
        f"data=local data.path={path} data.num_samples=4 data.seq_len=16 evaluation=local "
        f"evaluation.path={path} evaluation.seq_len=16 cluster=debug tracker=none "
        f"paths.outputs={tmp_path / 'outputs'}"
    )
    assert main(arguments.split()) == 0, capsys.readouterr()
    (report,) = (tmp_path / "outputs").glob("calibrations/*/report.json")
    kind = ALL[name][0]
    assert json.loads(report.read_text())["architecture"]["name"].startswith(kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_the_whole_way_from_a_configuration_to_a_record(
    name: str, method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from quantexp.experiment.calibrate import calibrate
    from quantexp.experiment.evaluate import evaluate

    path = folders[name]
    if name in zoo.REFUSED and method != "rtn":
        pytest.skip("refused by name, see above")
    config = make_config(
        path, method, (4, 4, 4, 4), options=quick(method, **options(path, method)),
        data=text(tmp_path),
        evaluation={"name": "local", "block_error_windows": 2, "perplexity": [
            {"name": "words", "path": str(tmp_path / "windows.json"), "seq_len": 16}]},
        paths={"outputs": str(tmp_path)},
    )  # fmt: skip
    cell = Cell(config)
    assert problems(cell) == []
    calibrate(cell, silent)
    for evaluation in cell.evaluations:
        evaluate(cell, evaluation, silent)
        assert cell.result(evaluation) is not None


def test_a_static_range_that_no_token_gave_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    static = {"activation": {"dynamic": False, "granularity": "per_tensor"}}
    config = make_config(folders["mixtral"], "rtn", (4, 8, 16, 16), tensors=static)
    with pytest.raises(CalibrationError, match=r"token reached mlp\.experts"):
        calibrated(streamed(config), config, TOKENS[:1, :1], tmp_path)


def test_a_configuration_without_its_sizes_is_refused_by_the_key(tmp_path: Path) -> None:
    path = zoo.make("phi3", tmp_path)
    config = json.loads((path / "config.json").read_text())
    del config["intermediate_size"]
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="'phi3' has no 'intermediate_size'"):
        find(make_config(path).model)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
@pytest.mark.parametrize("method", ["awq", "smoothquant", "omniquant", "flatquant"])
def test_transforms_of_a_mixture_lower_its_error(
    name: str, method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    more = {"epochs": 15} if method in ("omniquant", "flatquant") else {}
    chosen = quick(method, **more, **options(folders[name], method))
    bits = (3, 16, 16, 16) if method == "awq" else (4, 4, 16, 16)
    config = make_config(folders[name], method, bits, options=chosen)
    for report in calibrated(streamed(config), config, TOKENS, tmp_path).reports():
        assert report["error"]["method"] < report["error"]["rounded"]


def test_statistics_of_what_experts_read_are_of_all_tokens(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders["mixtral"], "smoothquant", (4, 4, 16, 16))
    seen: list[CalibrationBlock] = []
    spy(SmoothQuant, "fit", monkeypatch, lambda _, block: seen.append(block))
    calibrated(model := streamed(config), config, TOKENS, tmp_path)
    read: list[torch.Tensor] = []
    block = model.block(0, torch.float32)
    block.mlp.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    hidden(model, [block], TOKENS)
    for expert in range(4):
        for part in ("gate", "up"):
            found = seen[0].channel_max[f"mlp.experts.{expert}.{part}"]
            assert torch.equal(found, read[0].abs().flatten(0, 1).amax(0))


def test_a_shift_is_refused_where_a_router_reads(folders: dict[str, Path], tmp_path: Path) -> None:
    config = make_config(
        folders["mixtral"], "omniquant", (4, 4, 16, 16), options={"shift": True},
        paths={"outputs": str(tmp_path)},
    )  # fmt: skip
    (problem,) = [p for p in problems(Cell(config)) if "shift" in p]
    assert "method.shift=true with model_type mixtral: mlp.gate reads" in problem
    assert "set method.shift=false" in problem
