"""The callable that every machine runs: the cells of one job, one after the other."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from quantexp import registry
from quantexp.config import ClusterConfig, from_plain
from quantexp.errors import ConfigError
from quantexp.experiment.cell import Cell
from quantexp.experiment.run import free, run_cell
from quantexp.plugins import known

_SOURCE = "QUANTEXP_PLUGIN_SOURCE"  # variable: the hash of the plugin that the job was planned with


def run(configs: Sequence[dict[str, Any]], environment: Mapping[str, str]) -> None:
    """Runs a job; its outcome is in the records, so nothing is returned.

    Args:
        configs: Plain configurations of cells that share one calibration.
        environment: Variables to set before torch is imported (threads, device, plugins, offline).
    """
    os.environ.update(environment)
    if torch := sys.modules.get("torch"):  # imported before: the variables come too late for it
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    _check_source(configs, environment)
    done = [run_cell(config) for config in configs]
    # Nobody else of the plan needs the checkpoint: all cells that share it are of this job.
    if all(done) and all(config["keep"] == "records" for config in configs):
        free(Cell(from_plain(configs[0])).checkpoint)


def run_detached(configs: Sequence[dict[str, Any]], environment: Mapping[str, str]) -> None:
    """:func:`run` in a process of its own: no terminal, and SIGTERM ends it like Ctrl-C."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.__stdin__.fileno() if sys.__stdin__ else 0)
    # submitit ignores SIGTERM, which is what the launcher sends to stop its jobs.
    signal.signal(signal.SIGTERM, _interrupt)
    run(configs, environment)


def _check_source(configs: Sequence[dict[str, Any]], environment: Mapping[str, str]) -> None:
    """Refuses a plugin that was edited while the job waited: its cells would be others."""
    planned = environment.get(_SOURCE)
    plugin = registry.plugin(configs[0]["method"]["name"]) if planned else None
    if plugin and plugin.source != planned:
        raise ConfigError(
            f"{plugin.code} was edited after this job was submitted: the same command again "
            "plans its cells anew"
        )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the status short
    raise KeyboardInterrupt


def _needs_hub(cell: Cell) -> bool:
    evaluation = cell.config.evaluation
    from_hub = bool(evaluation.tasks) and evaluation.task_data is None
    return from_hub or cell.config.model.source not in ("demo", "local")


def environment(cells: Sequence[Cell], cluster: ClusterConfig) -> dict[str, str]:
    """Variables of a job: a fixed number of threads, the plugins, no network if none is needed."""
    threads = str(cluster.threads)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what deterministic results on a GPU need
    if folders := os.environ.get(known.VARIABLE):
        variables[known.VARIABLE] = folders
    if plugin := registry.plugin(cells[0].config.method.name):
        variables[_SOURCE] = plugin.source
    if not any(_needs_hub(cell) for cell in cells):
        variables["HF_HUB_OFFLINE"] = "1"
    return variables
