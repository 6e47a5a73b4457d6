"""Reads the record files of an outputs folder; what is no record is skipped with one line."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from quantexp.experiment import record

Warn = Callable[[str], None]

# file name → keys it must have, with their types; all other records are evaluations
_REQUIRED: dict[str, dict[str, type]] = {
    "cell.json": {
        **dict.fromkeys(("model", "method", "rounding", "label", "bits", "protocol"), str),
        "config": dict,
    },
    "sweep.json": {"cells": list},
    "report.json": {"blocks": list},
    "tuning.json": {"objective": str, "trials": list},
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


def edited(path: Path, data: Mapping[str, Any], warn: Warn = to_stderr) -> bool:
    """Whether a record was changed after it was written: one warning that names it."""
    if not record.altered(dict(data)):
        return False
    warn(
        f"warning: {path} was edited after it was written (its checksum does not fit): its values "
        "are in no mean and never the best; remove it and run the same command again"
    )
    return True


def read_sweeps(outputs: Path, warn: Warn = to_stderr) -> dict[str, list[str]]:
    """Names of all sweeps → ids of their cells, in the sweep's order."""
    found = {}
    for path in sorted((outputs / "sweeps").glob("*/sweep.json")):
        data = load(path, warn)
        if data is not None:
            found[str(data.get("name") or path.parent.name)] = [str(c) for c in data["cells"]]
    return found


def read_calibration(outputs: Path, calibration: str, warn: Warn = to_stderr) -> dict[str, Any]:
    """The report of a calibration; empty for the baseline, and where it is unfinished or edited."""
    path = outputs / "calibrations" / calibration[:16] / "report.json"
    data = (load(path, warn) if path.exists() else None) or {}
    return {} if edited(path, data, warn) else data


def read_evaluations(folder: Path, warn: Warn = to_stderr) -> Iterator[dict[str, Any]]:
    """The evaluation records of a cell's folder, oldest first."""
    return (data for _, data in evaluation_files(folder, warn))


def evaluation_files(folder: Path, warn: Warn = to_stderr) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The evaluation records of a cell's folder with their files, oldest first.

    Where the same thing was measured twice in the same way (by two versions of the code), the
    newest counts.
    """
    paths = sorted((folder / "evaluations").glob("*.json"))
    found = [(path, data) for path in paths if (data := load(path, warn)) is not None]
    latest = {}
    for path, data in sorted(found, key=lambda item: str(item[1].get("time", ""))):
        identity = [data["kind"], data["dataset"], data["metric"], settings(data)]
        latest[json.dumps(identity, sort_keys=True)] = (path, data)
    yield from latest.values()


def settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record says how it was measured: two values with unlike settings are told apart."""
    details = data.get("details") or {}
    keys = (
        *("seq_len", "stride", "bos", "windows", "token_hash"),
        *("limit", "num_fewshot", "task_version", "lm_eval", "text_hash", "note"),
    )
    return {key: details[key] for key in keys if key in details}


def versions(data: Mapping[str, Any]) -> dict[str, str]:
    """The libraries whose versions may change a record's number, with the versions it had."""
    libraries = (data.get("provenance") or {}).get("libraries") or {}
    wanted = ["torch", "transformers", "lm-eval"]
    if data["kind"] == "perplexity":
        wanted.remove("lm-eval")  # it is installed, but measures nothing here
    return {name: str(libraries[name]) for name in wanted if libraries.get(name)}


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
