"""``python -m quantexp report``: formats, exit codes, and what it must not import."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_outputs import FakeOutputs
from rich.console import Console

from quantexp.errors import ConfigError
from quantexp.report.cli import main
from quantexp.report.collect import collect
from quantexp.report.table import print_table

PROMISED = {"model", "method", "rounding", "bits", "dataset", "metric", "value"} | {
    *("seed", "cell", "status")
}


@pytest.fixture
def filled(outputs: FakeOutputs) -> FakeOutputs:
    outputs.cell("none", "w16a16", 5.0)
    outputs.cell("rtn", "w4a4", math.nan)
    outputs.calibration(outputs.cell("flatquant", "w4a4", 5.5))
    outputs.cell("awq", "w4a4", state="failed", cause="ValueError: a|b")
    return outputs


def report(outputs: Path, *arguments: str) -> int:
    return main(["--outputs", str(outputs), *arguments])


def test_json_is_valid_with_broken_values(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(filled.root, "--format", "json") == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    rows = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert all(set(row) >= PROMISED for row in rows)
    values = {row["method"]: (row["value"], row["value_text"]) for row in rows}
    assert values == {
        "none": (5.0, None),
        "rtn": (None, "nan"),
        "flatquant": (5.5, None),
        "awq": (None, None),
    }


def test_csv_has_one_line_per_value(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(filled.root, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 4
    assert set(rows[0]) >= PROMISED
    assert {row["method"]: row["value"] for row in rows}["flatquant"] == "5.5"


def test_markdown_is_a_table_with_the_best_in_bold(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(filled.root) == 0  # captured output is no terminal
    header, rule, first, *rest = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")][:3] == [
        *("method", "w/a/k/v/q/group"),
        "pydocs ppl ↓",
    ]
    assert set(rule) <= set("|:-")
    assert "FP16" in first
    assert any("FlatQuant" in line and "**5.50**" in line and "61 s" in line for line in rest)
    assert any("RTN" in line and " nan " in line for line in rest)
    assert any(r"a\|b" in line for line in rest)


def test_a_terminal_gets_a_drawn_table_with_the_best_in_bold(filled: FakeOutputs) -> None:
    text = io.StringIO()
    print_table(collect(filled.root), Console(file=text, force_terminal=True, width=120))
    assert re.search("\x1b\\[1m *5.50\x1b", text.getvalue())
    assert "**" not in text.getvalue()


def test_a_narrow_terminal_keeps_every_value_whole(filled: FakeOutputs) -> None:
    for dataset in ("wikitext2", "c4"):
        filled.evaluation(filled.cell("flatquant"), 12345.67, dataset)
    text = io.StringIO()
    print_table(collect(filled.root), Console(file=text, force_terminal=True, width=72))
    assert text.getvalue().count("12345.67") == 2
    assert "FlatQuant" in text.getvalue()
    assert "…" not in text.getvalue()


def test_no_results_say_how_to_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path) == 1
    assert "run `python -m quantexp" in capsys.readouterr().err
    assert report(tmp_path, "--format", "json") == 1
    assert capsys.readouterr().out == "[]\n"


def test_an_unknown_sweep_is_refused(filled: FakeOutputs) -> None:
    filled.sweep("quickstart", [])
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        report(filled.root, "--sweep", "quikstart")


def test_report_imports_nothing_heavy(filled: FakeOutputs) -> None:
    code = (
        "import sys; from quantexp.report.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'hydra', 'omegaconf', 'pandas', 'numpy', 'wandb'}; "
        "sys.exit(f'imported {found}' if (found := heavy & set(sys.modules)) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--outputs", str(filled.root)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
