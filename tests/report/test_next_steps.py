"""What a command suggests at its end can be run as it stands."""

import re
import shlex
from pathlib import Path

import pytest
from fake_outputs import FakeOutputs

from quantexp.__main__ import main


@pytest.fixture
def filled(outputs: FakeOutputs) -> FakeOutputs:
    cells = [outputs.cell("none", "w16a16", 5.0), outputs.cell("rtn", ppl=7.25)]
    outputs.calibration(cells[1])
    outputs.sweep("demo", cells)
    return outputs


def suggested(text: str) -> list[list[str]]:
    """The arguments of each `python -m quantexp …` in what was printed."""
    found = re.findall(r"python -m quantexp ((?:[^;,\s]+ ?)+)", text)
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["report", "--sweep", "demo", "--format", "md", "--to", "t.md"], "report"),
        (["figures", "demo", "--format", "svg", "--kind", "cost"], "report"),
        (["status", "--sweep", "demo"], "report"),
        (["status"], "report"),
    ],
)
def test_the_next_command_works(
    filled: FakeOutputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    wanted: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for there in (["--outputs", str(filled.root)], []):
        # where commands look anyway, a suggestion does not say it
        monkeypatch.setenv("QUANTEXP_OUTPUTS", str(tmp_path / "no" if there else filled.root))
        assert main([*arguments, *there]) == 0
        printed = "".join(capsys.readouterr())
        (found,) = suggested(printed)
        assert found[0] == wanted
        assert ("--outputs" in found) == bool(there)
        assert main(found) == 0
        capsys.readouterr()


def test_failed_and_running_cells_are_told_what_helps_them(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    filled.sweep("bad", [filled.cell("awq", state="failed", cause="boom")])
    assert main(["status", "--sweep", "bad", "--outputs", str(filled.root)]) == 0
    out = capsys.readouterr().out
    assert "python -m quantexp logs CELL" in out
    assert "python -m quantexp retry bad" in out
    filled.sweep("busy", [filled.cell("awq", "w4a16", state="running")])
    assert main(["status", "--sweep", "busy", "--outputs", str(filled.root)]) == 0
    assert "--watch" in capsys.readouterr().out


def test_a_page_says_how_to_see_it_live(
    filled: FakeOutputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["--format", "html", "--to", str(tmp_path / "page.html")]
    assert main(["report", "--sweep", "demo", "--outputs", str(filled.root), *to]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'page.html'}\n"  # for programs
    assert f"python -m quantexp serve --sweep demo --outputs {filled.root}" in err
