"""The W&B run of a cell: a view of its records that can be written again at any time.

One run per cell, with the cell's id. A mirror can neither fail nor hang a cell: W&B lives in a
child process with a deadline, and every fault ends as one line. ``mirror.json`` beside the records
holds a hash of what was shown last, so that an unchanged cell is not written twice; remove it to
have the run written again.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from quantexp.experiment import record
from quantexp.experiment.cell import Cell

BOUND_SECONDS = 60.0  # for all of it: lock, import, probe, writing, upload
_VERSION = 1  # raised when equal records are shown in another way


def mirror(cell: Cell) -> None:
    """Writes the cell's run from its records, unless the same was written before.

    ``tracker.mode`` is ``auto`` or ``online`` (online where there are a key and a network,
    otherwise offline, with the reason in one line), ``offline``, or ``disabled``. Never raises.
    """
    tracker = cell.config.tracker
    mode = _mode(tracker.mode)
    if tracker.name == "none" or mode == "disabled":
        return
    try:
        _mirror(cell, mode, time.monotonic() + BOUND_SECONDS)
    except Exception as error:
        lines = (str(error) or type(error).__name__).splitlines()
        _say(f"W&B: {cell.id} is not shown, its records are complete ({lines[0][:200]})")


def _mirror(cell: Cell, mode: str, deadline: float) -> None:
    from filelock import FileLock

    from quantexp.tracking.content import content
    from quantexp.tracking.process import write_run

    shown = content(cell.outputs, cell.id, cell.config.name)
    if shown is None:
        return
    request: dict[str, Any] = {
        "project": cell.config.tracker.project,
        "entity": cell.config.tracker.entity,
        "content": shown,
    }
    text = _without_secrets(json.dumps(request, sort_keys=True))
    digest = hashlib.sha256(f"{_VERSION} {text}".encode()).hexdigest()
    note = cell.folder / "mirror.json"
    # two processes may end evaluations of one cell at the same time
    with FileLock(cell.folder / ".mirror.lock", timeout=max(deadline - time.monotonic(), 0)):
        if (record.read(note) or {}).get("digest") == digest:
            return
        outputs = str(cell.outputs.resolve())
        request = {**json.loads(text), "mode": mode, "outputs": outputs}
        answer = write_run(request, deadline - time.monotonic())
        _remove_older(cell, Path(answer["directory"]))
        record.write(
            note,
            {
                "digest": digest,
                "time": record.now(),
                "mode": answer["mode"],
                "url": answer["url"],
                "directory": Path(answer["directory"]).name,
            },
        )
    if answer["why"]:
        _say(f"W&B: {cell.id} is offline: {answer['why']}; later: wandb sync {answer['directory']}")
    elif answer["url"]:
        _say(f"W&B: {answer['url']}")


def _mode(mode: str) -> str:
    """``auto`` obeys ``WANDB_MODE``; what the configuration says outright wins over it."""
    wanted = os.environ.get("WANDB_MODE", "")
    return wanted if mode == "auto" and wanted in ("offline", "disabled") else mode


def _remove_older(cell: Cell, newest: Path) -> None:
    """Removes runs of this cell that the newest one replaces: each holds all there is to show."""
    for folder in newest.parent.iterdir():
        match = re.fullmatch(r"(offline-)?run-\d+_\d+-(.+)", folder.name)
        if match and match[2] == cell.id and folder.name != newest.name:
            shutil.rmtree(folder, ignore_errors=True)


def _without_secrets(text: str) -> str:
    """Blanks the values of variables that are named like keys, wherever they come from.

    An error message of a download, for instance, may quote the request it made.
    """
    for name, value in os.environ.items():
        if re.search(r"(KEY|TOKEN|SECRET|PASSWORD)$", name.upper()) and len(value) >= 8:
            text = text.replace(value, "***")
    return text


def _say(line: str) -> None:
    print(_without_secrets(line), file=sys.stderr, flush=True)
