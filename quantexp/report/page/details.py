"""What the page tells of each cell beyond the table: configuration, curves, log, provenance."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantexp.cluster import submitted
from quantexp.experiment import record, status
from quantexp.report import names
from quantexp.report.collect import Row
from quantexp.report.page.plots import digits
from quantexp.report.records import evaluation_files, number, read_calibration
from quantexp.report.seeds import BASELINE
from quantexp.waiting import track

_LINES, _WIDEST = 40, 300  # of a log's tail; letters of a line
_CURVE = 60  # points of a loss curve
# what a program may print although it should not
_SECRETS = re.compile(
    r"(?i)(\bhf_[a-z0-9]{10,}|\b(?:api[_-]?key|access[_-]?token|auth(?:orization)?|bearer|"
    r"token|password|passwd|secret)\b\s*[=:]?\s*[\"']?)(?:[^\s\"',;]{6,})?"
)


def cells(outputs: Path, rows: Sequence[Row], shown: Sequence[str]) -> dict[str, Any]:
    """Data of the cells in ``shown``.

    Configurations are stored once per baseline, the others as what differs; logs that several cells
    share are stored once. A model without a baseline has whole configurations.

    Returns:
        ``cells`` by id, ``bases`` and ``logs``, which cells name by number.
    """
    by_cell: dict[str, list[Row]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, []).append(row)
    baselines = {row.model: row for row in rows if row.label == BASELINE}
    bases = {model: n for n, model in enumerate(baselines)}
    found: dict[str, Any] = {}
    logs: dict[str, int] = {}
    jobs = submitted.of_cells(submitted.tasks(outputs))
    for cell in track(shown, "cells described"):
        of = by_cell.get(cell)
        if not of or not of[0].model:  # listed, but nothing has started it
            continue
        first = of[0]
        base = baselines.get(first.model)
        theirs, mine = flat(base.config) if base else {}, flat(first.config)
        tail = _tail([task.log for task in jobs.get(cell, ())])
        try:
            told = _records(outputs, cell, first)
        except (AttributeError, KeyError, TypeError, ValueError):
            continue  # valid JSON of another shape, as collect has it; the table still shows it
        found[cell] = {
            "base": bases.get(first.model),
            "against": base.cell if base and base.cell != cell else None,
            "changed": {k: v for k, v in mine.items() if k not in theirs or theirs[k] != v},
            "dropped": [key for key in theirs if key not in mine],
            "log": logs.setdefault(tail, len(logs)) if tail else None,
            **told,
        }
    return {
        "cells": found,
        "bases": [flat(row.config) for row in baselines.values()],
        "logs": list(logs),
    }


def flat(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """``{"bits": {"weight": …}}`` → ``{"bits.weight": …}``; lists are texts."""
    made: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, Mapping):
            made |= flat(value, name)
        elif isinstance(value, list):
            made[name] = ", ".join(
                str(item.get("name", item)) if isinstance(item, Mapping) else str(item)
                for item in value
            )
        else:
            made[name] = value if isinstance(value, int | float | None) else str(value)
    return made


def redacted(text: str) -> str:
    """The text without what looks like a key or a password."""
    return _SECRETS.sub(lambda m: "hf_…" if m[0].lower().startswith("hf_") else m[1] + "…", text)


def _records(outputs: Path, cell: str, row: Row) -> dict[str, Any]:
    folder = outputs / "cells" / cell
    stored = record.read(folder / "cell.json") or {}
    state = status.read(folder)
    report = read_calibration(outputs, str(stored.get("calibration", "")), _silent)
    evaluations = [data for _, data in evaluation_files(folder, _silent)]
    blocks = report.get("blocks") or []
    seed = "" if row.label == BASELINE else f" · seed {row.seed}, data.seed {row.data_seed}"
    return {
        "id": cell,
        "title": f"{names.method_name(row.label)} {row.bits}{seed} · {row.status}",
        "status": row.status,
        "cause": redacted(row.cause or "").splitlines()[0] if row.cause else None,
        "traceback": redacted(str(state.get("traceback") or "")),
        "results": [_result(data) for data in evaluations if data["kind"] != "block_error"],
        "errors": _errors(evaluations),
        "loss": [
            [block["block"], _thin(block["loss"])]
            for block in blocks
            if isinstance(block.get("loss"), list) and len(block["loss"]) > 1
        ],
        "blocks": [_block(block) for block in blocks],
        "attempts": [
            [a.get(key) for key in ("attempt", "host", "started", "ended")]
            + [redacted(str(a.get("cause") or ""))]
            for a in status.attempts(folder)
        ],
        "provenance": [
            [name, value]
            for name, value in _provenance(row, stored, state, report, evaluations).items()
            if value not in (None, "")
        ],
    }


def _provenance(
    row: Row,
    stored: Mapping[str, Any],
    state: Mapping[str, Any],
    report: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    newest = evaluations[-1] if evaluations else {}
    about = newest.get("provenance") or report.get("provenance") or {}
    libraries = about.get("libraries") or {}
    deviations = stored.get("protocol_deviations") or newest.get("protocol_deviations") or []
    memory = row.peak_memory_bytes
    tokens = {
        f"tokens of {data['dataset']}": str((data.get("details") or {}).get("token_hash") or "")
        for data in evaluations
        if data["kind"] == "perplexity"
    }
    return {
        "protocol": row.protocol,
        "protocol's source": stored.get("protocol_source") or newest.get("protocol_source"),
        "deviations": "; ".join(map(str, deviations)),
        "numerical fallbacks": row.fallbacks,
        "chosen": row.tuned,
        "effective bits": digits(row.effective_bits),
        "calibration, s": digits(row.calibration_seconds, 4),
        "calibration, peak GiB": digits(memory / 2**30, 3) if memory is not None else None,
        "quantexp": about.get("quantexp"),
        "commit": about.get("commit"),
        "python": about.get("python"),
        **{name: version for name, version in libraries.items() if version},
        "device": newest.get("device"),
        "threads": newest.get("threads"),
        "dtype": newest.get("dtype"),
        "host": about.get("host"),
        "attempt": state.get("attempt"),
        "started": state.get("started"),
        "ended": state.get("ended"),
        "fingerprint": stored.get("fingerprint"),
        "calibration": stored.get("calibration"),
        "calibration tokens": report.get("token_hash"),
        **tokens,
    }


def _result(data: Mapping[str, Any]) -> list[Any]:
    value, error = number(data["value"]), number(data.get("stderr"))
    metric = str(data["metric"])
    return [
        str(data["dataset"]),
        metric,
        str(data["value"]) if digits(value) is None else digits(names.as_shown(metric, value or 0)),
        None if error is None else digits(names.as_shown(metric, error), 3),
        digits(number(data.get("seconds")), 4),
    ]


def _errors(evaluations: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    """Block and relative error, from the newest record of block errors."""
    found: list[list[float | None]] = []
    for data in evaluations:
        if data["kind"] == "block_error":
            blocks = (data.get("details") or {}).get("blocks") or ()
            values = [(block["block"], number(block.get("sqnr_db"))) for block in blocks]
            found = [[b, digits(10 ** (-v / 10))] for b, v in values if v is not None]
    return found


def _block(block: Mapping[str, Any]) -> list[Any]:
    loss = block.get("loss")
    memory = block.get("peak_memory_bytes")
    last = loss[-1] if isinstance(loss, list) and loss else None
    steps = [str(rung["step"]) for rung in block.get("ladder") or ()]
    return [
        block.get("block"),
        digits(number(block.get("seconds")), 3),
        digits(memory / 2**30, 3) if isinstance(memory, int) else None,
        digits(number(last), 4),
        ", ".join(dict.fromkeys(steps)),
    ]


def _thin(loss: Sequence[Any]) -> list[float | None]:
    """At most about :data:`_CURVE` points, with the last."""
    every = -(-len(loss) // _CURVE)
    kept = [*loss[:-1:every], loss[-1]]
    return [digits(number(value), 4) for value in kept]


def _tail(files: Sequence[Path]) -> str:
    """The last lines of the newest log that was written."""
    for path in reversed(files):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 4 * _LINES * _WIDEST))
                text = file.read().decode(errors="replace")
        except OSError:
            continue
        lines = [line[:_WIDEST] for line in text.splitlines()[-_LINES:]]
        if lines:
            return redacted("\n".join(lines))
    return ""


def _silent(line: str) -> None:
    """The table's collection has warned already."""
