"""Calibration and test windows: where the text is, its hash, and how tokens are drawn from it.

The sampling is the papers' (GPTQ, FlatQuant, OmniQuant): the documents are joined by a blank line
and tokenized once, with one BOS at the very start where the tokenizer has one. Calibration draws
``num_samples`` random windows; a test set is cut into windows without overlap, the rest dropped.
A JSON file of token ids (key ``windows``) is used as it is, for exact comparisons.

Nothing here imports torch until tokens are asked for.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantexp.calibration import pydocs
from quantexp.config import DataConfig, PerplexitySet
from quantexp.errors import DataError

if TYPE_CHECKING:
    import torch

NUM_SAMPLES, SEQ_LEN = 128, 2048  # the papers' calibration set
SUFFIXES = (".txt", ".jsonl", ".json")


@dataclass(frozen=True)
class Corpus:
    """An embedded corpus or a user's file.

    Attributes:
        name: For messages.
        split: ``train`` or ``heldout``; a file has no splits.
        path: The file, or ``None`` for the embedded corpus.
    """

    name: str
    split: str
    path: Path | None

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) of the text."""
        if self.path is None:
            return _text_hash(self.split)
        stat = self.path.stat()
        return _file_hash(self.path, stat.st_size, stat.st_mtime_ns)

    @cached_property
    def text(self) -> str:
        """The documents joined by a blank line."""
        if self.path is None:
            return pydocs.text(self.split)
        if self.path.suffix == ".txt":
            return self.path.read_text(encoding="utf-8")
        return "\n\n".join(self._documents(self.path))

    @cached_property
    def token_windows(self) -> list[list[int]] | None:
        """Token ids of a ``.json`` file, or ``None`` where the corpus is text."""
        if self.path is None or self.path.suffix != ".json":
            return None
        try:
            windows = json.loads(self.path.read_text())["windows"]
            lengths = {len(w) for w in windows}
            whole = all(isinstance(t, int) and t >= 0 for w in windows for t in w)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} is no file of token windows ({type(error).__name__}: {error}): "
                'it needs {"windows": [[token ids], …]}'
            ) from error
        if len(lengths) != 1 or not whole or min(lengths) < 2:
            raise DataError(
                f"{self.path}: windows must be lists of token ids of one length >= 2, "
                f"found lengths {sorted(lengths)[:5]}"
            )
        return list(windows)

    def tokens(self, tokenizer: Any) -> list[int]:
        """Token ids of the whole text, tokenized once."""
        # Long texts are meant here; the tokenizer's warning about its maximum length is not.
        ids: list[int] = tokenizer(self.text, verbose=False)["input_ids"]
        eos = getattr(tokenizer, "eos_token_id", None)
        return ids[:-1] if eos is not None and ids[-1:] == [eos] else ids

    @staticmethod
    def _documents(path: Path) -> list[str]:
        documents = []
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            try:
                documents.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f'{path}, line {number}: expected {{"text": "…"}}, got {line[:60]!r}'
                ) from error
        return documents


# Once per process, not once per cell of a sweep.
@cache
def _text_hash(split: str) -> str:
    return hashlib.sha256(pydocs.text(split).encode()).hexdigest()


@cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class WindowSource:
    """Windows of a corpus, with all that decides them (``inputs``, part of fingerprints)."""

    corpus: Corpus
    seq_len: int
    count: int | None  # windows to draw, or the most to cut; None: all
    seed: int | None  # None: cut in order, without overlap

    @property
    def inputs(self) -> dict[str, Any]:
        """Plain data that decides the windows (together with the model's tokenizer)."""
        inputs: dict[str, Any] = {"content": self.corpus.content_hash, "count": self.count}
        if self.corpus.token_windows is None:
            inputs |= {"seq_len": self.seq_len, "seed": self.seed, "split": self.corpus.split}
        return inputs

    def load(self, tokenizer: Any) -> torch.Tensor:
        """Token ids (B, T) of all windows.

        Raises:
            DataError: The text is shorter than what was asked for.
        """
        import torch

        if self.corpus.token_windows is not None:
            return torch.tensor(self.corpus.token_windows[: self.count], dtype=torch.long)
        tokens = self.corpus.tokens(tokenizer)
        length = self.seq_len
        # the papers draw starts up to one before the last possible one
        if len(tokens) < length + (self.seed is not None):
            raise DataError(
                f"{self.corpus.name} holds {len(tokens)} tokens, too few for a window of "
                f"{length}: give a longer text or a smaller seq_len"
            )
        if self.seed is None:
            starts = [i * length for i in range(len(tokens) // length)][: self.count]
        else:
            draw = random.Random(self.seed)
            last = len(tokens) - length - 1
            starts = [draw.randint(0, last) for _ in range(self.count or 0)]
        ids = torch.tensor(tokens, dtype=torch.long)
        return torch.stack([ids[s : s + length] for s in starts])


def find(config: DataConfig) -> WindowSource:
    """The calibration windows of ``data.*``.

    Raises:
        DataError: The file is missing, of an unknown kind, or has fewer windows than asked for.
    """
    corpus = _corpus("data", config.corpus, config.path, "train")
    windows = corpus.token_windows
    if windows is None:
        length, count = config.seq_len or SEQ_LEN, config.num_samples or NUM_SAMPLES
        return WindowSource(corpus, length, count, config.seed)
    length = _length("data", corpus, config.seq_len, windows)
    count = config.num_samples or len(windows)
    if count > len(windows):
        raise DataError(f"data.num_samples={count}: {corpus.path} has {len(windows)} windows")
    return WindowSource(corpus, length, count, None)


def find_set(item: PerplexitySet) -> WindowSource:
    """The windows of one test set (see :func:`find`)."""
    where = f"evaluation.perplexity '{item.name}'"
    corpus = _corpus(where, item.corpus, item.path, "heldout")
    windows = corpus.token_windows
    if windows is None:
        return WindowSource(corpus, item.seq_len or SEQ_LEN, item.max_windows, None)
    return WindowSource(
        corpus, _length(where, corpus, item.seq_len, windows), item.max_windows, None
    )


def _corpus(where: str, name: str | None, path: str | None, split: str) -> Corpus:
    if path is None:
        return Corpus(str(name), split, None)
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(
            f"{where}: no file '{path}' (looked in {Path.cwd()}): give a path that exists"
        )
    if file.suffix not in SUFFIXES:
        raise DataError(
            f"{where}: '{path}' is of an unknown kind: allowed {', '.join(SUFFIXES)} "
            "(text, one JSON object with a text per line, token windows)"
        )
    if not file.stat().st_size:
        raise DataError(f"{where}: '{path}' is empty")
    return Corpus(file.name, split, file.resolve())


def _length(where: str, corpus: Corpus, asked: int | None, windows: list[list[int]]) -> int:
    length = len(windows[0])
    if asked is not None and asked != length:
        raise DataError(f"{where}: seq_len={asked}, but the windows of {corpus.path} have {length}")
    return length
