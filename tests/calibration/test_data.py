"""Token windows: drawn and cut as the papers do; what cannot be used is refused by name."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from helpers import tokenizer, words

from quantexp.calibration.data import NUM_SAMPLES, SEQ_LEN, find, find_set
from quantexp.config import DataConfig, PerplexitySet
from quantexp.errors import DataError


def data(path: Path, **fields: int) -> DataConfig:
    return DataConfig("local", path=str(path), **fields)


def held_out(path: Path, **fields: int) -> PerplexitySet:
    return PerplexitySet("mine", path=str(path), **fields)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(words(999))
    return path


@pytest.fixture
def tokens(text: Path) -> list[int]:
    return tokenizer()(text.read_text())["input_ids"]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_calibration_windows_start_where_random_says(text: Path, tokens: list[int]) -> None:
    assert len(tokens) == 1000
    found = find(data(text, num_samples=5, seq_len=32, seed=7)).load(tokenizer())
    draw = random.Random(7)
    starts = [draw.randint(0, 1000 - 32 - 1) for _ in range(5)]
    assert found.tolist() == [tokens[s : s + 32] for s in starts]
    assert found.dtype == torch.long


def test_another_seed_draws_other_windows(text: Path) -> None:
    first, second = (
        find(data(text, num_samples=5, seq_len=32, seed=s)).load(tokenizer()) for s in (0, 1)
    )
    assert not torch.equal(first, second)


def test_test_windows_do_not_overlap_and_the_rest_is_dropped(text: Path, tokens: list[int]) -> None:
    found = find_set(held_out(text, seq_len=64)).load(tokenizer())
    assert found.shape == (15, 64)
    assert found.flatten().tolist() == tokens[: 15 * 64]


def test_bos_comes_once_at_the_very_start(text: Path) -> None:
    found = find_set(held_out(text, seq_len=64)).load(tokenizer())
    assert found[0, 0] == 1
    assert (found == 1).sum() == 1


def test_max_windows_takes_the_first(text: Path) -> None:
    everything, some = (
        find_set(held_out(text, seq_len=64, **more)).load(tokenizer())
        for more in ({}, {"max_windows": 4})
    )
    assert torch.equal(some, everything[:4])


def test_a_text_of_exactly_one_window_is_one_test_window(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", words(31))
    assert find_set(held_out(path, seq_len=32)).load(tokenizer()).shape == (1, 32)


def test_the_papers_sizes_are_the_defaults(text: Path) -> None:
    source = find(data(text))
    assert (source.count, source.seq_len) == (NUM_SAMPLES, SEQ_LEN) == (128, 2048)


def test_documents_are_joined_by_a_blank_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": t, "other": 1}) for t in ("w3 w4", "w5")]
    path = write(tmp_path / "d.jsonl", lines[0] + "\n\n" + lines[1] + "\n")
    assert find(data(path)).corpus.text == "w3 w4\n\nw5"
    assert find(data(path)).corpus.tokens(tokenizer()) == [1, 3, 4, 5]


def test_a_document_may_hold_any_separator_but_a_newline(tmp_path: Path) -> None:
    # JSON allows these inside a string; str.splitlines would cut the document there
    document = "one\u2028two\x85three"
    path = write(tmp_path / "d.jsonl", json.dumps({"text": document}, ensure_ascii=False) + "\r\n")
    assert find(data(path)).corpus.text == document


def test_a_final_eos_is_no_token_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "w3 w4 </s>")
    assert find(data(path)).corpus.tokens(tokenizer()) == [1, 3, 4]


def test_json_windows_are_used_verbatim(tmp_path: Path) -> None:
    windows = [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    path = write(tmp_path / "w.json", {"windows": windows, "seqlen": 3})
    for seed in (0, 3):
        assert find(data(path, seed=seed)).load(None).tolist() == windows
    assert find(data(path, num_samples=2, seq_len=3)).load(None).tolist() == windows[:2]
    assert find_set(held_out(path, max_windows=1)).load(None).tolist() == windows[:1]


def test_inputs_change_with_whatever_changes_the_windows(text: Path, tmp_path: Path) -> None:
    base = find(data(text, num_samples=4, seq_len=32)).inputs
    assert base["content"] == hashlib.sha256(text.read_bytes()).hexdigest()
    copy = write(tmp_path / "copy.txt", text.read_text())
    assert find(data(copy, num_samples=4, seq_len=32)).inputs == base
    for change in ({"num_samples": 5}, {"seq_len": 33}, {"seed": 1}):
        assert find(data(text, **({"num_samples": 4, "seq_len": 32} | change))).inputs != base
    write(copy, text.read_text() + " w3")
    assert find(data(copy, num_samples=4, seq_len=32)).inputs != base


def test_the_seed_is_no_input_of_windows_that_are_used_verbatim(tmp_path: Path) -> None:
    path = write(tmp_path / "w.json", {"windows": [[5, 6], [7, 8]]})
    assert find(data(path, seed=0)).inputs == find(data(path, seed=1)).inputs


@pytest.mark.parametrize("drawn", [True, False])
def test_a_text_that_is_too_short_is_refused(text: Path, drawn: bool) -> None:
    length = 1000 if drawn else 1001
    source = (find if drawn else find_set)((data if drawn else held_out)(text, seq_len=length))
    with pytest.raises(DataError, match=rf"text\.txt holds 1000 tokens, too few.*{length}"):
        source.load(tokenizer())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: no file '.*gone\.txt'"):
        find(data(tmp_path / "gone.txt"))
    with pytest.raises(DataError, match=r"evaluation\.perplexity 'mine': no file"):
        find_set(held_out(tmp_path / "gone.txt"))


def test_an_unknown_kind_of_file_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", "x")
    with pytest.raises(DataError, match=r"\.txt, \.jsonl, \.json"):
        find(data(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        find(data(write(tmp_path / "t.txt", "")))


@pytest.mark.parametrize("line", ["no json", '{"content": "x"}', "[1]"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "d.jsonl", '{"text": "w3"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"d\.jsonl, line 2"):
        find(data(path)).load(tokenizer())


@pytest.mark.parametrize(
    "content",
    [
        "no json", [[1, 2]], {"tokens": [[1, 2]]}, {"windows": 3}, {"windows": []},
        {"windows": [[1, 2], [3]]}, {"windows": [[1], [2]]}, {"windows": [["a", "b"]]},
        {"windows": [[1, -2]]},
    ],
)  # fmt: skip
def test_what_is_no_list_of_windows_is_refused(tmp_path: Path, content: object) -> None:
    path = write(tmp_path / "w.json", content)
    with pytest.raises(DataError, match=r"w\.json"):
        find(data(path))


def test_json_windows_of_another_length_or_too_few_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.json", {"windows": [[5, 6], [7, 8]]})
    with pytest.raises(DataError, match=r"data: seq_len=3, but the windows of .* have 2"):
        find(data(path, seq_len=3))
    with pytest.raises(DataError, match=r"data\.num_samples=3: .* has 2 windows"):
        find(data(path, num_samples=3))
