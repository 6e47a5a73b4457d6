"""Configurations → distinct cells → jobs, and ``sweep.json``. Cached cells cost no torch."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantexp.config import EXECUTED, ExperimentConfig, baseline
from quantexp.experiment import record, status
from quantexp.experiment.cell import RUN_ONLY, Cell
from quantexp.experiment.run import is_done
from quantexp.resources import GROUPS


@dataclass(frozen=True)
class Job:
    """Cells that share one calibration: run one after the other, so it is done once."""

    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """What a command asks for.

    Attributes:
        cells: All distinct cells, baselines first.
        done: The cells whose records all exist.
        jobs: The rest, grouped by calibration.
    """

    cells: tuple[Cell, ...]
    done: tuple[Cell, ...]
    jobs: tuple[Job, ...]

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that are not done (once the jobs have ended)."""
        return tuple(cell for cell in self.cells if not is_done(cell))


def make(configs: Iterable[ExperimentConfig], baselines: bool) -> Plan:
    """Plans a sweep.

    Args:
        configs: The grid, in order; equal cells count once.
        baselines: Whether the unquantized cell of each model and evaluation is added.
    """
    cells = _distinct(Cell(config) for config in configs)
    if baselines:
        # After the grid, so that a baseline of the grid wins over an equal one added here.
        added = dict.fromkeys(baseline(cell.config) for cell in cells)  # most are equal
        cells = _distinct([*cells, *map(Cell, added)])
    cells.sort(key=lambda cell: cell.quantized)  # stable: baselines first, then the grid's order
    done: list[Cell] = []
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        (done if is_done(cell) else groups.setdefault(cell.calibration, [])).append(cell)
    return Plan(tuple(cells), tuple(done), tuple(Job(tuple(group)) for group in groups.values()))


def sweep_name(name: str | None, overrides: Sequence[str], base: str = "") -> str:
    """The sweep's name: as given, or made from the overrides, so that a repeated command resumes.

    Keys that cannot change a number (where it runs, what stays on disk) do not enter.

    Args:
        name: ``name=`` of the configuration.
        overrides: The command line's.
        base: The name of the sweep's file, which stands alone where no override changes a number.
    """
    if name is not None:
        return name
    heads = tuple(f"{key}{end}" for key in RUN_ONLY for end in ("=", "."))
    chosen = sorted(o for o in overrides if not o.lstrip("+~").startswith(heads))
    if base and not chosen:
        return base
    groups = (o.partition("=") for o in overrides)
    values = "-".join(value for key, _, value in groups if key in GROUPS and f"{key}=" not in heads)
    words = re.sub(r"[^A-Za-z0-9]+", "-", values).strip("-")[:48].strip("-")
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()[:6]
    parts = [part for part in (base, words) if part] or ["sweep"]
    return "-".join([*parts, digest])


def write(plan: Plan, folder: Path, overrides: Sequence[str]) -> None:
    """Writes ``sweep.json``, and the description and state of the cells that will run.

    It happens before anything runs, so that a sweep can be watched and reported from its start.

    Args:
        plan: What will run.
        folder: The sweep's.
        overrides: The command line's; those that a shell would execute are not stored.
    """
    before = record.read(folder / "sweep.json") or {}
    record.write(
        folder / "sweep.json",
        {
            "name": folder.name,
            "overrides": without_executed(overrides),
            "cells": list(dict.fromkeys(cell.id for cell in plan.cells)),
            "created": before.get("created", record.now()),
            "updated": record.now(),
        },
    )
    queue(plan)


def without_executed(overrides: Sequence[str]) -> list[str]:
    """Overrides without those that a shell would execute: a record holds none of them."""
    heads = tuple(f"cluster.{name}" for name in EXECUTED)
    return [text for text in overrides if not text.lstrip("+~").startswith(heads)]


def queue(plan: Plan) -> None:
    """Describes the cells that will run, and marks them queued."""
    for job in plan.jobs:
        for cell in job.cells:
            record.write_signed(cell.folder / "cell.json", cell.describe())
            status.queue(cell.folder)


def _distinct(cells: Iterable[Cell]) -> list[Cell]:
    """Drops cells that would write the same records."""
    found: dict[tuple[str, ...], Cell] = {}
    for cell in cells:
        key = (cell.fingerprint, *(e.file_name for e in cell.evaluations))
        found.setdefault(key, cell)
    return list(found.values())
