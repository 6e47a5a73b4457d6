"""What the mirror shows of a cell: plain data made from its records, the same for all trackers.

The records are the truth. Nothing is added here that they do not hold, so that equal records give
equal content, and an unchanged cell need not be shown twice.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quantexp.experiment import status
from quantexp.report import averages
from quantexp.report.averages import with_averages
from quantexp.report.collect import Row, cell_rows
from quantexp.report.records import (
    load,
    number,
    read_calibration,
    read_evaluations,
    read_sweeps,
)

_GIB = 2**30


def content(outputs: Path, cell: str, sweep: str | None) -> dict[str, Any] | None:
    """Everything that is shown of one cell, or ``None`` where it has no description yet.

    Args:
        outputs: The folder of all results.
        cell: The cell's id.
        sweep: The sweep that runs the cell; ``None`` looks for sweeps that list it.

    Returns:
        ``id name group job_type tags config blocks losses summary failed``. ``blocks`` has one
        mapping per block; ``losses`` one per epoch, with a key for each block that was learned.
        Numbers that are not finite are text, as W&B itself writes them.
    """
    folder = outputs / "cells" / cell
    path = folder / "cell.json"
    stored = load(path) if path.exists() else None
    if stored is None:
        return None
    state = status.read(folder)
    evaluations = list(read_evaluations(folder))
    report = read_calibration(outputs, str(stored.get("calibration", "")))
    rows = list(cell_rows(outputs, cell, sweep))
    sweeps = [sweep] if sweep else [n for n, ids in read_sweeps(outputs).items() if cell in ids]
    tags = [stored["model"], stored["label"], stored["bits"], stored["protocol"], *sweeps]
    shown = {
        "id": cell,
        "name": f"{stored['model']} {stored['label']} {stored['bits']} seed{stored.get('seed', 0)}",
        "group": ", ".join(sweeps) or stored["model"],
        "job_type": stored["label"],
        "tags": [tag[:64] for tag in dict.fromkeys(tags)],  # W&B refuses longer ones
        "config": _config(stored, evaluations, report),
        "blocks": _blocks(report, evaluations),
        "losses": _losses(report),
        "summary": {**_summary(state, report), **results(with_averages(rows))},
        "failed": state.get("state") == status.FAILED,
    }
    finite: dict[str, Any] = _finite(shown)
    return finite


def _config(
    stored: Mapping[str, Any], evaluations: list[dict[str, Any]], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Flat columns to group and filter by, the nested configuration, and where it ran."""
    columns = ("model", "method", "rounding", "label", "bits", "protocol", "seed", "data_seed")
    config = stored["config"]
    bits = config.get("bits", {})
    active = {name: spec for name, spec in bits.items() if spec.get("bits", 16) < 16}
    provenance = [r.get("provenance") for r in [report, *reversed(evaluations)]]
    return {
        **{key: stored.get(key) for key in columns},
        "scheme": " ".join(f"{name}:{spec.get('scheme')}" for name, spec in active.items()),
        **{f"{name}_bits": spec.get("bits") for name, spec in bits.items()},
        "group_size": bits.get("weight", {}).get("group_size"),
        "fingerprint": stored.get("fingerprint"),
        "calibration": stored.get("calibration"),
        # paths and cluster cannot change a number; they are left out, and so are home directories
        "config": {k: v for k, v in config.items() if k not in stored.get("run_only", ())},
        "provenance": next((p for p in provenance if p), None),
    }


def _blocks(
    report: Mapping[str, Any], evaluations: list[dict[str, Any]]
) -> list[dict[str, float | None]]:
    """Curves against the block's index, from the calibration and from the diagnostics."""
    blocks: dict[int, dict[str, float | None]] = {}
    for block in report.get("blocks", ()):
        curve = blocks.setdefault(block["block"], {"block": block["block"]})
        curve["block/seconds"] = number(block.get("seconds"))
        peak = number(block.get("peak_memory_bytes"))
        curve["block/peak_memory_gib"] = None if peak is None else peak / _GIB
        if losses := block.get("loss"):
            curve["block/loss_first"] = number(losses[0])
            curve["block/loss_last"] = number(losses[-1])
    for record in evaluations:
        if record["kind"] == "block_error":
            for block in record.get("details", {}).get("blocks", ()):
                curve = blocks.setdefault(block["block"], {"block": block["block"]})
                curve["block/mse"] = number(block.get("mse"))
                curve["block/sqnr_db"] = number(block.get("sqnr_db"))
    found = [blocks[index] for index in sorted(blocks)]
    return [{k: v for k, v in block.items() if v is not None} for block in found]


def _losses(report: Mapping[str, Any]) -> list[dict[str, float | None]]:
    """Learning curves: one mapping per epoch, ``loss/block_03`` for each block."""
    epochs: dict[int, dict[str, float | None]] = {}
    for block in report.get("blocks", ()):
        for epoch, loss in enumerate(block.get("loss") or ()):
            curve = epochs.setdefault(epoch, {"epoch": epoch})
            curve[f"loss/block_{block['block']:02d}"] = number(loss)
    return list(epochs.values())


def _summary(state: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """How the cell ended, and what its calibration cost."""
    peak = number(report.get("peak_memory_bytes"))
    summary: dict[str, Any] = {
        "status": state.get("state"),
        "cause": state.get("cause"),
        "effective_bits": number(report.get("effective_bits")),
        "calibration/seconds": number(report.get("seconds")),
        "calibration/peak_memory_gib": None if peak is None else peak / _GIB,
    }
    return {key: value for key, value in summary.items() if value is not None}


def results(rows: Iterable[Row]) -> dict[str, float]:
    """Flat name → value, one per result: the columns of a dashboard's run table."""
    return {
        result_key(row.dataset, row.metric): row.value  # oldest first: the newest is what stays
        for row in rows
        if row.value is not None and row.dataset and row.metric
    }


def result_key(dataset: str, metric: str) -> str:
    """The flat name of a result: ``wikitext2/ppl``, ``avg6/acc``."""
    return f"{dataset}/{'acc' if metric == averages.METRIC else metric}"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
