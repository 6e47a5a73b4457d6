"""Keys, values and queries: quantized after RoPE, with masks of padded batches intact."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    make_config,
    relative,
    streamed,
    tiny_llama,
    windows,
)
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from quantexp.config import ExperimentConfig
from quantexp.models.architectures import LLAMA
from quantexp.quantization import attention
from quantexp.quantization.attention import IMPLEMENTATION, register
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.factors import make_factor
from quantexp.quantization.quantizer import Quantizer
from quantexp.quantization.transforms import Kronecker


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("attention") / "model", attention_bias=True)


def quantized_model(config: ExperimentConfig) -> PreTrainedModel:
    """A whole transformers model whose blocks are wrapped; weights are not rounded."""
    register()
    model = AutoModelForCausalLM.from_pretrained(
        config.model.path, attn_implementation=IMPLEMENTATION
    ).eval()
    for layer in model.model.layers:
        QuantBlock(layer, LLAMA, config.bits)
    return model


@pytest.mark.parametrize("transform", [False, True])
@torch.no_grad()
def test_keys_and_queries_are_quantized_after_rope(path: Path, transform: bool) -> None:
    config = make_config(path, bits=(16, 16, 3, 3), tensors={"query": {"bits": 6}})
    model = streamed(config)
    plain = model.block(0, torch.float32)
    quant = QuantBlock(model.block(0, torch.float32), LLAMA, config.bits)
    P = torch.eye(16)
    if transform:
        factor = make_factor(16, "svd", "random", torch.Generator().manual_seed(0))
        quant.install_keys(Kronecker(None, factor.to(model.device)))
        quant.refresh()
        P = factor.matrix
    kwargs = model.block_kwargs(24, torch.float32)[0]
    x = model.embed(windows(), torch.float32).to(model.device)
    attention = plain.self_attn
    heads = [
        p(x).unflatten(-1, (-1, 16)).transpose(1, 2)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    ]
    q, k = apply_rotary_pos_emb(*heads[:2], *kwargs["position_embeddings"])
    q = Quantizer(config.bits.query)(q @ torch.linalg.inv(P).T)
    k = Quantizer(config.bits.key)(k @ P).repeat_interleave(2, 1)
    v = Quantizer(config.bits.value)(heads[2]).repeat_interleave(2, 1)
    scores = (q @ k.mT / 4).masked_fill(torch.ones(24, 24).triu(1).bool().to(x.device), -torch.inf)
    expected = attention.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    found = quant.module.self_attn(x, **kwargs)[0]
    assert relative(found, expected) < 1e-5
    before = plain.self_attn(x, **kwargs)[0]
    assert relative(found, before) > 0.02


@torch.no_grad()
def test_before_rope_keys_and_queries_are_quantized_as_their_projections_put_them_out(
    path: Path,
) -> None:
    scheme = {"granularity": "per_token_before_rope", "scheme": "symmetric"}
    value = {"granularity": "per_token", "scheme": "symmetric"}
    tensors = {"key": scheme, "value": value, "query": {"bits": 3, **scheme}}
    config = make_config(path, bits=(16, 16, 3, 3), tensors=tensors)
    model = streamed(config)
    plain = model.block(0, torch.float32)
    quant = QuantBlock(model.block(0, torch.float32), LLAMA, config.bits)

    def rounded(_: torch.nn.Module, __: object, out: Tensor) -> Tensor:
        scale = out.abs().amax(-1, keepdim=True) / 3
        return (out / scale).round() * scale

    for linear in (plain.self_attn.q_proj, plain.self_attn.k_proj, plain.self_attn.v_proj):
        linear.register_forward_hook(rounded)
    kwargs = model.block_kwargs(24, torch.float32)[0]
    x = model.embed(windows(), torch.float32).to(model.device)
    expected = plain.self_attn(x, **kwargs)[0]
    assert relative(quant.module.self_attn(x, **kwargs)[0], expected) < 1e-5
    with quant.bypass():
        assert relative(quant.module.self_attn(x, **kwargs)[0], expected) > 0.02


@pytest.mark.parametrize("bits", [(16, 16, 16, 16), (16, 8, 4, 4)])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_batch_gives_what_its_sequences_give_alone(
    path: Path, bits: tuple[int, int, int, int], side: str
) -> None:
    model = quantized_model(make_config(path, bits=bits))
    lengths = (20, 13, 7)
    alone = [windows(1, n, seed=n) for n in lengths]
    ids = torch.zeros(3, 20, dtype=torch.long)
    mask = torch.zeros(3, 20, dtype=torch.long)
    for row, tokens in enumerate(alone):
        n = tokens.shape[1]
        where = slice(20 - n, 20) if side == "left" else slice(0, n)
        ids[row, where], mask[row, where] = tokens[0], 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    together = model(ids, attention_mask=mask, position_ids=positions).logits
    assert torch.isfinite(together).all()
    for row, tokens in enumerate(alone):
        found = together[row][mask[row].bool()]
        torch.testing.assert_close(found, model(tokens).logits[0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_with_16_bits_it_is_the_attention_of_transformers(path: Path) -> None:
    tokens = windows()
    expected = AutoModelForCausalLM.from_pretrained(path).eval()(tokens).logits
    found = quantized_model(make_config(path, bits=(16, 16, 16, 16)))(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_repeated_heads_are_what_grouped_heads_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator has no good kernel for grouped heads in float32."""
    model = quantized_model(make_config(path, bits=(16, 16, 16, 16)))
    tokens = windows()[:2]
    with torch.no_grad():
        grouped = model(tokens).logits
        monkeypatch.setattr(attention, "_repeated", lambda query, key: True)
        repeated = model(tokens).logits
    assert relative(repeated, grouped) < 1e-6


def test_narrow_heads_are_padded_for_the_fit_without_a_trace(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = streamed(make_config(path, bits=(16, 16, 16, 16)))
    block = QuantBlock(model.block(0, torch.float32), LLAMA, make_config(path).bits)
    found = []
    for narrow in (16, 32):
        monkeypatch.setattr("quantexp.quantization.attention.NARROW", narrow)
        x = model.embed(windows(), torch.float32).to(model.device).requires_grad_()
        out = block.module(x, **model.block_kwargs(24, torch.float32)[0])
        out.square().sum().backward()
        found.append((out.detach(), x.grad))
    for one, other in zip(*found, strict=True):
        assert relative(one, other) < 1e-5


@torch.no_grad()
def test_decoding_with_a_cache_gives_what_one_pass_gives(path: Path) -> None:
    # the cache holds keys and values as they were: each is quantized alike at every step
    model = quantized_model(make_config(path, bits=(16, 16, 4, 4)))
    tokens = windows(2, 12)
    cache: Any = None
    steps: list[Tensor] = []
    for t in range(12):
        out = model(tokens[:, t : t + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        steps.append(out.logits)
    whole = model(tokens).logits
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-3, atol=1e-3)
