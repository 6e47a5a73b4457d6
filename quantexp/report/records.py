"""Reads the record files of an outputs folder; what is no record is skipped with one line."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Warn = Callable[[str], None]

# file name → keys it must have, with their types; all other records are evaluations
_REQUIRED: dict[str, dict[str, type]] = {
    "cell.json": {
        **dict.fromkeys(("model", "method", "rounding", "label", "bits", "protocol"), str),
        "config": dict,
    },
    "sweep.json": {"cells": list},
    "report.json": {"blocks": list},
}
_EVALUATION: dict[str, type] = {"kind": str, "dataset": str, "metric": str, "value": object}


def to_stderr(line: str) -> None:
    """The usual place of warnings."""
    print(line, file=sys.stderr)


def load(path: Path, warn: Warn = to_stderr) -> dict[str, Any] | None:
    """A record, or ``None`` and one warning where the file is truncated or someone else's."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it holds no JSON object")
        for key, kind in _REQUIRED.get(path.name, _EVALUATION).items():
            if key not in data or not isinstance(data[key], kind):
                raise ValueError(f"it has no usable '{key}'")
        if path.name not in _REQUIRED:
            number(data["value"])
    except (OSError, ValueError) as error:
        warn(f"warning: skipped {path}: not a record ({error})")
        return None
    return data


def read_sweeps(outputs: Path, warn: Warn = to_stderr) -> dict[str, list[str]]:
    """Names of all sweeps → ids of their cells, in the sweep's order."""
    found = {}
    for path in sorted((outputs / "sweeps").glob("*/sweep.json")):
        data = load(path, warn)
        if data is not None:
            found[str(data.get("name") or path.parent.name)] = [str(c) for c in data["cells"]]
    return found


def read_calibration(outputs: Path, calibration: str, warn: Warn = to_stderr) -> dict[str, Any]:
    """The report of a calibration; empty for the baseline and where it is not finished."""
    path = outputs / "calibrations" / calibration[:16] / "report.json"
    return (load(path, warn) if path.exists() else None) or {}


def read_evaluations(folder: Path, warn: Warn = to_stderr) -> Iterator[dict[str, Any]]:
    """The evaluation records of a cell's folder, oldest first.

    Where the same thing was measured twice in the same way (by two versions of the code), the
    newest counts.
    """
    paths = sorted((folder / "evaluations").glob("*.json"))
    found = [data for path in paths if (data := load(path, warn)) is not None]
    latest = {}
    for data in sorted(found, key=lambda data: str(data.get("time", ""))):
        identity = [data["kind"], data["dataset"], data["metric"], settings(data)]
        latest[json.dumps(identity, sort_keys=True)] = data
    yield from latest.values()


def settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record says how it was measured: two values with unlike settings are told apart."""
    details = data.get("details") or {}
    keys = (
        *("seq_len", "stride", "bos", "windows", "token_hash"),
        *("limit", "num_fewshot", "task_version", "lm_eval", "text_hash", "note"),
    )
    return {key: details[key] for key in keys if key in details}


def number(value: Any) -> float | None:
    """A stored number; records hold NaN and infinities as text because JSON has none.

    Raises:
        ValueError: It is something else.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and not math.isfinite(float(value)):
        return float(value)
    raise ValueError(f"{value!r} is not a number")
