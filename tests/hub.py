"""Corpora as the hub's cache holds them, written by a test."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
from pyarrow import parquet

from quantexp.calibration.corpora import HUB


def write_corpus(home: Path, name: str, split: str, documents: Sequence[str]) -> Path:
    """Writes one part of a corpus into ``home/hub``, in the format that its name says."""
    corpus = HUB[name]
    part = corpus.train if split == "train" else corpus.heldout
    assert part is not None
    repo = "datasets--" + corpus.repo.replace("/", "--")
    path = home / "hub" / repo / "snapshots" / corpus.revision / part.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table({corpus.field: list(documents)}), path)
    else:
        lines = [json.dumps({corpus.field: text, "url": "x"}) for text in documents]
        with pyarrow.output_stream(str(path), compression="detect") as file:
            file.write("\n".join(lines).encode() + b"\n")
    return path
