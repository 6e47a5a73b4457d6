"""Planning: distinct cells, one calibration per job, nothing twice, stable names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import fake_model, finish

from quantexp.config import ExperimentConfig, from_plain
from quantexp.experiment import plan
from quantexp.experiment.cell import Cell
from quantexp.experiment.claim import Claim
from quantexp.experiment.clean import main as clean
from quantexp.experiment.status import Status

BITS = {
    "weight": {"bits": 4, "dynamic": False},
    **{t: {"granularity": "per_head"} for t in ("key", "value", "query")},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentConfig:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some words " * 100)
    model = fake_model(tmp_path / "model")
    return make(model)


def make(model: Path, activation: int = 4, **changes: object) -> ExperimentConfig:
    bits = BITS | {"activation": {"bits": activation, "granularity": "per_token"}}
    data = {
        "model": {"name": "local", "source": "local", "path": str(model)},
        "method": {"name": "rtn"},
        "bits": bits,
        "data": {"name": "local", "path": "text.txt", "num_samples": 2, "seq_len": 8},
        "evaluation": {"name": "local", "path": "text.txt", "seq_len": 8},
        "protocol": {"name": "uniform"},
        "cluster": {"name": "debug"},
        "tracker": {"name": "none", "mode": "disabled"},
    }
    return from_plain(data | changes)


def test_equal_cells_count_once_and_the_baseline_comes_first(config: ExperimentConfig) -> None:
    made = plan.make([config, replace(config, keep="records"), config], baselines=True)
    assert [cell.config.label for cell in made.cells] == ["none", "rtn"]


def test_a_baseline_of_the_grid_is_not_added_again(config: ExperimentConfig) -> None:
    grid = [config, make(Path("model"), method={"name": "none"})]
    assert len(plan.make(grid, baselines=True).cells) == 2


def test_every_model_has_its_baseline(config: ExperimentConfig) -> None:
    fake_model(Path("other"), vocab_size=50)
    made = plan.make([config, make(Path("other"))], baselines=True)
    assert [cell.config.label for cell in made.cells] == ["none", "none", "rtn", "rtn"]


def test_cells_that_share_a_calibration_are_one_job(config: ExperimentConfig) -> None:
    made = plan.make([config, make(Path("model"), activation=8)], baselines=False)
    [job] = made.jobs
    assert len(job.cells) == 2
    assert job.cells[0].calibration == job.cells[1].calibration
    gptq = [make(Path("model"), a, rounding="gptq") for a in (4, 8)]
    assert len(plan.make(gptq, baselines=False).jobs) == 2  # GPTQ sees the activations' bits


def test_done_cells_are_in_no_job(config: ExperimentConfig) -> None:
    finish(Cell(config))
    made = plan.make([config], baselines=True)
    assert [cell.config.label for cell in made.done] == ["rtn"]
    assert [cell.config.label for job in made.jobs for cell in job.cells] == ["none"]


def test_sweep_names_are_stable_and_ignore_where_it_runs() -> None:
    name = plan.sweep_name(None, ["method=rtn,gptq", "bits=w4a4", "seed=1"])
    assert name.startswith("rtn-gptq-w4a4-")
    moved = ["cluster=debug", "seed=1", "bits=w4a4", "method=rtn,gptq", "paths.outputs=/x"]
    assert plan.sweep_name(None, moved)[-6:] == name[-6:]
    assert plan.sweep_name(None, ["method=rtn,gptq", "bits=w4a4", "seed=2"]) != name
    assert plan.sweep_name("mine", []) == "mine"


def test_the_sweep_is_written_before_it_runs(config: ExperimentConfig) -> None:
    made = plan.make([config], baselines=True)
    plan.write(made, Path("outputs/sweeps/s"), ["a=1"])
    stored = json.loads(Path("outputs/sweeps/s/sweep.json").read_text())
    assert stored["cells"] == [cell.id for cell in made.cells]
    for cell in made.cells:
        assert json.loads((cell.folder / "cell.json").read_text())["cell"] == cell.id


def records(root: Path) -> set[Path]:
    return set(root.rglob("*.json"))


def test_clean_frees_space_and_never_a_record(
    config: ExperimentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell(config)
    plan.write(plan.make([config], baselines=False), Path("outputs/sweeps/s"), [])
    Status(cell.folder).finish()
    finish(cell)
    weights = cell.checkpoint / "checkpoint" / "00000.safetensors"
    before = records(Path("outputs"))
    assert clean(["--state", "done", "--dry-run"]) == 0
    assert weights.exists()
    assert clean(["--older-than", "7d"]) == 0
    assert weights.exists()
    assert clean(["--sweep", "s"]) == 0
    assert not weights.exists()
    assert records(Path("outputs")) == before
    assert cell.id in capsys.readouterr().out
    assert not cell.missing


@pytest.mark.parametrize("reader", ["", ".some-cell"])
def test_clean_keeps_what_a_job_or_another_sweep_uses(
    config: ExperimentConfig, reader: str
) -> None:
    shared = make(Path("model"), activation=8)
    plan.write(plan.make([config], baselines=False), Path("outputs/sweeps/a"), [])
    plan.write(plan.make([config, shared], baselines=False), Path("outputs/sweeps/b"), [])
    for cell in (Cell(config), Cell(shared)):
        Status(cell.folder).finish()
        finish(cell)
    weights = Cell(config).checkpoint / "checkpoint" / "00000.safetensors"
    clean(["--sweep", "a"])
    assert weights.exists()
    checkpoint = Cell(config).checkpoint
    with Claim(checkpoint.with_name(f".{checkpoint.name}{reader}.claim")):
        clean(["--sweep", "b"])
    assert weights.exists()
    clean(["--sweep", "b"])
    assert not weights.exists()
