"""The embedded demo model: what it is, and that its outliers are planted harmlessly."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantexp.calibration import pydocs
from quantexp.models.demo import CHECKPOINT, plant_outliers
from quantexp.models.demo.train import evaluate, tokenize

RESULT = json.loads((CHECKPOINT / "train_result.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT).float().eval()


@pytest.fixture(scope="module")
def ids(tokenizer: Any) -> torch.Tensor:
    """Held-out token ids, shape (4, 256)."""
    return tokenize(tokenizer, pydocs.documents("heldout")[:40])[:1024].view(4, 256)


def test_files_are_small() -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (CHECKPOINT / name).is_file()
    assert (CHECKPOINT / "model.safetensors").stat().st_size <= 8_000_000
    assert all(
        w.dtype == torch.float16 for w in load_file(CHECKPOINT / "model.safetensors").values()
    )


def test_architecture(model: Any) -> None:
    config = model.config
    assert config.model_type == "llama"
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (256, 640, 4)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 32)
    assert (config.vocab_size, config.max_position_embeddings) == (2048, 512)
    assert config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_tokenizer_prepends_bos_once_and_round_trips(tokenizer: Any, model: Any) -> None:
    text = "Return  the\n\n    value, as ümlaut → UTF-8.\n"
    encoded = tokenizer(text).input_ids
    assert encoded.count(tokenizer.bos_token_id) == 1
    assert encoded[0] == tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.decode(encoded, skip_special_tokens=True) == text
    assert tokenizer(text, add_special_tokens=False).input_ids == encoded[1:]
    assert len(tokenizer) == model.config.vocab_size


def test_heldout_perplexity_is_what_the_result_says(model: Any, tokenizer: Any) -> None:
    loss = evaluate(model, tokenize(tokenizer, pydocs.documents("heldout"))[: 40 * 256])
    # Part of the text, and the text differs between Python versions: hence only about.
    assert loss == pytest.approx(torch.tensor(RESULT["heldout_perplexity"]).log().item(), rel=0.1)


def test_planted_channels_stand_out(model: Any, ids: torch.Tensor) -> None:
    inputs: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "gate_proj", "down_proj")):
            module.register_forward_pre_hook(
                lambda _, args, name=name: inputs.__setitem__(name, args[0].flatten(0, 1))
            )
    with torch.no_grad():
        model(ids)
    assert len(inputs) == 12
    for name, activation in inputs.items():
        magnitude = activation.abs().mean(0)
        assert magnitude.max() / magnitude.median() >= 8, name


def test_undoing_the_planting_changes_no_logits(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad():
        planted = model(ids).logits
        plant_outliers.undo(dict(model.named_parameters()), RESULT["planted"])
        undone = model(ids).logits
    torch.testing.assert_close(undone, planted, rtol=1e-5, atol=1e-5)


def test_planting_is_exact_in_float16() -> None:
    planted = load_file(CHECKPOINT / "model.safetensors")
    weights = {name: weight.clone() for name, weight in planted.items()}
    plant_outliers.undo(weights, RESULT["planted"])
    changed = {name for name in weights if not torch.equal(weights[name], planted[name])}
    assert len(changed) == 4 * 8  # two norms and six linears of each block; o_proj is not scaled
    plant_outliers.plant(weights, RESULT["planted"]["channels"], RESULT["planted"]["gain"])
    assert all(torch.equal(weights[name], planted[name]) for name in weights)


@pytest.mark.parametrize("gain", [3, 0, -2])
def test_only_powers_of_two_are_planted(gain: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        plant_outliers.plant({}, {}, gain)


def test_a_planted_checkpoint_is_not_planted_again() -> None:
    with pytest.raises(ValueError, match="already"):
        plant_outliers.plant_folder(CHECKPOINT)
