"""Texts that windows are taken from: the embedded corpus, a user's file, a corpus of the hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from quantexp.calibration import documents, pydocs, sampling
from quantexp.calibration.corpora import (
    BLANK_LINE,
    BOS,
    DOCUMENTS,
    LEADING,
    SAMPLING_VERSION,
    HubCorpus,
    Part,
)
from quantexp.calibration.hub import HubFile
from quantexp.errors import DataError
from quantexp.typed import plain


# Once per process, not once per cell of a sweep.
@cache
def _text_hash(split: str) -> str:
    return hashlib.sha256(pydocs.text(split).encode()).hexdigest()


@cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
            return _text_hash(self.split)
        stat = self.path.stat()
        return _file_hash(self.path, stat.st_size, stat.st_mtime_ns)

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
