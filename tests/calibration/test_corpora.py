"""Corpora of the hub: pinned, read from the cache alone, sampled as the papers do."""

import random
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from helpers import tokenizer, words
from hub import write_corpus

from quantexp.calibration.corpora import HUB, JOINS
from quantexp.calibration.data import WindowSource, find, find_set
from quantexp.calibration.hub import fetch
from quantexp.calibration.sampling import token_hash
from quantexp.config import DataConfig, PerplexitySet
from quantexp.errors import DataError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def train(name: str, **fields: Any) -> WindowSource:
    return find(DataConfig(name, corpus=name, **{"num_samples": 5, "seq_len": 16} | fields))


def heldout(name: str, **fields: Any) -> WindowSource:
    return find_set(PerplexitySet(name, corpus=name, **{"seq_len": 16} | fields))


def ids(text: str) -> list[int]:
    found: list[int] = tokenizer()(text)["input_ids"]
    return found


DOCUMENTS = [words(n, seed=n) for n in (5, 40, 3, 60, 15, 16, 90)]


@pytest.mark.parametrize("name", HUB)
def test_every_corpus_is_pinned_by_a_commit_and_reads_data_not_code(name: str) -> None:
    corpus = HUB[name]
    assert re.fullmatch("[0-9a-f]{40}", corpus.revision)
    for part in filter(None, (corpus.train, corpus.heldout)):
        assert part.file.endswith((".parquet", ".json.gz", ".jsonl.zst"))
        assert part.join in JOINS


def test_wikitext2_is_joined_by_a_blank_line_and_tokenized_once(home: Path) -> None:
    rows = ["", " = w3 = \n", "", *(f" {text} \n" for text in DOCUMENTS)]
    write_corpus(home, "wikitext2", "heldout", rows)
    tokens = ids("\n\n".join(rows))
    found = heldout("wikitext2").load(tokenizer())
    assert found.flatten().tolist() == tokens[: len(tokens) // 16 * 16]
    assert (found == 1).sum() == 1
    write_corpus(home, "wikitext2", "train", rows)
    draw = random.Random(3)
    starts = [draw.randint(0, len(tokens) - 16 - 1) for _ in range(5)]
    drawn = train("wikitext2", seed=3).load(tokenizer())
    assert drawn.tolist() == [tokens[s : s + 16] for s in starts]


def test_flatquant_strips_the_rows_of_wikitext2(home: Path) -> None:
    write_corpus(home, "wikitext2_flatquant", "train", [" w3 \n", "", " w4 w5\n"])
    source = train("wikitext2_flatquant")
    assert source.corpus.text == "w3\n\n\n\nw4 w5"
    assert train("wikitext2").corpus.text == " w3 \n\n\n\n\n w4 w5\n"
    assert source.inputs != train("wikitext2").inputs


def test_c4_draws_a_long_enough_document_then_a_window_in_it(home: Path) -> None:
    write_corpus(home, "c4", "train", DOCUMENTS)
    draw, expected = random.Random(4), []
    while len(expected) < 5:  # GPTQ's get_c4
        tokens = ids(DOCUMENTS[draw.randint(0, len(DOCUMENTS) - 1)])
        if len(tokens) < 16:
            continue
        start = draw.randint(0, len(tokens) - 16 - 1) if len(tokens) > 16 else 0
        expected.append(tokens[start : start + 16])
    assert train("c4", seed=4).load(tokenizer()).tolist() == expected


def test_new_c4_is_the_first_1100_documents_and_256_windows(home: Path) -> None:
    many = [words(5, seed=i) for i in range(1200)]
    write_corpus(home, "c4", "heldout", many)
    tokens = ids(" ".join(many[:1100]))
    found = heldout("c4").load(tokenizer())
    assert found.shape == (256, 16)
    assert found.flatten().tolist() == tokens[: 256 * 16]
    longer = heldout("c4", seq_len=64).load(tokenizer())
    assert len(longer) == len(tokens) // 64
    assert heldout("c4", max_windows=3).load(tokenizer()).tolist() == found[:3].tolist()


def test_old_c4_is_256_windows_from_documents_drawn_with_seed_0(home: Path) -> None:
    write_corpus(home, "c4_old", "heldout", DOCUMENTS)
    write_corpus(home, "c4", "train", DOCUMENTS)
    found = heldout("c4_old").load(tokenizer())
    assert found.shape == (256, 16)
    assert found[:5].tolist() == train("c4", seed=0).load(tokenizer()).tolist()
    assert heldout("c4_old", max_windows=5).load(tokenizer()).tolist() == found[:5].tolist()


def test_the_pile_of_flatquant_is_its_first_1000_documents(home: Path) -> None:
    many = [words(3, seed=i) for i in range(1010)]
    write_corpus(home, "pile", "train", many)
    assert train("pile").corpus.text == "\n\n".join(many[:1000])
    with pytest.raises(DataError, match=r"'pile' has no test set.*wikitext2"):
        heldout("pile")


def test_the_pile_of_smoothquant_is_the_start_of_shuffled_documents(home: Path) -> None:
    write_corpus(home, "pile_smoothquant", "train", DOCUMENTS)
    order = numpy.random.default_rng(42).permutation(len(DOCUMENTS))
    starts = [ids(DOCUMENTS[i])[:16] for i in order]
    expected = [start for start in starts if len(start) == 16]
    source = train("pile_smoothquant", num_samples=4)
    assert source.load(tokenizer()).tolist() == expected[:4]
    with pytest.raises(DataError, match="only 5 of 7 documents hold 16 tokens, 6 were asked"):
        train("pile_smoothquant", num_samples=6).load(tokenizer())


def test_the_shuffle_is_that_of_datasets() -> None:
    from datasets import Dataset

    shuffled = Dataset.from_dict({"i": list(range(50))}).shuffle(seed=42)
    assert shuffled["i"][:] == numpy.random.default_rng(42).permutation(50).tolist()


def test_every_tiny_story_begins_with_a_bos(home: Path) -> None:
    write_corpus(home, "tinystories", "heldout", DOCUMENTS)
    found = heldout("tinystories").load(tokenizer()).flatten().tolist()
    assert found == [token for text in DOCUMENTS for token in ids(text)][: len(found)]
    assert found.count(1) > 1


def test_without_a_long_enough_document_the_draw_ends(home: Path) -> None:
    write_corpus(home, "c4", "train", DOCUMENTS[:1])
    with pytest.raises(DataError, match="none of 1 documents holds a window of 16 tokens"):
        train("c4").load(tokenizer())


def test_the_identity_needs_no_bytes_and_names_the_commit() -> None:
    inputs = train("c4").inputs
    assert inputs["revision"] == HUB["c4"].revision
    assert inputs["part"]["file"] == "en/c4-train.00000-of-01024.json.gz"
    for change in ({"num_samples": 6}, {"seq_len": 17}, {"seed": 1}):
        assert train("c4", **change).inputs != inputs
    kinds = {str(heldout(name).inputs) for name, corpus in HUB.items() if corpus.heldout}
    assert len(kinds) == 4  # wikitext2 (shared by its two kinds), c4, c4_old, tinystories


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_a_missing_corpus_names_the_command_that_fetches_it(
    switch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv(switch, "1")
    command = (
        "hf download allenai/c4 en/c4-train.00000-of-01024.json.gz --repo-type dataset "
        "--revision 1588ec454efa1a09f29cd18ddd04fe05fc8653a2"
    )
    source = train("c4")
    assert source.file is not None
    with pytest.raises(DataError, match=re.escape(command)):
        fetch([source.file])
    with pytest.raises(DataError, match=re.escape(command)):
        source.load(tokenizer())


def test_what_is_in_the_cache_is_not_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(home, "c4", "train", DOCUMENTS)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    file = train("c4").file
    assert file is not None
    fetch([file, file])


def test_only_what_is_missing_is_fetched_at_its_commit(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    asked = []

    def download(repo: str, name: str, **fields: str) -> None:
        asked.append((repo, name, fields["revision"], fields["repo_type"]))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    write_corpus(home, "wikitext2", "train", ["w3"])
    files = [s.file for s in (train("wikitext2"), heldout("wikitext2"), heldout("wikitext2"))]
    fetch(file for file in files if file is not None)
    wanted = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert asked == [("Salesforce/wikitext", wanted, HUB["wikitext2"].revision, "dataset")]


@pytest.mark.parametrize("name", ["c4", "pile"])
def test_a_damaged_file_is_named(name: str, home: Path) -> None:
    path = write_corpus(home, name, "train", DOCUMENTS)
    path.write_bytes(path.read_bytes()[:30] + b"damaged")
    with pytest.raises(DataError, match=path.name):
        train(name).load(tokenizer())


def test_equal_tokens_have_equal_hashes(home: Path) -> None:
    write_corpus(home, "c4", "train", DOCUMENTS)
    first, again, other = (train("c4", seed=s).load(tokenizer()) for s in (0, 0, 1))
    assert token_hash(first) == token_hash(again) != token_hash(other)
