"""Perplexities of unquantized models on public texts, computed elsewhere, are met.

Set QUANTEXP_REFERENCE_DATA to a folder with ``models/`` and ``text/``. The numbers are of the first
20 480 tokens in windows of 256. WikiText-2 is one text with one BOS; the documents of C4 are joined
by a blank line; each tiny story begins with a BOS (``join=bos``).
"""

from pathlib import Path

import pytest
from helpers import make_config

from quantexp.experiment.cell import Cell
from quantexp.experiment.evaluate import evaluate

SETS = {
    "tinystories": {"path": "tinystories/valid_sample.jsonl", "join": "bos"},
    "wikitext2_raw": {"path": "wikitext-2/test.raw.txt"},
    "wikitext2": {"path": "wikitext-2/test.txt"},
    "c4": {"path": "c4/valid_sample.jsonl"},
}
STORIES = (4.396, 117.034, 159.284, 45.874)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("stories260K", STORIES),
        pytest.param("stories260K-outliers", STORIES, marks=pytest.mark.slow),
        pytest.param("tinyllama-6M", (24.926, 100.672, 130.020, 122.531), marks=pytest.mark.slow),
    ],
)
def test_perplexity_is_the_reference(
    model: str, expected: tuple[float, ...], reference: str, tmp_path: Path
) -> None:
    folder = Path(reference)
    config = make_config(
        folder / "models" / model, "none", (16, 16, 16, 16),
        evaluation={
            "name": "reference",
            "perplexity": [
                {"name": name, "seq_len": 256, "max_windows": 80}
                | {**item, "path": str(folder / "text" / item["path"])}
                for name, item in SETS.items()
            ],
        },
        paths={"outputs": str(tmp_path)},
    )  # fmt: skip
    cell = Cell(config)
    found = {}
    for evaluation in cell.missing:
        evaluate(cell, evaluation, lambda *_: None)
        record = cell.result(evaluation)
        assert record is not None
        assert record["details"]["windows"] == 80
        found[evaluation.name] = record["value"]
    assert found == pytest.approx(dict(zip(SETS, expected, strict=True)), rel=1e-3)
