"""What a cell's jobs ask for: what the user says, else a table by the size of the model."""

import math
import os
from dataclasses import fields, replace

from quantexp.config import ClusterConfig, Resources
from quantexp.experiment import faults, status
from quantexp.experiment.cell import Cell
from quantexp.experiment.estimate import memory

CALIBRATE, EVALUATE, BOTH = "calibrate", "evaluate", "both"
_GIB = 1 << 30
_CUDA = 2 * _GIB  # bytes of the machine that the libraries of a GPU take
_SPARE = 1.5  # of the estimate: what is asked for beyond it

# Weights on disk up to so many GiB → GPUs, minutes to calibrate, minutes to evaluate. Small models
# ask for the same in both, so that one job does both. Time is a guess to be generous with: a job
# at its limit is queued again and goes on at the next block.
_TABLE = (
    (2, 0, 60, 60),
    (20, 1, 24 * 60, 4 * 60),
    (80, 1, 48 * 60, 12 * 60),
    (math.inf, 1, 72 * 60, 24 * 60),
)


# The user's own defaults for sbatch, which would go before what a job's script says.
_VARIABLES = {
    "partition": "SBATCH_PARTITION",
    "account": "SBATCH_ACCOUNT",
    "qos": "SBATCH_QOS",
    "constraint": "SBATCH_CONSTRAINT",
}
# Those for which every job has a value of ours.
_OVERRULED = (
    *("SBATCH_TIMELIMIT", "SBATCH_SIGNAL", "SBATCH_JOB_NAME", "SBATCH_ARRAY_INX", "SBATCH_WCKEY"),
    *("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU", "SBATCH_CPUS_PER_GPU"),
    *("SBATCH_GRES", "SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK"),
    *("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_OPEN_MODE"),
    "SBATCH_CLUSTERS",
)
SBATCH_VARIABLES = (*_VARIABLES.values(), *_OVERRULED)


def needs(cell: Cell, kind: str) -> Resources:
    """All that SLURM is asked for, for one kind of job (``calibrate`` or ``evaluate``).

    A cell that ran out of memory asks for twice as much, once, unless it asks for more anyway than
    it had then: no node may have twice as much.
    """
    cluster = cell.config.cluster
    asked = _laid_over(_by_size(cell, kind), given(cluster, kind))
    had = _ran_out(cell)
    if asked.memory_gb and had and asked.memory_gb <= had:
        asked = replace(asked, memory_gb=2 * asked.memory_gb)
    # the host's own word for GPUs stands alone
    return replace(asked, gpus=None, gpu_type=None) if asked.gres else asked


def _by_size(cell: Cell, kind: str) -> Resources:
    size = _weights(cell) / _GIB
    _, gpus, calibrate, evaluate = next(row for row in _TABLE if size <= row[0])
    return Resources(
        gpus=gpus,
        cpus=cell.config.cluster.threads,
        memory_gb=_step(_SPARE * _host(cell, gpus) / _GIB),
        time_min=calibrate if kind == CALIBRATE else evaluate,
    )


def _host(cell: Cell, gpus: int) -> int:
    """Bytes of the machine's memory; without a GPU blocks are computed there too."""
    found = memory(cell)
    return found.host + _CUDA if gpus else found.total


def _step(gib: float) -> float:
    """The next of 4, 6, 8, 12, 16, 24, …: cells that ask alike go into one array."""
    power = 2.0 ** max(2, math.floor(math.log2(gib)))
    return next(size for size in (power, 1.5 * power, 2 * power) if size >= gib)


def _ran_out(cell: Cell) -> float | None:
    """GiB that the first attempt which ran out of memory was given; ``None`` if none did."""
    ends = [*status.attempts(cell.folder), status.read(cell.folder)]
    found = (end.get("memory_gb") for end in ends if end.get("fault") == faults.MEMORY)
    return next((float(had) for had in found if had), None)


def given(cluster: ClusterConfig, kind: str) -> Resources:
    """What the user says: for one kind of job, before for all, before what sbatch's variables say.

    Args:
        cluster: Of the configuration.
        kind: ``calibrate`` or ``evaluate``.
    """
    variables = {key: os.environ.get(name) or None for key, name in _VARIABLES.items()}
    return _laid_over(Resources(**variables), cluster, getattr(cluster, kind))  # type: ignore[arg-type]


def _laid_over(*layers: Resources) -> Resources:
    """The last value that is given wins, field by field."""
    found = {}
    for field in fields(Resources):
        given = [getattr(layer, field.name) for layer in layers]
        found[field.name] = next((value for value in reversed(given) if value is not None), None)
    return Resources(**found)


def _weights(cell: Cell) -> int:
    return sum(path.stat().st_size for path in cell.model.weight_files)


def sbatch_options(asked: Resources, cluster: ClusterConfig) -> dict[str, object]:
    """The same as submitit's parameters."""
    gres = asked.gres
    if asked.gpus:
        gres = ":".join(["gpu", *([asked.gpu_type] if asked.gpu_type else []), str(asked.gpus)])
    given: dict[str, object] = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "gres": gres,
        "cpus_per_task": asked.cpus,
        "mem": f"{math.ceil(asked.memory_gb * 1024)}M" if asked.memory_gb else None,
        "time": asked.time_min,
        "signal_delay_s": cluster.signal_s,
        "setup": list(cluster.setup) or None,
        # since 22.05 a step does not inherit the first; the second is off with export=NONE
        "srun_args": [*([f"--cpus-per-task={asked.cpus}"] if asked.cpus else []), "--export=ALL"],
    }
    extra: dict[str, object] = {"requeue": True}
    for option in cluster.sbatch:
        name, equals, value = option.lstrip("-").partition("=")
        extra[name] = value if equals else True
        if name in ("mem-per-cpu", "mem-per-gpu"):  # sbatch takes one of the three
            given["mem"] = None
    return {k: v for k, v in given.items() if v is not None} | {"additional_parameters": extra}
