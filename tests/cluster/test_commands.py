"""status, logs, cancel and retry on what is on disk, without a SLURM."""

import json
from pathlib import Path

import pytest
from fakes import Work, fake_model, work  # noqa: F401 (a fixture)

from quantexp.__main__ import main
from quantexp.cluster import choose

BASE = ("model=local", "model.path=model", "cluster=debug", "tracker=none", "bits=w4a4", "name=s")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    fake_model(tmp_path / "model")


def test_retry_runs_what_failed_and_nothing_else(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    work.failing["rtn"] = ValueError("boom")
    assert main([*BASE, "method=rtn,smoothquant", "-m"]) == 1
    assert "boom" in capsys.readouterr().out
    assert main(["retry", "s"]) == 1
    work.failing.clear()
    capsys.readouterr()
    assert main(["retry", "s", "cluster.threads=1", "--json"]) == 0
    states = json.loads(capsys.readouterr().out)
    assert set(states.values()) == {"done"}
    assert work.done == ["none", "rtn", "smoothquant", "rtn", "rtn"]
    assert main(["status", "--sweep", "s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    [failed] = [cell for cell in found if "attempts" in cell]
    assert [end["cause"] for end in failed["attempts"]] == ["ValueError: boom"] * 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("retry t", ("unknown sweep 't'", "allowed: s")),
        ("retry s bits=w4a8", ("bits=w4a8", "cluster…")),
        ("retry s cluster.thread=1", ("did you mean 'cluster.threads'",)),
        ("logs demo", ("unknown cell 'demo'",)),
        ("logs rtn", ("has printed anything", "done")),
        ("logs model", ("2 cells",)),
        ("cancel t", ("unknown cell 't'", "sweeps: s")),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    work: Work,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    parts: tuple[str, ...],
) -> None:
    assert main([*BASE, "method=rtn", "-m"]) == 0
    capsys.readouterr()
    assert main(arguments.split()) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in parts), told


def test_an_empty_folder_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "status --watch"):
        assert main(command.split()) == 0
        assert "--outputs names another" in capsys.readouterr().out
    for command in ("logs x", "cancel x", "retry x", "status x"):
        assert main(command.split()) == 2
        assert "yet" in capsys.readouterr().err
    assert main(["clean", "--state", "done"]) == 0
    assert "nothing to free" in capsys.readouterr().out


def test_thousands_of_cells_are_counted_and_not_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose, "_MANY", 3)
    for number in range(4):
        Path(f"outputs/cells/demo-rtn-{number}").mkdir(parents=True)
        Path(f"outputs/cells/demo-rtn-{number}/cell.json").write_text("{}")
    assert main(["logs", "demo-rtn-9"]) == 2
    told = capsys.readouterr().err
    assert "did you mean 'demo-rtn-" in told
    assert "holds 4 cells" in told


def test_an_option_of_some_methods_is_told_with_the_way_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["method=rtn,flatquant,gptq", "method.epochs=1,2", "-m"]) == 2
    told = capsys.readouterr().err
    assert "'method.epochs' of rtn, gptq: flatquant has it" in told
    grids = next(line for line in told.splitlines() if "grids:" in line)
    Path("sweeps").mkdir()
    Path("sweeps/own.yaml").write_text(f"description: d\n{grids.strip()}\n")
    assert main(["sweep=own", "tracker=none", "--dry-run"]) == 0
    assert "cells    5" in capsys.readouterr().out.replace("(", " ")


def test_a_sweep_file_holds_nothing_that_is_executed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("sweeps").mkdir()
    Path("sweeps/own.yaml").write_text(
        "description: d\ngrids: ['method=rtn']\ncommon: 'cluster.setup=[evil]'\n"
    )
    assert main(["sweep=own", "--dry-run"]) == 2
    assert "cluster.setup would be executed" in capsys.readouterr().err


def test_detaching_needs_slurm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BASE, "method=rtn", "cluster.detach=true", "-m"]) == 2
    assert "needs SLURM" in capsys.readouterr().err
    assert not Path("outputs").exists()
