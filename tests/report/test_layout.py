"""Every number keeps a place of its own, however the table is turned."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_outputs import FakeOutputs

from quantexp.errors import ConfigError
from quantexp.report import styled
from quantexp.report.cli import main
from quantexp.report.collect import collect
from quantexp.report.compare import compare
from quantexp.report.layout import Grid, lay_out
from quantexp.report.view import View


@pytest.fixture
def filled(outputs: FakeOutputs) -> FakeOutputs:
    for n, model in enumerate(("llama_a", "llama_b")):
        outputs.cell("none", "w16a16", 5.0 + n, model=model)
        for m, label in enumerate(("flatquant", "awq", "rtn")):
            cell = outputs.cell(label, ppl=6.0 + n + m, model=model)
            outputs.evaluation(cell, 7.0 + n + m, "my_set")
    outputs.cell("smoothquant", model="llama_b", state="failed", cause="ValueError: 5% & {x}_y ü漢")
    return outputs


def grid(outputs: FakeOutputs, view: View | None = None) -> Grid:
    return lay_out(compare(collect(outputs.root), view), view)


def shown(table: Grid) -> dict[tuple[str, ...], list[str]]:
    return {column.header: [cell.text for cell in column.cells] for column in table.columns}


def test_models_stand_in_columns_as_in_papers(filled: FakeOutputs) -> None:
    table = grid(filled, View(cols=("model", "dataset")))
    found = shown(table)
    assert list(found)[:3] == [
        *(("", "method"), ("", "w/a/k/v/q/group")),
        ("llama_a", "my_set ppl ↓"),
    ]
    assert found["", "method"] == ["FP16", "RTN", "AWQ", "FlatQuant", "SmoothQuant"]
    by_method = dict(zip(found["", "method"], found["llama_b", "my_set ppl ↓"], strict=True))
    assert (by_method["FlatQuant"], by_method["RTN"]) == ("8.00", "10.00")
    # an unfinished cell shows its state where its number would be
    assert by_method["SmoothQuant"] == "failed"


@pytest.mark.parametrize(
    "view",
    [
        View(cols=("model", "dataset")),
        View(cols=("method",)),
        View(rows=("dataset", "method")),
        View(rows=("bits",), cols=("dataset", "model")),
        View(rows=("protocol", "model", "method", "bits", "dataset")),
    ],
)
def test_no_number_is_lost(filled: FakeOutputs, view: View) -> None:
    texts = [cell.text for column in grid(filled, view).columns for cell in column.cells]
    expected = [e.text for line in compare(collect(filled.root)).lines for e in line.entries]
    for text in set(expected) - {"–"}:
        assert texts.count(text) == expected.count(text)


def test_cells_known_by_name_only_have_a_line(outputs: FakeOutputs) -> None:
    outputs.sweep("s", ["demo-awq-w4a4-12345678"])
    assert shown(grid(outputs))["method",] == ["demo-awq-w4a4-12345678"]


def test_wrong_dimensions_and_metrics_are_refused(filled: FakeOutputs) -> None:
    with pytest.raises(ConfigError, match="did you mean 'method'"):
        View(rows=("metod",))
    with pytest.raises(ConfigError, match="twice"):
        View(rows=("model",), cols=("model",))
    with pytest.raises(ConfigError, match="unknown metric 'accuracy'"):
        main(["--outputs", str(filled.root), "--metric", "accuracy"])


def test_the_second_is_marked_among_three_or_more(filled: FakeOutputs) -> None:
    lines = compare(collect(filled.root)).lines
    marks = {ln.method: (ln.entries[0].best, ln.entries[0].second) for ln in lines}
    assert marks["FlatQuant"] == (True, False)
    assert marks["AWQ"] == (False, True)
    assert marks["RTN"] == marks["FP16"] == (False, False)


def test_html_is_one_page_with_escaped_text(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.cell("<b>x", ppl=1.0)
    assert main(["--outputs", str(filled.root), "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in page
    assert "&lt;b&gt;x" in page
    assert "<b>x" not in page
    assert "http" not in page  # nothing is loaded
    assert re.search(r'class="number second" data-value="7.0">7.00<', page)
    table = styled.to_html(grid(filled, View()))
    assert re.search(r'class="data row\d col3 number second" ?>7.00<', table)


def test_latex_uses_booktabs_and_escapes(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--outputs", str(filled.root), "--format", "latex", "--cols", "model"]) == 0
    text = capsys.readouterr().out
    assert "\\toprule" in text
    assert "\\cmidrule(lr){3-4} \\cmidrule(lr){5-6}" in text
    assert "\\textbf{6.00}" in text
    assert "\\underline{7.00}" in text
    assert "llama\\_a" in text
    assert "5\\% \\& \\{x\\}\\_y ü?" in text
    assert text.count("\\midrule") == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("view", [View(), View(cols=("model", "dataset")), View(cols=("method",))])
def test_latex_compiles(filled: FakeOutputs, tmp_path: Path, view: View) -> None:
    filled.cell(r"a\b~^_$#", ppl=1.0)
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        f"{styled.to_latex(grid(filled, view))}\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
