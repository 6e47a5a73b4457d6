"""Hydra's ``-m``: the grid's lists of overrides become cells, and every list gets its result."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict

from quantexp.cluster import session
from quantexp.errors import CellError
from quantexp.experiment.cell import Cell


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
    composed = []
    for overrides in grid:
        config = loader.load_sweep_config(master, list(overrides))
        with open_dict(config):
            hydra = config.pop("hydra")
        data: Any = OmegaConf.to_container(config, resolve=True)
        composed.append((config, hydra, data))
    configs = session.checked([data for _, _, data in composed], grid)
    made = session.run_sweep(configs, list(master.hydra.overrides.task))
    failed = {cell.id for cell in made.failed}
    results = []
    for (config, hydra, _), overrides, own in zip(composed, grid, configs, strict=True):
        cell = Cell(own).id
        bad = cell in failed
        result = FailedReturn() if bad else JobReturn()
        result.overrides, result.cfg, result.hydra_cfg = overrides, config, hydra
        result.status = JobStatus.FAILED if bad else JobStatus.COMPLETED
        result.return_value = CellError(f"cell {cell} failed") if bad else cell
        results.append(result)
    return results
