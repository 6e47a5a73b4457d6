"""The callable that every machine runs: the cells of one job, one after the other."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from quantexp import registry
from quantexp.cluster import slurm
from quantexp.cluster.needs import CALIBRATE
from quantexp.config import ClusterConfig, Resources, from_plain, to_plain
from quantexp.errors import CalibrationError, ConfigError
from quantexp.experiment import faults, record, status
from quantexp.experiment.cell import Cell
from quantexp.experiment.claim import BusyError, SupersededError
from quantexp.experiment.run import calibrate_cell, free, is_done, run_cell, under_way, unused
from quantexp.plugins import known

Config = dict[str, Any]
_MOST_RUNS = 30  # of one SLURM job, however it was requeued


@dataclass(frozen=True)
class Part:
    """Work on one calibration.

    Attributes:
        kind: ``calibrate``, ``evaluate`` or ``both``.
        configs: Plain configurations of the cells to work on.
        sharing: Those of all cells of the plan that share the calibration.
        source: Hash of the plugin that the work was planned with; ``None`` for our own methods.
    """

    kind: str
    configs: tuple[Config, ...]
    sharing: tuple[Config, ...]
    source: str | None = None


def perform(parts: Sequence[Part], environment: Mapping[str, str]) -> int:
    """Does a job's work; its outcome is in the records.

    Args:
        parts: One after the other.
        environment: Variables to set before torch is imported (threads, device, plugins, offline).

    Returns:
        The exit code, 0 when everything is done: what depends on the job starts only then.
    """
    os.environ.update(environment)
    if torch := sys.modules.get("torch"):  # imported before: the variables come too late for it
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        done = [_do(part) for part in parts]  # all of them, also behind one that failed
        return 0 if all(done) else 1
    except SupersededError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        if faults.of_exception(error) != faults.DISK:
            raise
        print(f"error: {error}", file=sys.stderr)
        return faults.DISK_EXIT


def part(kind: str, cells: Sequence[Cell], sharing: Sequence[Cell]) -> Part:
    """The :class:`Part` of these cells, with their plugin as it is now."""
    plugin = registry.plugin(sharing[0].config.method.name)
    own, others = (tuple(to_plain(cell.config) for cell in some) for some in (cells, sharing))
    return Part(kind, own, others, plugin.source if plugin else None)


def perform_detached(parts: Sequence[Part], environment: Mapping[str, str]) -> None:
    """:func:`perform` in a process of its own: no terminal, and SIGTERM ends it like Ctrl-C."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.__stdin__.fileno() if sys.__stdin__ else 0)
    # submitit ignores SIGTERM, which is what the launcher sends to stop its jobs.
    signal.signal(signal.SIGTERM, _interrupt)
    perform(parts, environment)


# First line of a job's script: when the job began. What the setup takes counts for its time limit.
NOTE_START = "export QUANTEXP_STARTED=$(date +%s)"


class SlurmWork:
    """:func:`perform` as a job of SLURM, which may be told to go and is then queued again.

    submitit calls :meth:`checkpoint` when the job's signal comes: ahead of its time limit, and
    on clusters that announce it, ahead of a preemption. Whatever is done is on disk by then.

    Args:
        asked: What the job was given.
        signal_s: Seconds before its time limit that the signal comes.
    """

    def __init__(self, asked: Resources, signal_s: int) -> None:
        self._limit = None if asked.time_min is None else 60 * asked.time_min - signal_s
        self._memory_gb = asked.memory_gb
        self._folder = os.getcwd()
        self._started = 0.0

    def __call__(self, parts: Sequence[Part], environment: Mapping[str, str]) -> None:
        """Runs the job; raises SystemExit with its exit code unless all is done."""
        self._started = float(os.environ.get("QUANTEXP_STARTED") or time.time())
        self._go_back()
        job, restarts = _slurm_job()
        if restarts:
            _note_restart(job, parts)
        if restarts > _MOST_RUNS:
            for cell in _cells(parts):
                status.lost(cell.folder, f"its job was started {restarts} times", faults.REQUEUED)
            sys.exit(1)
        own = {"QUANTEXP_JOB": job, "QUANTEXP_RUN": str(restarts)}
        if self._memory_gb:
            own["QUANTEXP_MEMORY_GB"] = str(self._memory_gb)
        if code := perform(parts, {**environment, **own}):
            sys.exit(code)

    def _go_back(self) -> None:
        """To where the sweep was started: relative paths mean that, whatever the setup did."""
        try:
            os.chdir(self._folder)
        except OSError as error:
            sys.exit(
                f"error: this node cannot go to {self._folder}, where the sweep was started "
                f"({error.strerror}): start it in a folder that nodes see, or mount that folder "
                "in cluster.container"
            )

    def checkpoint(self, parts: Sequence[Part], environment: Mapping[str, str]) -> Any:
        """What is to run again: the same, which goes on behind what is done.

        Raises:
            CalibrationError: Two time limits in a row ended at the same step.
        """
        from submitit.helpers import DelayedSubmission

        ran = time.time() - self._started
        # SLURM looks at its clock once a minute, so the signal may come that much early
        timed_out = self._limit is not None and ran > self._limit - 75
        attempt = under_way()
        if attempt is not None:
            if timed_out and _stuck(attempt):
                raise CalibrationError(
                    f"{attempt.data.get('phase')} does not get further within the time limit: "
                    "give it more with cluster.time_min (or cluster.calibrate.time_min)"
                )
            fault = faults.TIME if timed_out else faults.PREEMPTED
            said = "at its time limit" if timed_out else "preempted"
            attempt.interrupt(f"{said}; queued again", fault)
        return DelayedSubmission(self, parts, environment)


def _check_source(part: Part) -> None:
    """Refuses a plugin that was edited while the job waited: its cells would be others."""
    plugin = registry.plugin(part.configs[0]["method"]["name"]) if part.source else None
    if plugin and plugin.source != part.source:
        raise ConfigError(
            f"{plugin.code} was edited after this job was submitted: the same command again "
            "plans its cells anew"
        )


def _do(part: Part) -> bool:
    _check_source(part)
    if part.kind == CALIBRATE:
        [config] = part.configs
        done = calibrate_cell(config)
        if not done:
            _tell(part)
        return done
    each = [run_cell(config) for config in part.configs]
    cells = [Cell(from_plain(config)) for config in part.sharing]
    # Nobody else of the plan needs the checkpoint once these cells are done.
    records_only = all(cell.config.keep == "records" for cell in cells)
    if records_only and all(map(is_done, cells)):
        with suppress(BusyError), unused(cells[0].checkpoint):
            free(cells[0].checkpoint)
    return all(each)


def _tell(part: Part) -> None:
    """A failed calibration is the failure of every cell that waits for it."""
    [config] = part.configs
    failed = status.read(Cell(from_plain(config)).folder)
    for other in part.sharing:
        cell = Cell(from_plain(other))
        if other != config and not is_done(cell):
            cause = f"its calibration failed: {failed.get('cause')}"
            status.lost(cell.folder, cause, str(failed.get("fault", faults.ERROR)))


def _cells(parts: Sequence[Part]) -> list[Cell]:
    return [Cell(from_plain(config)) for part in parts for config in part.configs]


def _slurm_job() -> tuple[str, int]:
    """Id of the job (``12`` or ``12_3``), and how often SLURM has started it again."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    return job, int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _note_restart(job: str, parts: Sequence[Part]) -> None:
    """Says why the run before ended, where it could not do so itself."""
    for cell in _cells(parts):
        before = record.read(cell.folder / "status.json") or {}
        if before.get("state") == status.RUNNING and before.get("job") == job:
            fault = faults.of_job(slurm.earlier_end(job) or "REQUEUED")
            status.lost(cell.folder, faults.text(fault), fault, status.INTERRUPTED)


def _stuck(attempt: status.Status) -> bool:
    """Whether the attempt before also ended at its time limit, and got as far."""
    now = attempt.data
    before = status.attempts(attempt.path.parent)[-1:]
    return any(
        last.get("fault") == faults.TIME
        and last.get("phase") == now.get("phase")
        and int(now.get("done") or 0) <= int(last.get("done") or 0)
        for last in before
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
    if not any(_needs_hub(cell) for cell in cells):
        variables["HF_HUB_OFFLINE"] = "1"
    return variables
