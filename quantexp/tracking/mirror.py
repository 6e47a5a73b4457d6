"""The W&B runs of cells and sweeps: views of records that can be written again at any time.

One run per cell, with the cell's id, and one per sweep with its table. A mirror can neither fail
nor hang a cell: W&B lives in a child process with a deadline, and every fault ends as one line.
``mirror.json`` beside the records holds a hash of what was shown last, so that nothing unchanged
is written twice; remove it to have the run written again.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantexp.config import TrackerConfig
from quantexp.experiment import record
from quantexp.experiment.cell import Cell

BOUND_SECONDS = 60.0  # for all of it: lock, import, probe, writing, upload
UPLOAD_SECONDS = 1800.0  # the same where the user waits for it: ``sync``
ONLINE, OFFLINE, UNCHANGED = "online", "offline", "unchanged"
_VERSION = 2  # raised when equal records are shown in another way

Make = Callable[[], dict[str, Any] | None]


def mirror(cell: Cell) -> None:
    """Writes a cell's run from its records, unless the same was written before.

    ``tracker.mode`` is ``auto`` or ``online`` (online where there are a key and a network,
    otherwise offline, with the reason in one line), ``offline``, or ``disabled``. Never raises.
    """
    from quantexp.tracking.content import content

    _quietly(
        lambda: content(cell.outputs, cell.id, cell.config.name),
        cell.folder, cell.outputs, cell.config.tracker,
    )  # fmt: skip


def mirror_sweep(outputs: Path, name: str, tracker: TrackerConfig) -> None:
    """Writes a sweep's run: its table, figures and records. Never raises."""
    from quantexp.tracking.sweep_content import sweep_content

    folder = outputs / "sweeps" / name
    _quietly(lambda: sweep_content(outputs, name), folder, outputs, tracker)


def _quietly(make: Make, folder: Path, outputs: Path, tracker: TrackerConfig) -> None:
    mode = _mode(tracker.mode)
    if tracker.name == "none" or mode == "disabled":
        return
    try:
        show(make, folder, outputs, tracker, mode, BOUND_SECONDS)
    except Exception as error:
        lines = (str(error) or type(error).__name__).splitlines()
        _say(f"W&B: {folder.name} is not shown, its records are complete ({lines[0][:200]})")


def show(
    make: Make, folder: Path, outputs: Path, tracker: TrackerConfig, mode: str, seconds: float
) -> str | None:
    """Writes one run unless nothing changed since it was written.

    Args:
        make: Gives what is shown, or ``None`` where there is nothing yet.
        folder: Of the cell or sweep; its ``mirror.json`` says what was shown last.
        outputs: The folder of all results.
        tracker: Project and entity.
        mode: ``auto``, ``online``, ``offline``, or ``upload``: online, and what so far was shown
            offline only goes there too.
        seconds: For all of it.

    Returns:
        :data:`ONLINE`, :data:`OFFLINE` or :data:`UNCHANGED`; ``None`` where there was nothing.

    Raises:
        TrackerError: W&B failed or took too long.
    """
    from filelock import FileLock

    from quantexp.tracking.process import write_run

    deadline = time.monotonic() + seconds
    shown = make()
    if shown is None:
        return None
    asked = {"project": tracker.project, "entity": tracker.entity, "content": shown}
    text = _without_secrets(json.dumps(asked, sort_keys=True))
    digest, curves = _hash(f"{_VERSION} {text}"), _hash(_curves(shown))
    note = folder / "mirror.json"
    # two processes may end evaluations of one cell at the same time
    with FileLock(folder / ".mirror.lock", timeout=max(deadline - time.monotonic(), 0)):
        before = record.read(note) or {}
        if before.get("digest") == digest and (mode != "upload" or before.get("mode") == ONLINE):
            return UNCHANGED
        request: dict[str, Any] = {
            **json.loads(text),
            "mode": ONLINE if mode == "upload" else mode,
            "outputs": str(outputs.resolve()),
            # a run that is online and whose curves are the same gets the rest only
            "continues": before.get("curves") == curves,
        }
        answer = write_run(request, deadline - time.monotonic())
        directory = Path(answer["directory"])
        _remove_older(shown["id"], directory)
        online = answer["mode"] == ONLINE
        record.write(
            note,
            {
                "digest": digest,
                "curves": curves if online else before.get("curves"),
                "time": record.now(),
                "mode": answer["mode"],
                "url": answer["url"],
                "directory": directory.name,
            },
        )
    if answer["why"]:
        later = f"later: python -m quantexp sync --outputs {outputs}"
        _say(f"W&B: {shown['id']} is offline: {answer['why']}; {later}")
    elif answer["url"]:
        _say(f"W&B: {answer['url']}")
    return ONLINE if online else OFFLINE


def _curves(shown: dict[str, Any]) -> str:
    return json.dumps([shown.get("blocks"), shown.get("losses")], sort_keys=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mode(mode: str) -> str:
    """``auto`` obeys ``WANDB_MODE``; what the configuration says outright wins over it."""
    wanted = os.environ.get("WANDB_MODE", "")
    return wanted if mode == "auto" and wanted in ("offline", "disabled") else mode


def _remove_older(run: str, newest: Path) -> None:
    """Removes folders of this run that the newest one replaces: each holds all there is to show."""
    for folder in newest.parent.iterdir():
        match = re.fullmatch(r"(offline-)?run-\d+_\d+-(.+)", folder.name)
        if match and match[2] == run and folder.name != newest.name:
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
