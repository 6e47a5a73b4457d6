"""Records → rows. Reads JSON files only: no torch, no configuration schema, no database.

One row is one value of one cell. What a cell was asked for and does not have yields a row without
a value, so that a running, failed or forgotten cell is seen and not merely absent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantexp.calibration import ladder
from quantexp.errors import ConfigError, unknown
from quantexp.evaluation.tasks import TASKS
from quantexp.experiment import status
from quantexp.report import chosen
from quantexp.report.records import (
    Warn,
    edited,
    evaluation_files,
    load,
    number,
    read_calibration,
    read_sweeps,
    settings,
    to_stderr,
    versions,
)
from quantexp.waiting import track

EDITED = "edited"  # status of a value whose record was changed by hand


@dataclass(frozen=True, kw_only=True)
class Row:
    """One value of one cell, or the lack of it.

    Bits are whole numbers, 16 for what is not quantized; ``group_size`` is the weights'.
    ``value`` is ``None`` where there is no result yet, and NaN or infinite where a run broke.
    ``effective_bits`` (per weight), ``calibration_seconds`` and ``peak_memory_bytes`` are those
    of the calibration; the baseline has none. ``sweep`` joins several names by a comma.
    A cell that a sweep lists and nothing has started is known by its name only. The status of a
    value whose record was changed after it was written is ``edited``. ``fallbacks`` says which
    rungs of the numerical ladder how many blocks took, ``tuned`` among what and by what the cell's
    options were chosen.
    """

    model: str = ""
    method: str = ""
    rounding: str = ""
    label: str = ""
    bits: str = ""
    weight_bits: int | None = None
    activation_bits: int | None = None
    key_bits: int | None = None
    value_bits: int | None = None
    query_bits: int | None = None
    group_size: int | None = None
    dataset: str | None = None
    metric: str | None = None
    value: float | None = None
    stderr: float | None = None
    seed: int | None = None
    data_seed: int | None = None
    cell: str
    status: str
    protocol: str = ""
    effective_bits: float | None = None
    calibration_seconds: float | None = None
    peak_memory_bytes: int | None = None
    sweep: str | None = None
    kind: str | None = None
    cause: str | None = None
    progress: str | None = None
    fallbacks: str | None = None
    tuned: str | None = None
    updated: str = ""
    # all metrics of a zero-shot record, as shares
    metrics: Mapping[str, float] = field(default_factory=dict, repr=False)
    # how the value was measured, and the configuration without what cannot change a number
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    record: Path | None = field(default=None, repr=False)  # its file
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)  # of libraries


def collect(outputs: Path, sweep: str | None = None, warn: Warn = to_stderr) -> list[Row]:
    """All rows of an outputs folder.

    Args:
        outputs: The folder that holds ``cells``, ``calibrations`` and ``sweeps``.
        sweep: Only cells of this sweep, in its order; ``None`` takes all cells, by name.
        warn: Takes one line for each file that is skipped.

    Raises:
        ConfigError: There is no sweep of that name; the nearest is offered.
    """
    sweeps = read_sweeps(outputs, warn)
    if sweep is None:
        listed = [cell for ids in sweeps.values() for cell in ids]
        stored = sorted(path.parent.name for path in (outputs / "cells").glob("*/cell.json"))
        cells = list(dict.fromkeys(stored + listed))
    elif sweep in sweeps:
        cells = sweeps[sweep]
    elif sweeps:
        raise ConfigError(unknown("sweep", sweep, sweeps))
    else:
        raise ConfigError(f"unknown sweep '{sweep}': {outputs} holds no sweep yet")
    rows: list[Row] = []
    tuned = chosen.found(outputs, warn)
    reports: dict[str, dict[str, Any]] = {}  # by calibration: several cells share one
    names: dict[str, list[str]] = {}
    for name, ids in sweeps.items():
        for cell in dict.fromkeys(ids):
            names.setdefault(cell, []).append(name)
    for cell in track(cells, "cells read"):
        try:
            in_sweep = sweep or ", ".join(names.get(cell, ())) or None
            made = cell_rows(outputs, cell, in_sweep, warn, reports)
            rows += [replace(row, tuned=tuned.get(cell)) for row in made]
        except (AttributeError, KeyError, TypeError) as error:
            # valid JSON of another shape, for instance edited by hand
            warn(f"warning: skipped cell {cell}: its records cannot be understood ({error!r})")
    return rows


def cell_rows(
    outputs: Path,
    cell: str,
    sweep: str | None,
    warn: Warn = to_stderr,
    reports: dict[str, dict[str, Any]] | None = None,
) -> Iterator[Row]:
    """The rows of one cell.

    Args:
        outputs: The folder of the results.
        cell: Its id.
        sweep: The name that the rows carry.
        warn: Takes one line for each file that is skipped.
        reports: Calibrations' reports that were read before; what is read is added.
    """
    folder = outputs / "cells" / cell
    state = status.read(folder)
    if not (folder / "cell.json").exists():
        yield Row(cell=cell, status=str(state["state"]), sweep=sweep)
        return
    stored = load(folder / "cell.json", warn)
    if stored is None:
        return
    calibration = str(stored.get("calibration", ""))
    reports = {} if reports is None else reports
    if calibration not in reports:
        reports[calibration] = read_calibration(outputs, calibration, warn)
    common = _common(stored, state, reports[calibration]) | {"cell": cell, "sweep": sweep}
    if edited(folder / "cell.json", stored, warn):
        common["status"] = EDITED
    files = list(evaluation_files(folder, warn))
    records = [data for _, data in files]
    for path, data in files:
        yield Row(
            **common
            | ({"status": EDITED} if edited(path, data, warn) else {})
            | _fallbacks(common, data),
            **{key: data[key] for key in ("kind", "dataset", "metric")},
            value=number(data["value"]),
            stderr=number(data.get("stderr")),
            metrics=_metrics(data),
            settings=settings(data),
            record=path,
            versions=versions(data),
        )
    wanted = [s["name"] for s in stored["config"].get("evaluation", {}).get("perplexity", ())]
    measured = {data["dataset"] for data in records if data["kind"] == "perplexity"}
    missing = [name for name in wanted if name not in measured]
    for name in missing:
        yield Row(**common, dataset=name, metric="ppl", kind="perplexity")
    done = {data["dataset"] for data in records if data["kind"] == "zeroshot"}
    tasks = [t for t in stored["config"].get("evaluation", {}).get("tasks", ()) if t not in done]
    for name in tasks:
        metric = TASKS[name].metric if name in TASKS else None
        yield Row(**common, dataset=name, metric=metric, kind="zeroshot")
    if not records and not missing and not tasks:
        yield Row(**common)


def _fallbacks(common: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's own summary, where the calibration's report is gone."""
    return {} if common["fallbacks"] else {"fallbacks": _told(data.get("fallbacks") or {})}


def _told(fallbacks: Mapping[str, int]) -> str | None:
    parts = [f"{step} in {n} block{'s' * (n > 1)}" for step, n in fallbacks.items()]
    return ", ".join(parts) or None


def _metrics(data: Mapping[str, Any]) -> dict[str, float]:
    found = (data.get("details") or {}).get("metrics") or {}
    return {key: value for key, text in found.items() if (value := number(text)) is not None}


def _common(
    stored: Mapping[str, Any], state: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """What all rows of a cell share."""
    config = stored["config"]
    bits = config.get("bits", {})
    tensors = ("weight", "activation", "key", "value", "query")
    names = ("model", "method", "rounding", "label", "bits", "protocol")
    phase = state.get("phase") if state.get("state") == status.RUNNING else None
    return {
        **{key: stored[key] for key in names},
        **{f"{tensor}_bits": bits.get(tensor, {}).get("bits") for tensor in tensors},
        "group_size": bits.get("weight", {}).get("group_size"),
        "seed": stored.get("seed"),
        "data_seed": stored.get("data_seed"),
        "status": str(state.get("state", status.QUEUED)),
        "effective_bits": report.get("effective_bits"),
        "calibration_seconds": report.get("seconds"),
        "peak_memory_bytes": report.get("peak_memory_bytes"),
        "cause": state.get("cause"),
        "fallbacks": _told(ladder.summary(report.get("blocks", ()))),
        "progress": f"{phase} {state.get('done')}/{state.get('total')}" if phase else None,
        "updated": str(state.get("updated", "")),
        "config": {k: v for k, v in config.items() if k not in stored.get("run_only", ())},
    }
