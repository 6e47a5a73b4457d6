"""The streamed model is the model of transformers, piece by piece."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import deviation, logits, make_config, plain_blocks, streamed, tiny_llama, windows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quantexp.errors import ConfigError, DataError
from quantexp.models.source import find

TOKENS = windows()
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True, "intermediate_size": 176},
    "head_dim": {"head_dim": 24},
    "sharded": {"shard": "60KB"},
    "qwen2": {"kind": "qwen2"},
    "mistral": {"kind": "mistral", "sliding_window": 8},
    "scaled rope": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m", **MODELS[name])
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    assert deviation(logits(model, plain_blocks(model), TOKENS), reference(path)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_stored_dtype_is_that_of_the_files(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m", dtype=dtype)
    config = json.loads((path / "config.json").read_text()) | {"dtype": "float64"}
    (path / "config.json").write_text(json.dumps(config))  # what config.json claims is nothing
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    assert model.stored == dtype
    if not torch.cuda.is_available():
        assert model.compute == (torch.float32 if dtype == torch.float16 else dtype)


def test_nothing_but_the_piece_asked_for_is_in_memory(tmp_path: Path) -> None:
    model = streamed(make_config(tiny_llama(tmp_path / "m"), "none", (16, 16, 16, 16)))
    model.block(0, torch.float32)
    assert all(p.is_meta for p in model._meta.parameters())


def test_blocks_are_independent_copies(tmp_path: Path) -> None:
    model = streamed(make_config(tiny_llama(tmp_path / "m"), "none", (16, 16, 16, 16)))
    one = model.block(0, torch.float32)
    one.mlp.down_proj.weight.data.zero_()
    assert model.block(0, torch.float32).mlp.down_proj.weight.abs().sum() > 0


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    file = path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    model.block(0, torch.float32)
    with pytest.raises(DataError, match=r"lacks the tensor 'model\.layers\.1\.mlp\.up_proj"):
        model.block(1, torch.float32)


def test_an_untied_head_that_is_missing_is_not_replaced_by_the_embedding(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    file = path / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    with pytest.raises(DataError, match=r"lacks the tensor 'lm_head\.weight'"):
        model.head(torch.float32)


def test_a_broken_weight_file_is_named(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"model\.safetensors is no readable"):
        streamed(make_config(path, "none", (16, 16, 16, 16)))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"only pickled weights, pytorch_model\.bin"):
        find(make_config(path).model)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("quantization_config", {"quant_method": "fp8"}, "fp8"),
        ("compression_config", {"format": "int-quantized"}, "compression_config"),
        ("quantization", {"bits": 4}, "quantization"),
    ],
)
def test_a_checkpoint_that_is_quantized_already_is_refused(
    key: str, value: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    path = tiny_llama(tmp_path / "m")
    changed(path, **{key: value})
    with pytest.raises(ConfigError, match=rf"is quantized already \({kind}, .* 16 or 32 bits"):
        find(make_config(path).model)


def test_weights_of_8_bits_are_never_read_as_they_are(tmp_path: Path) -> None:
    """Whatever config.json says: their scales would be missing."""
    path = tiny_llama(tmp_path / "m")
    name, file = "model.layers.0.mlp.up_proj.weight", path / "model.safetensors"
    for dtype in (torch.float8_e4m3fn, torch.int8):
        tensors = load_file(file)
        tensors[name] = tensors[name].to(torch.float32).to(dtype)
        save_file(tensors, file, metadata={"format": "pt"})
        model = streamed(make_config(path, "none", (16, 16, 16, 16)))
        with pytest.raises(DataError, match=rf"up_proj\.weight is stored as {dtype}"):
            model.block(0, torch.float32)


def test_a_missing_shard_is_named_before_any_work(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m", shard="60KB")
    last = sorted(path.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(DataError, match=rf"lacks {last.name} \(1 of .* fetch it again"):
        find(make_config(path).model)


@pytest.mark.parametrize("shard", ["1GB", "60KB"])
def test_the_same_weights_again_in_another_file_are_nothing(shard: str, tmp_path: Path) -> None:
    """Mistral's repositories hold consolidated.safetensors too, which names tensors otherwise."""
    path = tiny_llama(tmp_path / "m", shard=shard)
    before = find(make_config(path).model)
    expected = before.content_hash, before.weight_files
    save_file({"tok_embeddings.weight": torch.zeros(2)}, path / "consolidated.safetensors")
    after = find(make_config(path).model)
    assert (after.content_hash, after.weight_files) == expected


def test_a_repositorys_code_is_for_models_that_transformers_lacks(tmp_path: Path) -> None:
    """Phi-3's and Falcon's config.json names files that a model with a table does not need."""
    path = tiny_llama(tmp_path / "m")
    changed(path, auto_map={"AutoConfig": "gone.Config", "AutoModelForCausalLM": "gone.Model"})
    chosen = {"name": "local", "source": "local", "path": str(path), "trust_remote_code": True}
    model = streamed(make_config(path, "none", (16, 16, 16, 16), model=chosen))
    assert deviation(logits(model, plain_blocks(model), TOKENS), reference(path)) < 1e-5


def changed(path: Path, **keys: Any) -> None:
    """Writes keys into a checkpoint's config.json."""
    config = json.loads((path / "config.json").read_text()) | keys
    (path / "config.json").write_text(json.dumps(config))


def reference(path: Path) -> torch.Tensor:
    """Logits of transformers."""
    with torch.no_grad():
        out: torch.Tensor = AutoModelForCausalLM.from_pretrained(path).eval()(TOKENS).logits
    return out


def test_an_unknown_architecture_is_refused_with_those_allowed(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    config = json.loads((path / "config.json").read_text()) | {"model_type": "mamba"}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"model_type 'mamba' .* allowed llama"):
        find(make_config(path).model)


def test_a_folder_without_tokenizer_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    with pytest.raises(DataError, match="holds no usable tokenizer"):
        streamed(make_config(path)).tokenizer()


def test_the_content_hash_follows_the_content_not_the_place(tmp_path: Path) -> None:
    one, same = (tiny_llama(tmp_path / n) for n in ("a", "b"))
    other = tiny_llama(tmp_path / "c", seed=1)
    found = [find(make_config(p).model).content_hash for p in (one, same, other)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_chosen_dtype_decides_every_number_of_the_baseline(dtype: str, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m")
    chosen = {"name": "local", "source": "local", "path": str(path), "dtype": dtype}
    model = streamed(make_config(path, "none", (16, 16, 16, 16), model=chosen))
    weight = model.block(0, model.compute).mlp.down_proj.weight
    assert torch.equal(weight, weight.to(model.stored).to(model.compute))


def test_before_and_behind_the_blocks_only_what_is_run_there_is_read(tmp_path: Path) -> None:
    model = streamed(make_config(tiny_llama(tmp_path / "m"), "none", (16, 16, 16, 16)))
    head = model.head(torch.float32)
    read = {name for name, p in head.named_parameters() if not p.is_meta}
    assert read == {"_model.model.norm.weight", "_model.lm_head.weight"}
    around = model._surroundings(torch.float32, model.device)
    around.inputs(TOKENS[:1])
    read = {name for name, p in around.named_parameters() if not p.is_meta}
    assert read == {"_model.model.embed_tokens.weight"}
