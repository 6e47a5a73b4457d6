"""The W&B workspace as code."""

import json
import os
from pathlib import Path

import pytest
from fake_outputs import FakeOutputs

from quantexp.__main__ import main
from quantexp.tracking.dashboard import result_keys, workspace


@pytest.fixture
def outputs(tmp_path: Path) -> FakeOutputs:
    found = FakeOutputs(tmp_path / "outputs")
    found.sweep("table1", [found.cell("none", "w16a16", 5.0), found.cell("rtn", "w4a4", 9.0)])
    return found


def test_every_result_has_panels_and_a_column(outputs: FakeOutputs) -> None:
    keys = result_keys(outputs.root, "table1")
    assert keys == ["pydocs/ppl"]
    board = workspace("t", "team", "project", keys, "table1")
    sections = {section.name: section.panels for section in board.sections}
    assert list(sections) == ["Results", "Blocks", "Learning"]
    spec = json.loads(board._to_model().model_dump_json(by_alias=True))
    text = json.dumps(spec)
    assert "summary_metrics.pydocs/ppl" in text  # the bars
    assert "summary:effective_bits" in text  # the scatter plot's axis
    assert '"table1"' in text  # only this sweep's runs


def test_without_a_key_it_says_what_to_check(
    outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(outputs.root / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert main(["dashboard", "--outputs", str(outputs.root)]) == 2
    assert "check WANDB_API_KEY" in capsys.readouterr().err


def test_without_results_there_is_nothing_to_lay_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", "--outputs", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
