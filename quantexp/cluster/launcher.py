"""Hydra's ``-m``: the grid's lists of overrides become cells, and every list gets its result.

A sweeper that searches (Optuna, Nevergrad, …) reads the results' ``return_value``: the objective.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from quantexp.cluster import session
from quantexp.config import ExperimentConfig
from quantexp.errors import CellError, ConfigError
from quantexp.evaluation import objective
from quantexp.experiment import plan, tuning
from quantexp.experiment.cell import Cell
from quantexp.grid.compose import Composer

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class FailedReturn(JobReturn):
    """A failed result that raises without Hydra's own line on it: the table has said it."""

    @property
    def return_value(self) -> Any:
        """Raises what the cell left."""
        raise self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def launch(loader: Any, master: Any, grid: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Composes, checks and runs the whole grid.

    Args:
        loader: Hydra's configuration loader.
        master: The composed configuration of the command itself.
        grid: One list of overrides per cell.

    Returns:
        One result per list, in order; the automatic baselines are not among them.
    """
    composer = Composer(lambda overrides: loader.load_sweep_config(master, overrides))
    composed = [composer(overrides) for overrides in grid]
    configs = session.checked(composed, grid)
    given = list(master.hydra.overrides.task)
    searching = str(master.hydra.sweeper._target_) != _BASIC
    if searching:
        _check(configs)
    made = session.run_sweep(configs, given)
    failed = {cell.id for cell in made.failed}
    results = []
    for data, overrides, own in zip(composed, grid, configs, strict=True):
        cell = Cell(own).id
        bad = cell in failed
        result = FailedReturn() if bad else JobReturn()
        result.overrides, result.cfg = overrides, OmegaConf.create(data)
        result.hydra_cfg = master.hydra  # of the command: no sweeper asks for a cell's own
        result.status = JobStatus.FAILED if bad else JobStatus.COMPLETED
        result.return_value = CellError(f"cell {cell} failed") if bad else _value(own)
        results.append(result)
    if searching:
        folder = made.cells[0].outputs / "sweeps" / plan.sweep_name(configs[0].name, given)
        trials = [
            {
                "cell": Cell(own).id,
                "overrides": plan.without_executed(overrides),
                "value": _value(own),
            }
            for overrides, own in zip(grid, configs, strict=True)
        ]
        tuning.note(folder, configs[0].objective, trials)
    return results


def _value(config: ExperimentConfig) -> float | None:
    cell = Cell(config)
    records = (cell.result(evaluation) for evaluation in cell.evaluations)
    return objective.value(config.objective, [data for data in records if data is not None])


def _check(configs: Sequence[ExperimentConfig]) -> None:
    """A search without a number to search by is refused before it begins."""
    for config in configs:
        if config.cluster.detach:
            raise ConfigError(
                "cluster.detach=true: this sweeper chooses cells by the results of others, so it "
                "must wait for them: leave it out"
            )
        if config.objective == objective.BLOCK_ERROR and not config.evaluation.block_error_windows:
            raise ConfigError(
                "objective=block_error needs evaluation.block_error_windows=4 (or more), it is 0: "
                "set it, or take objective=validation/NAME"
            )
