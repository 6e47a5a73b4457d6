"""llm-compressor's part of ``peers.py``: ``oneshot`` with the settings that quantexp has."""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from peer_job import TOKENS_PER_BATCH, Job, work
from torch import Tensor
from transformers import AutoModelForCausalLM, default_data_collator


def load(job: Job) -> Any:
    """The whole model, in float32."""
    if not torch.accelerator.is_available():
        # it pins memory for an accelerator even where there is none, and fails
        IntermediatesCache.pin_memory = lambda self, *_: None
    return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)


def quantize(job: Job, subject: Any, windows: Tensor) -> Any:
    """Weights and scales stay in the model; nothing is packed or written."""
    rows = windows.tolist()
    ones = [[1] * len(row) for row in rows]
    oneshot(
        model=subject,
        dataset=Dataset.from_dict({"input_ids": rows, "attention_mask": ones}),
        recipe=_recipe(job),
        max_seq_length=windows.shape[1],
        num_calibration_samples=len(rows),
        batch_size=max(1, TOKENS_PER_BATCH // windows.shape[1]),
        data_collator=default_data_collator,
        shuffle_calibration_samples=False,
    )
    return subject


def _recipe(job: Job) -> list[Any]:
    grouped = {"strategy": "group", "group_size": job.group_size}
    weights = QuantizationArgs(
        num_bits=job.weight_bits,
        symmetric=True,
        observer="memoryless_minmax",
        **(grouped if job.group_size else {"strategy": "channel"}),
    )
    inputs = None
    if job.activation_bits < 16:
        inputs = QuantizationArgs(
            num_bits=job.activation_bits, symmetric=True, strategy="token", dynamic=True
        )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    common: dict[str, Any] = {"config_groups": {"group_0": scheme}, "ignore": ["lm_head"]}
    if job.method == "gptq":
        return [GPTQModifier(dampening_frac=job.damping, actorder=None, **common)]
    before: dict[str, list[Any]] = {
        "rtn": [],
        "awq": [AWQModifier(duo_scaling=False, n_grid=20)],
        "smoothquant": [SmoothQuantModifier(smoothing_strength=0.5)],
    }
    return [*before[job.method], QuantizationModifier(**common)]


@torch.no_grad()
def dense(job: Job, subject: Any, made: Any) -> dict[str, Tensor]:
    """Weights as their scales and integers say; GPTQ's have been so already."""
    state = {k: v for k, v in made.state_dict().items() if k.startswith("model.layers.")}
    found = {k: v for k, v in state.items() if k.endswith("norm.weight")}
    for name, module in made.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            scale, zero = module.weight_scale, getattr(module, "weight_zero_point", None)
            if zero is None:
                zero = torch.zeros_like(scale)
            found[f"{name}.weight"] = fake_quantize(module.weight, scale, zero, scheme.weights)
    return found


if __name__ == "__main__":
    work(("llmcompressor", "compressed-tensors"), load, quantize, dense)
