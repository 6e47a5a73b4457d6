"""Perplexity by the papers' protocol, against transformers itself."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    calibrated,
    make_config,
    plain_blocks,
    silent,
    stored_blocks,
    streamed,
    tiny_llama,
    tokenizer,
    windows,
)
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from quantexp.evaluation import perplexity as module
from quantexp.evaluation.perplexity import details, perplexity, window_nll

TOKENS = windows(5, 32)


@pytest.fixture(
    scope="module", params=[{}, {"tie_word_embeddings": True}, {"kind": "qwen2"}], ids=str
)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("ppl") / "model", **request.param)


@pytest.mark.parametrize("budget", [1 << 29, 1])
def test_streamed_perplexity_is_that_of_the_whole_model(
    path: Path, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGITS", budget)  # all windows at once, or one by one
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(path).eval()(TOKENS).logits
    total = cross_entropy(logits[:, :-1].flatten(0, 1).double(), TOKENS[:, 1:].flatten())
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    blocks = plain_blocks(model)
    nll = window_nll(model, lambda i: blocks[i], TOKENS, silent)
    assert len(nll) == 5
    assert perplexity(nll, 31) == pytest.approx(math.exp(total), rel=1e-5)


def test_a_checkpoint_of_16_bits_measures_like_the_model(path: Path, tmp_path: Path) -> None:
    config = make_config(path, "rtn", (16, 16, 16, 16))
    model = streamed(config)
    found = stored_blocks(model, config, calibrated(model, config, None, tmp_path))
    plain = plain_blocks(model)
    exact, quantized = (
        window_nll(model, lambda i, b=b: b[i], TOKENS, silent) for b in (plain, found)
    )
    assert quantized == exact


def test_each_window_is_scored_alone(path: Path) -> None:
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    blocks = plain_blocks(model)

    def nll(tokens: torch.Tensor) -> list[float]:
        return window_nll(model, lambda i: blocks[i], tokens, silent)

    together = nll(TOKENS)
    alone = [nll(TOKENS[i : i + 1])[0] for i in range(5)]
    assert together == pytest.approx(alone, rel=1e-5)


def test_progress_tells_every_block(path: Path) -> None:
    model = streamed(make_config(path, "none", (16, 16, 16, 16)))
    told: list[int] = []
    window_nll(model, lambda i: model.block(i, torch.float32), TOKENS, told.append)
    assert told == [0, 1, 2]


def test_perplexity_is_the_exponential_of_the_mean_over_predictions() -> None:
    assert perplexity([31 * 2.0, 31 * 4.0], 31) == pytest.approx(math.exp(3))
    assert perplexity([1e6], 1) == math.inf
    assert math.isnan(perplexity([math.nan, 1.0], 1))


@pytest.mark.parametrize(("first", "bos"), [(1, "once, at the start"), (5, "none")])
def test_details_name_the_protocol(first: int, bos: str) -> None:
    tokens = TOKENS.clone()
    tokens[0, 0] = first
    found: dict[str, Any] = details(tokens, [1.0] * 5, tokenizer())
    assert found["bos"] == bos
    assert (found["seq_len"], found["stride"], found["windows"]) == (32, 32, 5)
    assert found["predictions"] == 5 * 31
