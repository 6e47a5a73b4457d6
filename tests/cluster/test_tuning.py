"""Options are searched by calibration error or a validation set; a test set is never seen."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_model
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton

from quantexp.__main__ import main
from quantexp.evaluation import objective
from quantexp.experiment import record, run
from quantexp.experiment.cell import Cell
from quantexp.experiment.status import Status

SWEEPER = '''
from dataclasses import dataclass
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore

@dataclass
class Conf:
    _target_: str = "hydra_plugins.greedy.GreedySweeper"

ConfigStore.instance().store(group="hydra/sweeper", name="greedy", node=Conf, provider="test")
SEEN = []

class GreedySweeper(BasicSweeper):
    """Goes down in steps of 0.1 while the returned value falls."""

    def __init__(self):
        super().__init__(max_batch_size=None)

    def sweep(self, arguments):
        alpha, last = 0.8, float("inf")
        while True:
            overrides = [*arguments, f"method.alpha={alpha:.1f}"]
            self.validate_batch_is_legal([overrides])
            [result] = self.launcher.launch([overrides], initial_job_idx=0)
            SEEN.append((round(alpha, 1), result.return_value))
            if result.return_value >= last:
                return
            last, alpha = result.return_value, alpha - 0.1
'''


def work(cell: Cell, status: Status, calibrated: Callable[[], None]) -> None:
    """The error of blocks is least at alpha=0.6, a test set's perplexity at 0.8."""
    alpha = getattr(cell.config.method.options, "alpha", 0.0)
    for item in cell.evaluations:
        content: dict[str, Any] = {"kind": item.kind, "dataset": item.name, "metric": "ppl"}
        content["value"] = 10 - alpha if item.kind == "perplexity" else 10 + abs(alpha - 0.7)
        if item.kind == "block_error":
            blocks = [{"block": i, "mse": 1.0, "sqnr_db": -abs(alpha - 0.6)} for i in range(2)]
            content |= {"metric": "sqnr_db", "value": 0.0, "details": {"blocks": blocks}}
        record.write_signed(cell.folder / "evaluations" / item.file_name, content)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTEXP_OUTPUTS", raising=False)
    monkeypatch.setattr(run, "_calibrate_and_evaluate", work)
    fake_model(tmp_path / "model")
    (tmp_path / "dev.txt").write_text("long enough " * 1000)
    plugin = tmp_path / "plugins" / "hydra_plugins" / "greedy"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(SWEEPER)
    # Hydra looks for plugins once per process
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "plugins")])
    before = Singleton._instances.pop(Plugins, None)
    modules = {name: sys.modules.pop(name) for name in list(sys.modules) if _plugin(name)}
    yield tmp_path
    for name in [name for name in sys.modules if _plugin(name)]:
        del sys.modules[name]
    sys.modules.update(modules)
    Singleton._instances.pop(Plugins, None)
    if before is not None:
        Singleton._instances[Plugins] = before


def _plugin(name: str) -> bool:
    return name.split(".")[0] == "hydra_plugins"


BASE = ("model=local", "model.path=model", "cluster=debug", "tracker=none")
SEARCH = ("method=smoothquant", "bits=w8a8", "-m", "hydra/sweeper=greedy")
DEV = "evaluation.validation=[{name:dev,path:dev.txt,seq_len:64}]"


def seen() -> list[tuple[float, float]]:
    return list(sys.modules["hydra_plugins.greedy"].SEEN)


def test_a_sweeper_gets_the_block_error_and_never_a_test_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*BASE, *SEARCH, "cluster.setup=[secret]"]) == 0
    # at the test set's best alpha, 0.8, it would have stopped after two steps
    assert [alpha for alpha, _ in seen()] == [0.8, 0.7, 0.6, 0.5]
    assert min(seen(), key=lambda pair: pair[1])[0] == 0.6
    [sweep] = Path("outputs/sweeps").iterdir()
    assert len(json.loads((sweep / "sweep.json").read_text())["cells"]) == 5  # with the baseline
    tuning = json.loads((sweep / "tuning.json").read_text())
    assert "secret" not in (sweep / "tuning.json").read_text()
    assert (tuning["objective"], len(tuning["trials"])) == ("block_error", 4)
    capsys.readouterr()
    assert main(["report"]) == 0
    told = capsys.readouterr().out
    [line] = [line for line in told.splitlines() if line.startswith("|") and "‡" in line]
    assert "alpha=0.6" in line
    assert "9.40‡" in line
    assert "chosen among 4 trials by the mean relative block error on the calibration" in told


def test_a_validation_set_may_be_searched_on_and_is_in_no_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*BASE, *SEARCH, DEV, "objective=validation/dev"]) == 0
    assert [alpha for alpha, _ in seen()] == [0.8, 0.7, 0.6]
    capsys.readouterr()
    assert main(["report"]) == 0
    told = capsys.readouterr().out
    assert "dev ppl" not in told
    assert "perplexity on the validation set dev" in told


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("objective=pydocs",), ("objective=pydocs is a test set", "too good", "validation/NAME")),
        (("objective=perplexity/pydocs",), ("is a test set",)),
        (("objective=piqa", "evaluation.tasks=[piqa]"), ("objective=piqa is a test set",)),
        (("objective=blok_error",), ("did you mean 'block_error'", "validation/NAME")),
        (("objective=validation/dev",), ("validation/dev", "evaluation.validation=")),
        ((DEV.replace("dev,", "pydocs,"),), ("'pydocs' is the test set 'pydocs'", "another text")),
        (("evaluation.path=dev.txt", DEV), ("'dev' is the test set 'dev'",)),
        (("evaluation.block_error_windows=0", *SEARCH[2:]), ("block_error_windows=4",)),
    ],
    ids=str,
)
def test_what_must_not_be_searched_by_is_refused_by_name(
    arguments: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BASE, *SEARCH[:2], *arguments]) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told
    assert not Path("outputs").exists()


def test_a_plain_grid_is_reduced_to_its_best_by_the_objective(
    capsys: pytest.CaptureFixture[str],
) -> None:
    grid = ("method=smoothquant", "bits=w8a8", "method.alpha=0.4,0.6,0.8", "data.seed=0,1", "-m")
    assert main([*BASE, *grid]) == 0
    capsys.readouterr()
    assert main(["report", "--best-by", "block_error"]) == 0
    told = capsys.readouterr().out
    [line] = [line for line in told.splitlines() if line.startswith("| SmoothQuant")]
    assert "9.40±0.00 (2)‡" in line
    assert "‡ SmoothQuant 8/8/16/16/16/–: alpha=0.6 chosen among 3 settings by the mean" in told
    assert main(["report", "--best-by", "pydocs"]) == 2
    assert "objective=pydocs is a test set" in capsys.readouterr().err
    assert main(["report", "--best-by", "validation/dev"]) == 2
    assert "no cell has it" in capsys.readouterr().err


def test_the_objective_of_block_errors_is_relative_to_the_signal() -> None:
    blocks = [{"sqnr_db": 10.0}, {"sqnr_db": 20.0}, {"sqnr_db": float("inf")}]
    found = objective.value("block_error", [{"kind": "block_error", "details": {"blocks": blocks}}])
    assert found == pytest.approx((0.1 + 0.01 + 0) / 3)
    assert objective.value("block_error", [{"kind": "perplexity", "value": 2.0}]) is None
