"""Train the embedded demo model on CPU: ``python -m quantexp.models.demo.train --out FOLDER``.

A small LLaMA with its own byte-level BPE tokenizer, trained on
:mod:`quantexp.calibration.pydocs` with a fixed seed.  The held-out documents are only measured,
once, at the end; the checkpoint is chosen on a validation slice carved out of the train
documents.
"""

import argparse
import copy
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from quantexp.calibration import pydocs

BOS, EOS = "<s>", "</s>"
VOCAB_SIZE = 2048
CONTEXT = 256
BATCH = 8
PEAK_LR = 2e-3
WARMUP_STEPS = 200
WEIGHT_DECAY = 0.1
DROPOUT = 0.2
VALIDATION_ONE_IN = 25
BOS_ONE_IN = 4


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


def add_dropout(model: LlamaForCausalLM, p: float) -> None:
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


def tokenize(tokenizer: PreTrainedTokenizerFast, documents: list[str]) -> torch.Tensor:
    """Return the ids of the documents joined by empty lines, one BOS first; shape (tokens,)."""
    return torch.tensor(tokenizer("\n\n".join(documents), verbose=False).input_ids)


def batches(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], rng: random.Random
) -> Iterator[torch.Tensor]:
    """Yield endless batches of shape (BATCH, CONTEXT); every epoch cuts the text anew."""
    while True:
        ids = tokenize(tokenizer, rng.sample(documents, len(documents)))
        ids = ids[rng.randrange(CONTEXT) :]
        windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
        order = rng.sample(range(len(windows)), len(windows))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = windows[order[start : start + BATCH]]
            # Windows seldom begin with BOS by themselves, yet prompts always do.
            batch[[row for row in range(BATCH) if rng.randrange(BOS_ONE_IN) == 0], 0] = int(
                tokenizer.bos_token_id
            )
            yield batch


def window_loss(model: LlamaForCausalLM, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean NLL (nats) over the CONTEXT - 1 predictions of every window."""
    logits = model(batch, use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, ids: torch.Tensor) -> float:
    """Return the mean NLL (nats per token) over non-overlapping windows; the rest is left out.

    Args:
        model: The model, in any mode; it is left in evaluation mode.
        ids: Token ids, shape (tokens,), at least CONTEXT of them.
    """
    model.eval()
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    losses = [float(window_loss(model, part)) * len(part) for part in windows.split(BATCH)]
    return sum(losses) / len(windows)


def train(out: Path, steps: int, seed: int, eval_every: int) -> dict[str, object]:
    """Train, write checkpoint and ``train_result.json`` into ``out``, return the result."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    rng = random.Random(seed)
    documents = pydocs.documents("train")
    tokenizer = train_tokenizer(documents)
    rng.shuffle(documents)
    cut = len(documents) // VALIDATION_ONE_IN
    validation = tokenize(tokenizer, documents[:cut])
    model = build_model(tokenizer)
    add_dropout(model, DROPOUT)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=PEAK_LR,
        betas=(0.9, 0.95),
        weight_decay=WEIGHT_DECAY,
    )

    def lr_factor(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        return min(1.0, (step + 1) / WARMUP_STEPS) * max(0.02, cosine)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    best_loss, best_step, best = math.inf, 0, model.state_dict()
    stream = batches(tokenizer, documents[cut:], rng)
    for step in range(1, steps + 1):
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = window_loss(model, next(stream))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % eval_every == 0 or step == steps:
            valid = evaluate(model, validation)
            if valid < best_loss:
                best_loss, best_step, best = valid, step, copy.deepcopy(model.state_dict())
            seconds = time.perf_counter() - began
            print(f"step {step} train {loss:.3f} valid {valid:.3f} {seconds:.0f} s", flush=True)

    model.load_state_dict(best)
    model.half().save_pretrained(out)
    save_tokenizer(tokenizer, out)
    heldout = tokenize(tokenizer, pydocs.documents("heldout"))
    result: dict[str, object] = {
        "seed": seed,
        "steps": steps,
        "best_step": best_step,
        "tokens": steps * BATCH * CONTEXT,
        "validation_perplexity": math.exp(best_loss),
        "heldout_perplexity": math.exp(evaluate(model.float(), heldout)),
        "heldout_tokens": len(heldout),
        "seconds": round(time.perf_counter() - began),
        "threads": torch.get_num_threads(),
        "text_sha256": pydocs.content_hash(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    (out / "train_result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model (CPU).")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(train(args.out, args.steps, args.seed, args.eval_every), indent=2))


if __name__ == "__main__":
    main()
