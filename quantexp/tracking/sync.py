"""``python -m quantexp sync``: uploads what is not on W&B yet, from a machine with network.

Cells that ran offline, and the table of each sweep, are written again from their records. What is
online and unchanged is passed over, so that the command may be repeated at any time.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantexp import usage
from quantexp.config import TrackerConfig
from quantexp.errors import ConfigError, unknown
from quantexp.experiment import record
from quantexp.experiment.outputs import add_argument, cells, option
from quantexp.tracking.content import content
from quantexp.tracking.mirror import OFFLINE, ONLINE, UPLOAD_SECONDS, Make, show
from quantexp.tracking.process import TrackerError
from quantexp.tracking.sweep_content import checkpoint_content, sweep_content
from quantexp.waiting import track

UPLOAD = "upload"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = usage.parser("sync", __doc__)
    made.add_argument("sweep", nargs="?", help="only this sweep (default: everything)")
    add_argument(made)
    made.add_argument("--project", help="another W&B project than the cells name")
    made.add_argument("--entity", help="another W&B team or user")
    made.add_argument(
        "--checkpoints", action="store_true", help="the quantized checkpoints too, as artifacts"
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Uploads cells and sweeps.

    Returns:
        0 when all is online; 1 when something is not, or there was nothing.

    Raises:
        ConfigError: There is no such sweep.
    """
    given = parser().parse_args(argv)
    counts: dict[str, int] = {}
    targets = list(_targets(given.outputs, given.sweep, given.checkpoints))
    for name, folder, make, tracker in track(targets, "runs synced"):
        chosen = {k: getattr(given, k) for k in ("project", "entity") if getattr(given, k)}
        try:
            outcome = show(
                make, folder, given.outputs, replace(tracker, **chosen), UPLOAD, UPLOAD_SECONDS
            )
        except (TrackerError, OSError) as error:
            print(f"{name}: not uploaded ({error})", file=sys.stderr)
            outcome = OFFLINE
        if outcome is not None:
            counts[outcome] = counts.get(outcome, 0) + 1
        if outcome == OFFLINE:  # the reason was said; it is the same for all that follow
            print(f"stopped at {name}; the same command continues there", file=sys.stderr)
            break
    if not counts:
        print(f"nothing to upload in {given.outputs.resolve()}", file=sys.stderr)
        return 1
    uploaded = counts.get(ONLINE, 0)
    print(f"{uploaded} runs uploaded, {counts.get('unchanged', 0)} were online already")
    if counts.get(OFFLINE):
        return 1
    name = f" {given.sweep}" if given.sweep else ""
    print(f"a workspace for them: python -m quantexp dashboard{name}{option(given.outputs)}")
    return 0


def _targets(
    outputs: Path, sweep: str | None, checkpoints: bool
) -> Iterator[tuple[str, Path, Make, TrackerConfig]]:
    """Name, folder, content and project of each run: cells first, then the sweeps' tables."""
    tracker = TrackerConfig("wandb")
    trackers: dict[str, TrackerConfig] = {}
    for folder in cells(outputs, sweep):
        stored = record.read(folder / "cell.json")
        if stored is None:
            continue
        tracker = trackers[folder.name] = _tracker(stored)
        yield (
            folder.name,
            folder,
            lambda cell=folder.name: content(outputs, cell, None),  # type: ignore[misc]
            tracker,
        )
        if checkpoints:
            found = checkpoint_content(outputs, stored)
            if found is not None:
                place = outputs / "calibrations" / str(stored["calibration"])[:16]
                yield f"checkpoint {place.name}", place, lambda found=found: found, tracker  # type: ignore[misc]
    there = {path.parent.name: path for path in (outputs / "sweeps").glob("*/sweep.json")}
    if sweep is not None and sweep not in there:
        raise ConfigError(unknown("sweep", sweep, there))
    for name in [sweep] if sweep else sorted(there):
        listed = (record.read(there[name]) or {}).get("cells", ())
        own = next((trackers[str(cell)] for cell in listed if str(cell) in trackers), tracker)
        yield (
            f"sweep {name}",
            there[name].parent,
            lambda name=name: sweep_content(outputs, name),  # type: ignore[misc]
            own,
        )


def _tracker(stored: dict[str, Any]) -> TrackerConfig:
    found = stored.get("config", {}).get("tracker", {})
    return TrackerConfig(
        "wandb", project=found.get("project", "quantexp"), entity=found.get("entity")
    )
