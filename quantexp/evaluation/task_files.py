"""Local documents of zero-shot tasks (``DIR/arc_easy.jsonl``, …), checked without torch."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from quantexp.errors import DataError
from quantexp.evaluation.tasks import TASKS, Layout


@dataclass(frozen=True)
class TaskFile:
    """A task's documents in a local file, one JSON object per line."""

    path: Path
    layout: Layout
    content_hash: str
    rows: int

    @property
    def inputs(self) -> dict[str, Any]:
        """What of the file decides a number."""
        return {"content": self.content_hash, "layout": self.layout.name}


def find(task: str, folder: str) -> TaskFile:
    """The file of a task in the folder of ``evaluation.task_data``.

    Raises:
        DataError: The folder or file is missing, or a row lacks a column.
    """
    root = Path(folder).expanduser()
    path = root / f"{task}.jsonl"
    if not path.is_file():
        there = sorted(p.stem for p in root.glob("*.jsonl") if p.stem in TASKS)
        known = f"it has {', '.join(there)}" if there else f"no such folder in {Path.cwd()}"
        if root.is_dir() and not there:
            known = f"expected are files such as {task}.jsonl, one JSON object per line"
        raise DataError(
            f"evaluation.task_data={folder} has no {task}.jsonl ({known}): add the file, "
            "or leave the task out of evaluation.tasks"
        )
    stat = path.stat()
    return _read(task, path.resolve(), stat.st_size, stat.st_mtime_ns)


def documents(task: str, file: TaskFile) -> list[dict[str, Any]]:
    """All rows, with the columns that the task's own processing reads."""
    rows = [json.loads(line) for line in _lines(file.path)]
    return (
        [_premise(row) for row in rows] if (task, file.layout.name) == ("copa", "query") else rows
    )


@cache
def _read(task: str, path: Path, size: int, changed: int) -> TaskFile:
    """Once per process and state of the file: every cell of a sweep asks."""
    layouts = TASKS[task].layouts
    lines = _lines(path)
    if not lines:
        raise DataError(f"evaluation.task_data: '{path}' is empty")
    layout = None
    for number, line in enumerate(lines, 1):
        where = f"evaluation.task_data: '{path}', line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is no JSON object: {line[:60]!r}") from error
        fits = [x for x in layouts if isinstance(row, dict) and set(x.columns) <= row.keys()]
        if layout is None and fits:
            layout = fits[0]
        if layout is None or layout not in fits:
            allowed = " or ".join(", ".join(x.columns) for x in layouts)
            has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{where} has {has}: {task} needs the columns {allowed}")
        if (task, layout.name) == ("copa", "query"):
            _premise(row, where)
    assert layout is not None
    return TaskFile(path, layout, hashlib.sha256(path.read_bytes()).hexdigest(), len(lines))


def _lines(path: Path) -> list[str]:
    # not splitlines: texts may hold Unicode's other line ends
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"evaluation.task_data: '{path}' is no UTF-8 text (byte {error.start}): convert it"
        ) from error
    return [line for line in text.split("\n") if line.strip()]


def _premise(row: dict[str, Any], where: str = "") -> dict[str, Any]:
    """COPA's columns from ``The man turned on the faucet, therefore``.

    lm-eval replaces the full stop by a connector; here the connector is replaced by it.
    """
    query = str(row["query"])
    for question, connector in (("cause", ", because"), ("effect", ", therefore")):
        if query.endswith(connector):
            first, second = row["choices"]
            return {
                "premise": query.removesuffix(connector) + ".",
                "question": question,
                "choice1": first,
                "choice2": second,
                "label": row["label"],
            }
    raise DataError(f"{where}: a query must end in ', because' or ', therefore', got {query!r}")
