"""What the demo model is before training: tokenizer, architecture, dropout, optimizer."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS = "<s>", "</s>"
VOCAB_SIZE = 2048
CONTEXT = 256
PEAK_LR = 2e-3
WARMUP_STEPS = 200
STEPS = 2400
WEIGHT_DECAY = 0.1
DROPOUT = 0.2


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that prepends BOS, as LLaMA's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=2 * CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save the tokenizer under the class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2) + "\n")


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model (float32, about 3.3 million parameters)."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=2 * CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def add_dropout(model: nn.Module, p: float = DROPOUT) -> None:
    """Drop out both branches of every block and the embeddings (LLaMA itself has none)."""

    def hook(module: nn.Module, _: object, output: object) -> object:
        if not module.training:
            return output
        if isinstance(output, tuple):  # attention returns (hidden, weights)
            return nn.functional.dropout(output[0], p), *output[1:]
        assert isinstance(output, torch.Tensor)
        return nn.functional.dropout(output, p)

    for module in model.modules():
        name = type(module).__name__
        if name in ("LlamaAttention", "LlamaMLP") or isinstance(module, nn.Embedding):
            module.register_forward_hook(hook)


def make_optimizer(
    model: nn.Module,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return AdamW and its schedule: linear warmup, then a cosine over STEPS."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)

    def lr_factor(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / STEPS)))
        return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.02, cosine)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
