"""Calibration and test windows: which text they come from, and all that decides them.

The sampling is the papers' (:mod:`quantexp.calibration.sampling`): for most corpora the documents
are joined by a blank line and tokenized once, with one BOS at the very start where the tokenizer
has one. Calibration draws ``num_samples`` random windows; a test set is cut into windows without
overlap, the rest dropped. A JSON file of token ids (key ``windows``) is used as it is, for exact
comparisons.

A file is identified by its content, a corpus of the hub by its commit: a login node can plan
without the data. Nothing here imports torch until tokens are asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quantexp.calibration import documents, pydocs, sampling
from quantexp.calibration.corpora import (
    BLANK_LINE,
    BOS,
    DOCUMENTS,
    HUB,
    LEADING,
    SAMPLING_VERSION,
    HubCorpus,
    Part,
)
from quantexp.calibration.hub import HubFile
from quantexp.config import DataConfig, PerplexitySet
from quantexp.errors import DataError
from quantexp.typed import plain

if TYPE_CHECKING:
    import torch

NUM_SAMPLES, SEQ_LEN = 128, 2048  # the papers' calibration set
SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")


class Source(Protocol):
    """What windows are taken from."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def path(self) -> Path | None:
        """A user's file, or ``None``."""

    @property
    def identity(self) -> dict[str, Any]:
        """Plain data that decides the text."""

    @property
    def token_windows(self) -> list[list[int]] | None:
        """Token ids of a ``.json`` file, or ``None`` where the corpus is text."""

    @property
    def text(self) -> str:
        """The documents in one text."""

    def windows(
        self, tokenizer: Any, length: int, count: int | None, seed: int | None
    ) -> list[list[int]]:
        """Windows of ``length`` tokens: drawn by ``seed``, or cut in order."""


@dataclass(frozen=True)
class Corpus:
    """An embedded corpus or a user's file.

    Attributes:
        name: For messages.
        split: ``train`` or ``heldout``; a file has no splits.
        path: The file, or ``None`` for the embedded corpus.
        join: Between documents (:data:`quantexp.calibration.corpora.JOINS`).
        field: Key or column of the text.
    """

    name: str
    split: str
    path: Path | None
    join: str = BLANK_LINE
    field: str = "text"

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) of the text."""
        if self.path is None:
            return hashlib.sha256(self.text.encode()).hexdigest()
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """The content, the split, and how documents are read where it is not the usual way."""
        found: dict[str, Any] = {"content": self.content_hash}
        if self.token_windows is None:
            found["split"] = self.split
            usual = {"join": BLANK_LINE, "field": "text"}
            found |= {k: getattr(self, k) for k in usual if getattr(self, k) != usual[k]}
        return found

    @cached_property
    def text(self) -> str:
        """The documents in one text."""
        if self.path is None:
            return pydocs.text(self.split)
        if self.path.suffix == ".txt":
            return self.path.read_text(encoding="utf-8")
        return sampling.separator(self.join).join(self._documents)

    @cached_property
    def _documents(self) -> list[str]:
        assert self.path is not None
        return list(documents.read(self.path, self.field))

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
        """Token ids of the whole text."""
        if self.join == BOS:
            return sampling.joined(self._documents, BOS, tokenizer)
        return sampling.encode(self.text, tokenizer)

    def windows(
        self, tokenizer: Any, length: int, count: int | None, seed: int | None
    ) -> list[list[int]]:
        """Windows of ``length`` tokens: drawn by ``seed``, or cut in order."""
        return _from_tokens(self.name, self.tokens(tokenizer), length, count, seed)


@dataclass(frozen=True)
class HubText:
    """One part of a corpus of the hub; its bytes are read only when windows are asked for."""

    name: str
    corpus: HubCorpus
    part: Part

    path = None
    token_windows = None

    @property
    def file(self) -> HubFile:
        """The file that holds it."""
        return HubFile(self.corpus.repo, self.corpus.revision, self.part.file)

    @property
    def identity(self) -> dict[str, Any]:
        """Repository, commit, file and sampling: no bytes are needed to know them."""
        return {
            "repo": self.corpus.repo,
            "revision": self.corpus.revision,
            "field": self.corpus.field,
            "part": plain(self.part),
            "sampling": SAMPLING_VERSION,
        }

    @property
    def documents(self) -> list[str]:
        """The part's documents, stripped where the papers' code does.

        Raises:
            DataError: The file is not in the cache, or damaged.
        """
        found = documents.read(self.file.path, self.corpus.field)
        first = islice(found, self.part.documents)
        return [text.strip() for text in first] if self.part.strip else list(first)

    @property
    def text(self) -> str:
        """The documents in one text."""
        return sampling.separator(self.part.join).join(self.documents)

    def windows(
        self, tokenizer: Any, length: int, count: int | None, seed: int | None
    ) -> list[list[int]]:
        """Windows of ``length`` tokens, in the way of the corpus."""
        part = self.part
        if part.sampling == DOCUMENTS:
            # a test set of drawn windows is always the same one
            return sampling.draw_from_documents(
                self.documents, tokenizer, length, count or 0, seed or 0
            )
        if part.sampling == LEADING:
            shuffle = (part.shuffle_seed or 0) + (seed or 0)
            return sampling.leading(self.documents, tokenizer, length, count or 0, shuffle)
        tokens = sampling.joined(self.documents, part.join, tokenizer)
        return _from_tokens(self.name, tokens, length, count, seed)


@dataclass(frozen=True)
class WindowSource:
    """Windows of a corpus, with all that decides them (``inputs``, part of fingerprints)."""

    corpus: Source
    seq_len: int
    count: int | None  # windows to draw, or the most to cut; None: all
    seed: int | None  # None: cut in order, without overlap

    @property
    def inputs(self) -> dict[str, Any]:
        """Plain data that decides the windows (together with the model's tokenizer)."""
        inputs = {**self.corpus.identity, "count": self.count}
        if self.corpus.token_windows is None:
            inputs |= {"seq_len": self.seq_len, "seed": self.seed}
        return inputs

    @property
    def file(self) -> HubFile | None:
        """The file of the hub that must be in the cache, if it is one."""
        return self.corpus.file if isinstance(self.corpus, HubText) else None

    def load(self, tokenizer: Any) -> torch.Tensor:
        """Token ids (B, T) of all windows.

        Raises:
            DataError: The text is missing, or shorter than what was asked for.
        """
        import torch

        windows = self.corpus.token_windows
        if windows is not None:
            return torch.tensor(windows[: self.count], dtype=torch.long)
        found = self.corpus.windows(tokenizer, self.seq_len, self.count, self.seed)
        return torch.tensor(found, dtype=torch.long)


def find(config: DataConfig) -> WindowSource:
    """The calibration windows of ``data.*``.

    Raises:
        DataError: The file is missing, of an unknown kind, or has fewer windows than asked for.
    """
    corpus = _corpus("data", config, "train")
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
    corpus = _corpus(where, item, "heldout")
    windows = corpus.token_windows
    if windows is None:
        counts = [item.max_windows, corpus.part.windows if isinstance(corpus, HubText) else None]
        count = min((c for c in counts if c is not None), default=None)
        return WindowSource(corpus, item.seq_len or SEQ_LEN, count, None)
    return WindowSource(
        corpus, _length(where, corpus, item.seq_len, windows), item.max_windows, None
    )


def _corpus(where: str, item: DataConfig | PerplexitySet, split: str) -> Corpus | HubText:
    if item.path is not None:
        return _file(where, item.path, split, item)
    name = str(item.corpus)
    if name not in HUB:
        return Corpus(name, split, None)
    part = HUB[name].train if split == "train" else HUB[name].heldout
    if part is None:
        sets = ", ".join(n for n, corpus in HUB.items() if corpus.heldout)
        raise DataError(
            f"{where}: corpus '{name}' has no test set (calibration reads all of it): "
            f"allowed pydocs, {sets}"
        )
    return HubText(name, HUB[name], part)


def _file(where: str, path: str, split: str, item: DataConfig | PerplexitySet) -> Corpus:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(
            f"{where}: no file '{path}' (looked in {Path.cwd()}): give a path that exists"
        )
    with file.open("rb") as opened:
        magic = opened.read(4)
    if file.suffix not in SUFFIXES or (file.suffix == ".parquet" and magic not in (b"PAR1", b"")):
        raise DataError(
            f"{where}: '{path}' is of an unknown kind: allowed {', '.join(SUFFIXES)} "
            "(text, one JSON object with a text per line, token windows, a table)"
        )
    if not magic:
        raise DataError(f"{where}: '{path}' is empty")
    if file.suffix in (".txt", ".json") and (item.join or item.field):
        raise DataError(
            f"{where}: join={item.join} field={item.field} are for files of documents (.jsonl, "
            f".parquet), but '{path}' is none: leave them out"
        )
    return Corpus(file.name, split, file.resolve(), item.join or BLANK_LINE, item.field or "text")


def _length(where: str, corpus: Source, asked: int | None, windows: list[list[int]]) -> int:
    length = len(windows[0])
    if asked is not None and asked != length:
        raise DataError(f"{where}: seq_len={asked}, but the windows of {corpus.path} have {length}")
    return length


def _from_tokens(
    name: str, tokens: list[int], length: int, count: int | None, seed: int | None
) -> list[list[int]]:
    """Windows of one token sequence: drawn where there is a seed, else cut."""
    if len(tokens) < length + (seed is not None):
        raise DataError(
            f"{name} holds {len(tokens)} tokens, too few for a window of "
            f"{length}: give a longer text or a smaller seq_len"
        )
    if seed is None:
        return sampling.cut_windows(tokens, length, count)
    return sampling.draw_windows(tokens, length, count or 0, seed)
