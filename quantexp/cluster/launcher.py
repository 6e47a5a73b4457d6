"""Hydra's ``-m``: the grid's lists of overrides become cells, and every list gets its result."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from quantexp.cluster import session
from quantexp.errors import CellError
from quantexp.experiment.cell import Cell
from quantexp.grid.compose import Composer


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
    made = session.run_sweep(configs, list(master.hydra.overrides.task))
    failed = {cell.id for cell in made.failed}
    results = []
    for data, overrides, own in zip(composed, grid, configs, strict=True):
        cell = Cell(own).id
        bad = cell in failed
        result = FailedReturn() if bad else JobReturn()
        result.overrides, result.cfg = overrides, OmegaConf.create(data)
        result.hydra_cfg = master.hydra  # of the command: no sweeper asks for a cell's own
        result.status = JobStatus.FAILED if bad else JobStatus.COMPLETED
        result.return_value = CellError(f"cell {cell} failed") if bad else cell
        results.append(result)
    return results
