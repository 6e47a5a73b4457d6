"""Plans as arrays: indices pair, nothing waits without need, limits of SLURM are kept."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from configs import make
from fakes import finish

from quantexp.cluster.arrays import Array, arrays
from quantexp.cluster.needs import (
    BOTH,
    CALIBRATE,
    EVALUATE,
    SBATCH_VARIABLES,
    needs,
    sbatch_options,
)
from quantexp.cluster.place import variables_set
from quantexp.config import ExperimentConfig
from quantexp.experiment import faults, plan, status
from quantexp.experiment.cell import Cell

SPLIT = {"calibrate": {"time_min": 600}, "evaluate": {"time_min": 60}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def planned(
    *configs: ExperimentConfig, longest: int = 1001, room: int | None = None, **busy: tuple[str]
) -> list[Array]:
    jobs = plan.make(configs, baselines=True).jobs
    return arrays(jobs, busy, longest, room)


def grid(cluster: dict[str, Any]) -> list[ExperimentConfig]:
    """Calibrations with one, three and two evaluations."""
    pairs = [(8, 3), (4, 4), (6, 4), (8, 4), (4, 5), (8, 5)]
    return [make(activation, weight, cluster) for activation, weight in pairs]


def test_equal_resources_are_one_job_per_calibration() -> None:
    kinds = [(array.kind, len(array.tasks)) for array in planned(*grid({}))]
    assert kinds == [(BOTH, 4)]  # three calibrations and the baseline


def test_every_evaluation_pairs_with_its_own_calibration() -> None:
    found = planned(*grid(SPLIT))
    kinds = [(array.kind, len(array.tasks), array.pairs) for array in found]
    # the baseline waits for nothing; then calibrations, and a layer per further evaluation
    assert kinds == [
        (EVALUATE, 1, False),
        (CALIBRATE, 3, False),
        (EVALUATE, 3, True),
        (EVALUATE, 2, True),
        (EVALUATE, 1, True),
    ]
    calibrations = next(a for a in found if a.kind == CALIBRATE and len(a.tasks) == 3)
    for array in found[found.index(calibrations) + 1 :]:
        for own, before in zip(array.tasks, calibrations.tasks, strict=False):
            assert set(own.cells) <= set(before.cells)
    evaluated = [c for array in found if array.pairs for task in array.tasks for c in task.cells]
    assert len(evaluated) == len(set(evaluated)) == 6


def test_cached_calibrations_wait_for_nothing() -> None:
    for config in grid(SPLIT)[1:4]:
        cell = Cell(config)
        finish(cell)
        for path in (cell.folder / "evaluations").iterdir():
            path.unlink()
    found = planned(*grid(SPLIT))
    free = [a for a in found if a.kind == EVALUATE and not a.pairs]
    assert sum(len(array.tasks) for array in free) == 4  # these three and the baseline
    assert [len(a.tasks) for a in found if a.kind == CALIBRATE] == [2]


def test_arrays_are_no_longer_than_slurm_allows() -> None:
    found = planned(*grid(SPLIT), longest=2)
    assert max(len(array.tasks) for array in found) == 2
    for before, array in pairwise(found):
        if array.pairs and not before.pairs:
            assert len(array.tasks) == len(before.tasks)


def test_where_the_queue_has_less_room_a_task_does_several_jobs() -> None:
    for room in (3, 5, 7):
        found = planned(*grid(SPLIT), room=room)
        assert 0 < sum(len(array.tasks) for array in found) <= room
        parts = [p for a in found for t in a.tasks for p in t.parts if p.kind == EVALUATE]
        assert sum(len(part.configs) for part in parts) == 7
    assert planned(*grid(SPLIT), room=2) == []


def test_a_calibration_under_way_elsewhere_is_waited_for() -> None:
    config = make(cluster={})
    found = planned(config, **{Cell(config).calibration: ("7_1",)})
    assert [array.waits for array in found if array.waits] == [("7_1",)]


def test_many_calibrations_under_way_are_waited_for_as_an_array(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quantexp.cluster.arrays._APART", 3)
    configs = [make(weight=bits, cluster={}) for bits in (2, 3, 4, 5)]
    busy = {Cell(config).calibration: (f"7_{i}",) for i, config in enumerate(configs)}
    waits = [array.waits for array in planned(*configs[:3], **busy) if array.waits]
    assert waits == [("7_0",), ("7_1",), ("7_2",)]
    [waiting] = [array for array in planned(*configs, **busy) if array.waits]
    assert (waiting.waits, len(waiting.tasks)) == (("7",), 4)


def test_resources_come_from_the_kind_then_the_cluster_then_the_models_size() -> None:
    own = {"partition": "a", "time_min": 5, "evaluate": {"time_min": 7}, "gpus": 2}
    cell = Cell(make(cluster={**own, "gpu_type": "a100", "sbatch": ["exclusive", "nice=3"]}))
    assert needs(cell, CALIBRATE).time_min == 5
    asked = needs(cell, EVALUATE)
    assert (asked.time_min, asked.partition, asked.cpus, asked.memory_gb) == (7, "a", 2, 4.0)
    options = sbatch_options(asked, cell.config.cluster)
    assert options["gres"] == "gpu:a100:2"
    assert options["additional_parameters"] == {"requeue": True, "exclusive": True, "nice": "3"}
    assert options["srun_args"] == ["--cpus-per-task=2", "--export=ALL"]


def test_sbatchs_own_variables_are_the_users_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "old")
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    asked = needs(Cell(make(cluster={"account": "new"})), CALIBRATE)
    assert (asked.partition, asked.account, asked.time_min) == ("short", "new", 60)
    # sbatch would let them go before what the script says
    with variables_set({}, without=SBATCH_VARIABLES):
        assert not [name for name in os.environ if name.startswith("SBATCH_")]


def test_memory_per_gpu_replaces_memory() -> None:
    cell = Cell(make(cluster={"sbatch": ["mem-per-gpu=80G"]}))
    options = sbatch_options(needs(cell, CALIBRATE), cell.config.cluster)
    assert "mem" not in options
    assert options["additional_parameters"]["mem-per-gpu"] == "80G"


def test_out_of_memory_doubles_what_was_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(make())
    asked = needs(cell, CALIBRATE).memory_gb
    assert asked is not None
    for _ in range(2):
        monkeypatch.setenv("QUANTEXP_MEMORY_GB", str(needs(cell, CALIBRATE).memory_gb))
        status.Status(cell.folder)
        status.lost(cell.folder, "killed", faults.MEMORY)
        assert needs(cell, CALIBRATE).memory_gb == 2 * asked
        status.queue(cell.folder)
        assert needs(cell, CALIBRATE).memory_gb == 2 * asked
    # a larger node is not always there: what the user gives beyond that is taken as it is
    for own, expected in ((asked, 2 * asked), (1.2 * asked, 1.2 * asked)):
        assert needs(Cell(make(cluster={"memory_gb": own})), CALIBRATE).memory_gb == expected
