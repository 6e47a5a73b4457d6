"""The text that every CPython ships."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quantexp.calibration import pydocs, pydocs_cache


def words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).strip().casefold()


def test_deterministic_across_processes(tmp_path: Path) -> None:
    code = "from quantexp.calibration import pydocs; print(pydocs.content_hash())"
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}  # read anew
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert other.stdout.strip() == pydocs.content_hash()
    assert re.fullmatch("[0-9a-f]{64}", pydocs.content_hash())


def test_importing_does_not_need_torch() -> None:
    code = "import sys, quantexp.calibration.pydocs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sizes() -> None:
    train, heldout = pydocs.text("train"), pydocs.text("heldout")
    assert len(train) > 800_000
    assert len(heldout) > 80_000
    assert 0.05 < len(heldout) / (len(train) + len(heldout)) < 0.2


def test_no_paragraph_is_in_both_splits() -> None:
    def paragraphs(split: str) -> set[str]:
        return {
            key
            for part in re.split(r"\n\s*\n", pydocs.text(split))
            if len(key := words(part)) >= pydocs.MIN_PARAGRAPH_CHARS
        }

    assert not paragraphs("train") & paragraphs("heldout")


def test_no_document_twice() -> None:
    everything = [words(text) for split in pydocs.SPLITS for text in pydocs.documents(split)]
    assert len(everything) == len(set(everything))


def test_callers_cannot_change_the_text() -> None:
    pydocs.documents("train").clear()
    assert pydocs.documents("train")


def test_the_split_follows_the_opening_not_the_rest() -> None:
    document = pydocs.documents("heldout")[0]
    assert pydocs._is_heldout(document)
    assert pydocs._is_heldout(document + "\n\nA paragraph that a later Python adds.")


@pytest.mark.parametrize("call", [pydocs.documents, pydocs.text])
def test_unknown_split_names_the_allowed_ones(call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=r"'test'.*train, heldout"):
        call("test")


def test_the_kept_text_is_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def make() -> dict[str, list[str]]:
        made.append(1)
        return {"train": ["a\ud800?"], "heldout": ["b"]}

    source = tmp_path / "source.py"
    source.write_text("1")
    first = pydocs_cache.kept([source], make)
    assert pydocs_cache.kept([source], make) == first
    assert len(made) == 1
    [stored] = (tmp_path / "quantexp").iterdir()
    stored.write_text(stored.read_text().replace('"b"', '"c"'))  # damaged
    assert pydocs_cache.kept([source], make) == first
    source.write_text("22")
    assert pydocs_cache.kept([source], make) == first
    assert len(made) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # no folder: cannot be written
    assert pydocs_cache.kept([source], make) == first
