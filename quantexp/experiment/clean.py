"""``python -m quantexp clean``: frees the space of quantized checkpoints, never a record.

What goes are the integers of a calibration (blocks and consolidated files). What stays, always:
cell.json, status.json, evaluations, and each calibration's report.json and manifest.json. A cell
whose checkpoint is gone keeps its results; only a further evaluation of it calibrates again.
With --code: copies of the package (outputs/code) that no job and no unfinished calibration needs;
their commit, versions and difference to it stay.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantexp import usage
from quantexp.errors import ConfigError
from quantexp.experiment import record, status
from quantexp.experiment.claim import BusyError
from quantexp.experiment.estimate import readable_size
from quantexp.experiment.outputs import add_argument, cells
from quantexp.experiment.run import CHECKPOINT_FOLDERS, free, unused
from quantexp.waiting import track

STATES = ("done", "failed", "unreferenced")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Checkpoint:
    """A calibration's folder, its bytes, and the cells that use it."""

    folder: Path
    cells: tuple[Path, ...]
    size: int
    changed: float

    @property
    def state(self) -> str:
        """``done`` if all its cells are, ``failed`` if one failed, ``unreferenced``, or another."""
        if not self.cells:
            return "unreferenced"
        states = {str(status.read(cell)["state"]) for cell in self.cells}
        return states.pop() if len(states) == 1 else "failed" if "failed" in states else "mixed"


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = usage.parser(
        "clean",
        __doc__,
        epilog="Selectors combine: all that are given must hold. Checkpoints in use by a running "
        "job,\nand with --sweep those that cells of other sweeps share, are kept.",
    )
    add_argument(made)
    made.add_argument("--dry-run", action="store_true", help="say what would go; remove nothing")
    made.add_argument("--sweep", metavar="NAME", help="checkpoints that only this sweep uses")
    made.add_argument("--older-than", metavar="AGE", help="not written for 30m, 12h, 7d or 2w")
    made.add_argument(
        "--state",
        choices=STATES,
        help="done: all its cells are (the default); failed: one of them failed (the next attempt "
        "would have resumed from it); unreferenced: no cell uses it",
    )
    made.add_argument(
        "--code", action="store_true", help="instead: copies of the package that nothing needs"
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Frees what the selectors choose.

    Raises:
        ConfigError: No selector, an unknown sweep, or an age that cannot be read.
    """
    arguments = parser().parse_args(argv)
    if arguments.code:
        if arguments.sweep or arguments.older_than or arguments.state:
            raise ConfigError("clean --code stands alone: give the other selectors without it")
        # clusters know more of jobs than a cell does
        from quantexp.cluster.unused import free_unused

        return _say(free_unused(arguments.outputs, arguments.dry_run), arguments)
    if not (arguments.sweep or arguments.older_than or arguments.state):
        raise ConfigError(
            "clean needs to be told what: --state done (all finished cells), --sweep NAME, "
            "--older-than 7d, --code (copies of the package); add --dry-run to look first"
        )
    outputs: Path = arguments.outputs
    chosen = select(outputs, arguments.sweep, _age(arguments.older_than), arguments.state or "done")
    freed = sum(_free(checkpoint, arguments.dry_run) for checkpoint in chosen)
    return _say(freed, arguments)


def _say(freed: int, arguments: argparse.Namespace) -> int:
    verb = "would be freed" if arguments.dry_run else "freed"
    where = arguments.outputs.resolve()
    if not freed:
        print(f"nothing to free in {where}")
        return 0
    print(f"{readable_size(freed)} {verb} in {where}; every record stays")
    if arguments.dry_run:
        later = "" if arguments.code else "; further evaluations then calibrate again"
        print(f"the same without --dry-run frees it{later}")
    return 0


def select(outputs: Path, sweep: str | None, age: float | None, state: str) -> list[Checkpoint]:
    """The checkpoints that all selectors choose and that take space.

    Args:
        outputs: Folder of the results.
        sweep: Only those whose cells are all of this sweep.
        age: Only those not written for so many seconds.
        state: One of :data:`STATES`.
    """
    ours = set(cells(outputs, sweep)) if sweep else None
    chosen = []
    for checkpoint in _checkpoints(outputs):
        old = age is None or time.time() - checkpoint.changed > age
        within = ours is None or (bool(checkpoint.cells) and ours.issuperset(checkpoint.cells))
        if checkpoint.size and old and within and checkpoint.state == state:
            chosen.append(checkpoint)
    return chosen


def _checkpoints(outputs: Path) -> list[Checkpoint]:
    users: dict[str, list[Path]] = {}
    for path in sorted((outputs / "cells").glob("*/cell.json")):
        calibration = str((record.read(path) or {}).get("calibration", ""))
        users.setdefault(calibration[:16], []).append(path.parent)
    found = []
    folders = sorted((outputs / "calibrations").glob("[!.]*/"))
    for folder in track(folders, "checkpoints looked at"):
        files = [f for name in CHECKPOINT_FOLDERS for f in (folder / name).rglob("*")]
        stats = [f.stat() for f in files if f.is_file()]
        size = sum(s.st_size for s in stats)
        changed = max((s.st_mtime for s in stats), default=0.0)
        found.append(Checkpoint(folder, tuple(users.get(folder.name, ())), size, changed))
    return found


def _free(checkpoint: Checkpoint, dry: bool) -> int:
    names = ", ".join(cell.name for cell in checkpoint.cells) or "no cell"
    try:
        with unused(checkpoint.folder):
            if not dry:
                free(checkpoint.folder)
    except BusyError:
        print(f"kept {checkpoint.folder.name}: a job is at work on it ({names})")
        return 0
    print(f"{readable_size(checkpoint.size):>10}  {checkpoint.folder.name}  {names}")
    return checkpoint.size


def _age(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if not found:
        raise ConfigError(f"--older-than={text} is no age: write 30m, 12h, 7d or 2w")
    return float(found[1]) * _UNITS[found[2]]
