"""Tiny random models and configurations without Hydra, for tests of the numerical core."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantexp import registry
from quantexp.calibration import passes
from quantexp.calibration.blocks import calibrate_blocks, rebuild
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.calibration.passes import run
from quantexp.config import ExperimentConfig, TensorQuantization, from_plain
from quantexp.models.load import StreamedModel
from quantexp.models.source import find

REFERENCE = os.environ.get("QUANTEXP_REFERENCE_DATA")
VOCABULARY = 96
METHODS = [name for name in registry.method_names() if name != "none"]


def silent(*_: Any) -> None:
    """A progress that tells nobody."""


def tiny_llama(
    path: Path,
    kind: str = "llama",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    shard: str = "1GB",
    **overrides: Any,
) -> Path:
    """Saves a random model with GQA (4 heads, 2 KV heads) and a tokenizer of words with a BOS.

    Biases, where ``overrides`` ask for them, and norms are random as well: a test must not pass
    because something is zero or one.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings | overrides))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            middle = 0.0 if name.endswith("bias") else 1.0
            parameter.data = middle + 0.3 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(path, max_shard_size=shard)
    tokenizer().save_pretrained(path)
    return path


def tokenizer() -> Any:
    """Words w3 … w95 are token ids 3 … 95; a text begins with one BOS, id 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCABULARY))]
    core = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def words(count: int, seed: int = 0) -> str:
    """A text of ``count`` tokens for :func:`tokenizer`, its BOS not counted."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(count))


def windows(count: int = 4, length: int = 24, seed: int = 0) -> Tensor:
    """Random token ids (B, T)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count, length), generator=generator)


def make_config(
    path: Path | str,
    method: str = "rtn",
    bits: tuple[int, int, int, int] = (4, 16, 16, 16),
    *,
    options: dict[str, Any] | None = None,
    tensors: dict[str, dict[str, Any]] | None = None,
    **fields_: Any,
) -> ExperimentConfig:
    """A configuration for a model folder.

    Args:
        path: The model.
        method: Its name.
        bits: Of weights, linear inputs, keys and values; queries stay at 16.
        options: The method's own; :func:`quick` makes learned methods short.
        tensors: Changes of ``bits.<tensor>``, by tensor.
        fields_: Further fields of the experiment (``rounding``, ``gptq``, ``seed``, …).
    """
    w, a, k, v = bits
    found = {
        "weight": {"bits": w, "granularity": "per_channel", "dynamic": False},
        "activation": {"bits": a, "granularity": "per_token"},
        **{
            name: {"bits": b, "granularity": "per_head", "scheme": "asymmetric"}
            for name, b in (("key", k), ("value", v), ("query", 16))
        },
    }
    for name, changes in (tensors or {}).items():
        found[name] |= changes
    data = {
        "model": {"name": "local", "source": "local", "path": str(path)},
        "method": {"name": method, **(quick(method) if options is None else options)},
        "bits": found,
        "data": {"name": "none", "corpus": "pydocs"},
        "evaluation": {"name": "none"},
        "protocol": {"name": "uniform"},
        "cluster": {"name": "local"},
        "tracker": {"name": "none", "mode": "disabled"},
        **fields_,
    }
    return from_plain(data)


def quick(method: str, **options: Any) -> dict[str, Any]:
    """Options that make a learned method fit in a few steps; empty for the others."""
    short = {"epochs": 2, "batch_size": 2}
    names = {f.name for f in fields(registry.method(method).Options)}
    return {k: v for k, v in short.items() if k in names} | options


def streamed(config: ExperimentConfig) -> StreamedModel:
    """The model of a configuration."""
    return StreamedModel(find(config.model), config.model)


def calibrated(
    model: StreamedModel, config: ExperimentConfig, tokens: Tensor | None, folder: Path
) -> QuantizedCheckpoint:
    """The block loop on a model; its blocks lie in ``folder``, not yet consolidated."""
    method = registry.method(config.method.name)(config.method.options)
    checkpoint = QuantizedCheckpoint(folder)
    calibrate_blocks(model, method, config, tokens, checkpoint, silent)
    return checkpoint


def stored_blocks(
    model: StreamedModel,
    config: ExperimentConfig,
    checkpoint: QuantizedCheckpoint,
    dtype: torch.dtype = torch.float32,
) -> list[nn.Module]:
    """All blocks, rebuilt from what is on disk."""
    found = []
    for index in range(model.blocks):
        saved = checkpoint.saved_block(index)
        assert saved is not None
        found.append(rebuild(model, saved[0], index, config, dtype).module)
    return found


def plain_blocks(model: StreamedModel, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    """All blocks of the unquantized model."""
    return [model.block(index, dtype) for index in range(model.blocks)]


def hidden(
    model: StreamedModel,
    blocks: Iterable[nn.Module],
    tokens: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Output (B, T, C) of the last of ``blocks``."""
    kwargs = model.block_kwargs(tokens.shape[1], dtype)
    x = model.embed(tokens, dtype)
    for block, keywords in zip(blocks, kwargs, strict=False):
        x = run(block, x, keywords, model.device)
    return x


@torch.no_grad()
def logits(
    model: StreamedModel,
    blocks: Iterable[nn.Module],
    tokens: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logits (B, T, V), on the CPU."""
    out: Tensor = model.head(dtype)(hidden(model, blocks, tokens, dtype).to(model.device))
    return out.cpu()


def spec(bits: int = 4, scheme: str = "symmetric", **fields_: Any) -> TensorQuantization:
    """One tensor's quantization."""
    return TensorQuantization(bits, scheme, **fields_)


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Frobenius norm."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def deviation(found: Tensor, expected: Tensor) -> float:
    """max|Δ| / std, the measure of O19."""
    found, expected = found.double(), expected.double()
    return float((found - expected).abs().max() / expected.std())


def spy(target: Any, name: str, monkeypatch: Any, before: Callable[..., None]) -> None:
    """Calls ``before`` with the arguments of every call of a function, then the function."""
    original = getattr(target, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, wrapped)


def small_device(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """A device on which a block takes so many windows at once; the sizes of all passes."""
    seen: list[int] = []
    forward = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(module).__name__ == "LlamaDecoderLayer":
            seen.append(len(args[0]))
            if len(args[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(module, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "__call__", call)
    monkeypatch.setattr(passes, "SHORT", 32)  # a window
    return seen
