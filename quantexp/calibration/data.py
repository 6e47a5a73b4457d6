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

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantexp.calibration.corpora import BLANK_LINE, HUB
from quantexp.calibration.hub import HubFile
from quantexp.calibration.texts import Corpus, HubText, Source
from quantexp.config import DataConfig, PerplexitySet
from quantexp.errors import DataError

if TYPE_CHECKING:
    import torch

NUM_SAMPLES, SEQ_LEN = 128, 2048  # the papers' calibration set
SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")


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

        from quantexp.calibration import shared

        def load() -> torch.Tensor:
            windows = self.corpus.token_windows
            if windows is None:
                windows = self.corpus.windows(tokenizer, self.seq_len, self.count, self.seed)
            return torch.tensor(windows[: self.count], dtype=torch.long)

        folder = getattr(tokenizer, "name_or_path", "")
        key = json.dumps(self.inputs, sort_keys=True), folder
        return shared.here.get(key, load) if folder else load()


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
