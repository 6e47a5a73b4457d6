"""Corpora of the hub and protocols on the command line, without network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny_llama, words
from hub import write_corpus

from quantexp.__main__ import main
from quantexp.experiment import record

BASE = ["model=local", "model.path=model", "cluster=debug", "tracker=none", "method=smoothquant"]
SMALL = ["data=c4", "data.num_samples=4", "data.seq_len=32", "evaluation=papers"]
SHORT = ["evaluation.seq_len=32", "evaluation.max_windows=3", "evaluation.block_error_windows=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    tiny_llama(tmp_path / "model")
    return tmp_path


def test_missing_corpora_are_refused_before_any_work_and_without_torch(folder: Path) -> None:
    code = (
        "import sys; from quantexp.__main__ import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, *BASE, *SMALL, *SHORT],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    for name in ("train.00000-of-01024", "validation.00000-of-00008"):
        assert f"hf download allenai/c4 en/c4-{name}.json.gz --repo-type dataset" in done.stderr
    assert "--revision b08601e04326c79dfdd32d625aee71d232d685c3" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("outputs/cells/*"))


def test_a_cell_runs_on_corpora_in_the_cache(folder: Path) -> None:
    documents = [words(50, seed=i) for i in range(9)]
    for name, split in (("c4", "train"), ("c4", "heldout"), ("wikitext2", "heldout")):
        write_corpus(folder / "home", name, split, documents)
    assert main([*BASE, *SMALL, *SHORT]) == 0
    found = [record.read(path) for path in folder.glob("outputs/cells/*/evaluations/*.json")]
    results = {item["dataset"]: item for item in found if item and item["kind"] == "perplexity"}
    assert set(results) == {"wikitext2", "c4"}
    for name, item in results.items():
        assert item["inputs"]["set"]["revision"]
        assert len(item["details"]["token_hash"]) == 64
        assert item["details"]["windows"] == 3, name
    (report,) = folder.glob("outputs/calibrations/*/report.json")
    drawn = record.read(report)
    assert drawn is not None
    assert len(drawn["token_hash"]) == 64
    assert drawn["token_hash"] not in {i["details"]["token_hash"] for i in results.values()}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("method=smoothquant bits=w4a4", ["no settings for smoothquant", "w8a8"]),
        ("method=gptq bits=w4a16 gptq.act_order=false", ["gptq.act_order=True", "leave it out"]),
    ],
)
def test_what_is_not_the_papers_is_refused(
    wrong: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["tracker=none", "cluster=debug", "protocol=official", *wrong.split()])
    assert code == 2
    message = capsys.readouterr().err
    assert all(part in message for part in said)
