"""A user's files of documents: parquet, other columns, other ways to join."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from helpers import make_config, tokenizer
from pyarrow import parquet

from quantexp.calibration.data import find
from quantexp.config import DataConfig
from quantexp.errors import ConfigError, DataError

TEXTS = ["w3 w4", "w5", "w6 w7"]


def table(path: Path, column: str = "text") -> Path:
    parquet.write_table(pyarrow.table({column: TEXTS, "n": [1, 2, 3]}), path)
    return path


def lines(path: Path, key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in TEXTS))
    return path


def tokens(path: Path, **fields: Any) -> list[int]:
    source = find(DataConfig("local", path=str(path), num_samples=1, seq_len=2, **fields))
    found: list[int] = source.corpus.tokens(tokenizer())  # type: ignore[attr-defined]
    return found


def test_parquet_and_json_lines_hold_the_same_text(tmp_path: Path) -> None:
    found = [tokens(table(tmp_path / "t.parquet")), tokens(lines(tmp_path / "t.jsonl"))]
    assert found == [[1, 3, 4, 5, 6, 7]] * 2


@pytest.mark.parametrize("make", [table, lines])
def test_another_column_is_read_by_its_name(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / ("t.parquet" if make is table else "t.jsonl"), "sentence")
    assert tokens(path, field="sentence") == [1, 3, 4, 5, 6, 7]
    with pytest.raises(DataError, match=r"sentence|line 1"):
        tokens(path)


def test_join_says_what_stands_between_documents(tmp_path: Path) -> None:
    path = str(lines(tmp_path / "t.jsonl"))
    made = {j: find(DataConfig("d", path=path, join=j)) for j in ("blank_line", "space", "bos")}
    assert made["space"].corpus.text == "w3 w4 w5 w6 w7"
    assert tokens(Path(path), join="bos") == [1, 3, 4, 1, 5, 1, 6, 7]
    assert len({str(source.inputs) for source in made.values()}) == 3
    assert made["blank_line"].inputs == find(DataConfig("d", path=path)).inputs


def test_join_and_field_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("w3")
    with pytest.raises(DataError, match=r"join=bos.*\.jsonl"):
        find(DataConfig("d", path=str(text), join="bos"))
    with pytest.raises(ConfigError, match=r"data\.join 'comma'.*allowed: blank_line, bos, space"):
        make_config("m", data={"name": "d", "path": "x.jsonl", "join": "comma"})
    with pytest.raises(ConfigError, match="corpus=c4 has its own"):
        make_config("m", data={"name": "d", "corpus": "c4", "join": "bos"})
    with pytest.raises(ConfigError, match=r"data\.corpus 'c5'.*did you mean 'c4'"):
        make_config("m", data={"name": "d", "corpus": "c5"})


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "t.parquet"
    broken.write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=r"t\.parquet is no parquet file"):
        tokens(broken)
