"""From documents to token windows: the papers' ways, each in one function.

B windows of T tokens; random numbers are those of Python's ``random.Random``, as in the papers'
code (GPTQ, OmniQuant, FlatQuant), so that equal seeds give equal windows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantexp.calibration.corpora import BLANK_LINE, BOS
from quantexp.errors import DataError

if TYPE_CHECKING:
    import torch


def encode(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text, with the tokenizer's BOS and without an EOS at the end."""
    # Long texts are meant here; the tokenizer's warning about its maximum length is not.
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    eos = getattr(tokenizer, "eos_token_id", None)
    return ids[:-1] if eos is not None and ids[-1:] == [eos] else ids


def joined(documents: Sequence[str], join: str, tokenizer: Any) -> list[int]:
    """Token ids of all documents in a row.

    ``bos`` tokenizes each document by itself, so that each begins with the BOS; the other ways
    join the texts and tokenize once.
    """
    if join == BOS:
        return [token for text in documents for token in encode(text, tokenizer)]
    return encode(separator(join).join(documents), tokenizer)


def separator(join: str) -> str:
    """The text between documents."""
    return "\n\n" if join == BLANK_LINE else " "


def draw_windows(tokens: list[int], length: int, count: int, seed: int) -> list[list[int]]:
    """``count`` random windows of one token sequence."""
    draw = random.Random(seed)
    # the papers draw starts up to one before the last possible one
    last = len(tokens) - length - 1
    starts = [draw.randint(0, last) for _ in range(count)]
    return [tokens[s : s + length] for s in starts]


def cut_windows(tokens: list[int], length: int, most: int | None) -> list[list[int]]:
    """Windows without overlap from the start; the rest is dropped."""
    starts = [i * length for i in range(len(tokens) // length)][:most]
    return [tokens[s : s + length] for s in starts]


def draw_from_documents(
    documents: Sequence[str], tokenizer: Any, length: int, count: int, seed: int
) -> list[list[int]]:
    """One random window from each of ``count`` random documents of at least ``length`` tokens.

    GPTQ's way with C4. A document of exactly ``length`` tokens, on which its code fails, is a
    window as it is.

    Raises:
        DataError: No document is long enough.
    """
    draw = random.Random(seed)
    found: list[list[int]] = []
    short: set[int] = set()
    while len(found) < count:
        index = draw.randint(0, len(documents) - 1)
        if index in short:
            continue
        tokens = encode(documents[index], tokenizer)
        room = len(tokens) - length
        if room < 0:
            short.add(index)
            if len(short) == len(documents):
                raise DataError(
                    f"none of {len(documents)} documents holds a window of {length} tokens: "
                    "give a smaller seq_len"
                )
            continue
        start = draw.randint(0, room - 1) if room else 0
        found.append(tokens[start : start + length])
    return found


def leading(
    documents: Sequence[str], tokenizer: Any, length: int, count: int, seed: int
) -> list[list[int]]:
    """The first ``length`` tokens of documents in shuffled order (SmoothQuant, AWQ).

    The order is that of ``datasets.Dataset.shuffle(seed)``. Shorter documents, which SmoothQuant
    takes as they are, are passed over: windows have one length here.

    Raises:
        DataError: There are fewer than ``count`` documents of that length.
    """
    import numpy

    found: list[list[int]] = []
    for index in numpy.random.default_rng(seed).permutation(len(documents)):
        tokens = encode(documents[index], tokenizer)[:length]
        if len(tokens) == length:
            found.append(tokens)
        if len(found) == count:
            return found
    raise DataError(
        f"only {len(found)} of {len(documents)} documents hold {length} tokens, {count} were asked "
        "for: give a smaller num_samples or seq_len"
    )


def token_hash(windows: torch.Tensor) -> str:
    """sha256 (hex) of token ids (B, T): equal tokens have equal hashes, whoever drew them."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()
