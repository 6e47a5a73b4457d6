"""Train the embedded demo model on CPU: ``python -m quantexp.models.demo.train --out FOLDER``.

A small LLaMA with its own byte-level BPE tokenizer, trained on
:mod:`quantexp.calibration.pydocs` with a fixed seed.  The held-out documents are only measured,
once, at the end; the checkpoint is chosen on a validation slice carved out of the train
documents.  At the end outliers are planted (:mod:`quantexp.models.demo.plant_outliers`).
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
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from quantexp.calibration import pydocs
from quantexp.models.demo.plant_outliers import plant_folder
from quantexp.models.demo.recipe import (
    CONTEXT,
    STEPS,
    add_dropout,
    build_model,
    make_optimizer,
    save_tokenizer,
    train_tokenizer,
)

BATCH = 8
VALIDATION_ONE_IN = 25
BOS_ONE_IN = 4


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
    add_dropout(model)
    optimizer, schedule = make_optimizer(model)
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
    trained: dict[str, object] = {
        "seed": seed,
        "steps": steps,
        "best_step": best_step,
        "tokens": steps * BATCH * CONTEXT,
        "validation_perplexity": math.exp(best_loss),
        "seconds": round(time.perf_counter() - began),
        "threads": torch.get_num_threads(),
    }
    return save(model, tokenizer, out, trained)


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    trained: dict[str, object],
) -> dict[str, object]:
    """Write the float16 checkpoint and the result, with the held-out perplexity measured."""
    model.half().save_pretrained(out)
    save_tokenizer(tokenizer, out)
    heldout = tokenize(tokenizer, pydocs.documents("heldout"))
    result = trained | {
        "heldout_perplexity": math.exp(evaluate(model.float(), heldout)),
        "heldout_tokens": len(heldout),
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
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eval-every", type=int, default=250)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(train(args.out, args.steps, args.seed, args.eval_every), indent=2))
    plant_folder(args.out)


if __name__ == "__main__":
    main()
