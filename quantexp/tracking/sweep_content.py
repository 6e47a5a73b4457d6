"""What the mirror shows of a sweep: its table, figures and records, made from records alone."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantexp.experiment import record, status
from quantexp.report.averages import with_averages
from quantexp.report.collect import Row, collect
from quantexp.report.compare import compare
from quantexp.report.layout import lay_out
from quantexp.report.styled import to_html
from quantexp.report.table import to_json
from quantexp.tracking.content import result_key

_IDENTITY = (
    "model", "label", "method", "rounding", "bits", "protocol", "seed", "data_seed",
    "effective_bits", "calibration_seconds", "peak_memory_bytes", "status", "cell",
)  # fmt: skip


def sweep_content(outputs: Path, name: str) -> dict[str, Any] | None:
    """Everything that is shown of a sweep, or ``None`` where it has no cells yet.

    Args:
        outputs: The folder of all results.
        name: The sweep's.

    Returns:
        As :func:`quantexp.tracking.content.content`, without curves, and ``tables`` (columns and
        data), ``html``, ``images`` (paths) and ``artifacts`` (name, type, files by name).
    """
    stored = record.read(outputs / "sweeps" / name / "sweep.json")
    rows = with_averages(collect(outputs, name)) if stored else []
    if stored is None or not rows:
        return None
    cells = [str(cell) for cell in stored["cells"]]
    states = {row.cell: row.status for row in rows}
    counts = {
        state: sum(found == state for found in states.values())
        for state in (status.DONE, status.FAILED)
    }
    # two folders of results may hold sweeps of one name; they are not one run
    digest = hashlib.sha256(f"{name} {stored.get('created')}".encode()).hexdigest()[:8]
    figures = sorted((outputs / "sweeps" / name / "figures").glob("*.png"))
    grid = lay_out(compare(rows, None), None)
    return {
        "id": f"sweep-{name}-{digest}",
        "name": f"sweep {name}",
        "group": name,
        "job_type": "sweep",
        "tags": ["sweep", name[:64]],
        "config": {"sweep": name, "overrides": stored.get("overrides", [])},
        "summary": {"cells": len(cells), **counts},
        "failed": False,
        "tables": {"results": wide(rows)},
        "html": {"table": to_html(grid)},
        "images": {f"figures/{path.stem}": str(path.resolve()) for path in figures},
        "artifacts": [
            {
                "name": f"records-{name}-{digest}",
                "type": "records",
                "files": {str(path.relative_to(outputs)): str(path.resolve())
                          for path in _records(outputs, name, cells)},
            }
        ],
    }  # fmt: skip


def checkpoint_content(outputs: Path, stored: dict[str, Any]) -> dict[str, Any] | None:
    """A cell's quantized checkpoint as an artifact, or ``None`` where there is none (any more).

    Args:
        outputs: The folder of all results.
        stored: The cell's ``cell.json``.
    """
    calibration = str(stored.get("calibration", ""))[:16]
    folder = outputs / "calibrations" / calibration
    shards = sorted((folder / "checkpoint").glob("*.safetensors"))
    if not shards or not (folder / "manifest.json").is_file():
        return None
    name = f"{stored['model']}-{stored['label']}-{stored['bits']}".replace("+", "-")
    return {
        "id": f"checkpoint-{calibration}",
        "name": f"checkpoint {name}",
        "group": str(stored["model"]),
        "job_type": "checkpoint",
        "tags": ["checkpoint", str(stored["model"])[:64], str(stored["label"])],
        "config": {key: stored.get(key) for key in ("model", "label", "bits", "calibration")},
        "summary": {},
        "failed": False,
        "artifacts": [
            {
                "name": f"{name}-{calibration[:8]}",
                "type": "quantized-checkpoint",
                "files": {str(path.relative_to(folder)): str(path.resolve())
                          for path in [folder / "manifest.json", *shards]},
            }
        ],
    }  # fmt: skip


def wide(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """One line per cell with a column per result; the paper's value beside ours where it has one.

    Returns:
        ``columns`` and ``data``. Broken values are text (``nan``, ``inf``).
    """
    lines: dict[str, dict[str, Any]] = {}
    for value in json.loads(to_json(rows)):
        line = lines.setdefault(value["cell"], {key: value.get(key) for key in _IDENTITY})
        if value["dataset"] is None:
            continue
        key = result_key(value["dataset"], value["metric"])
        line[key] = value["value_text"] or value["value"]
        if value["published"] is not None:
            line |= {f"{key} published": value["published"], f"{key} delta": value["delta"]}
    columns = list(dict.fromkeys(key for line in lines.values() for key in line))
    return {"columns": columns, "data": [[line.get(k) for k in columns] for line in lines.values()]}


def _records(outputs: Path, name: str, cells: Sequence[str]) -> list[Path]:
    """What a reader needs to check the table; states of processes and locks are left out."""
    found = [outputs / "sweeps" / name / "sweep.json"]
    for cell in cells:
        folder = outputs / "cells" / cell
        found += [folder / "cell.json", *sorted((folder / "evaluations").glob("*.json"))]
        described = record.read(folder / "cell.json") or {}
        calibration = outputs / "calibrations" / str(described.get("calibration", ""))[:16]
        found += [calibration / "report.json", calibration / "manifest.json"]
    return [path for path in dict.fromkeys(found) if path.is_file()]
