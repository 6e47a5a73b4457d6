"""Copies of the package (``outputs/code``) that nothing needs any more."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from quantexp.cluster import follow, slurm, submitted
from quantexp.errors import ConfigError
from quantexp.experiment import record
from quantexp.experiment.claim import Claim
from quantexp.experiment.code import science
from quantexp.experiment.estimate import readable_size
from quantexp.resources import PACKAGE


def free_unused(outputs: Path, dry: bool) -> int:
    """Removes the package from the copies that nothing needs; says each, and why others stay.

    Needed is what a job runs that waits or runs, and what could go on with a calibration that is
    not finished.

    Args:
        outputs: Folder of the results.
        dry: Only say.

    Returns:
        Bytes.

    Raises:
        ConfigError: SLURM does not say which jobs it has.
    """
    freed = 0
    copies = [path.parent for path in sorted((outputs / "code").glob(f"[!.]*/{PACKAGE.name}"))]
    if not copies:
        return 0
    with Claim(outputs / "sweeps" / ".submit.claim"):  # nobody submits in the meantime
        jobs = _jobs(outputs)
        unfinished = _unfinished(outputs)
        for copy in copies:
            package = copy / PACKAGE.name
            reason = jobs.get(copy.name) or jobs.get(None) or unfinished.get(science(package))
            if reason:
                print(f"kept {copy.name}: {reason}")
                continue
            size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
            commit = (record.read(copy / "snapshot.json") or {}).get("commit") or "no commit"
            print(f"{readable_size(size):>10}  {copy.name}  {commit}")
            freed += size
            if not dry:
                # at once, so that nobody starts with a part of it
                shutil.rmtree(package.rename(record.partial_path(package)), ignore_errors=True)
    return freed


def _jobs(outputs: Path) -> dict[str | None, str]:
    """Copy → a job that needs it. ``None`` is one that does not say which: all are kept."""
    here = (task for task in submitted.tasks(outputs) if task.of.place != "slurm")
    try:
        alive = [*follow.live(outputs), *(task for task in here if task.open)]
    except slurm.NoAnswerError as error:
        raise ConfigError(
            f"SLURM does not answer ({error}), and its jobs may need the code: try again later"
        ) from error
    return {task.of.code: f"job {task.id} needs it" for task in alive}


def _unfinished(outputs: Path) -> dict[str, str]:
    """Hash of the code that makes checkpoints → a calibration that only it can go on with."""
    return {code: f"calibration {folder.name} is not finished" for folder, code in _codes(outputs)}


def _codes(outputs: Path) -> Iterator[tuple[Path, str]]:
    for folder in sorted((outputs / "calibrations").glob("[!.]*/blocks")):
        for path in folder.glob("*.json"):
            yield folder.parent, str((record.read(path) or {}).get("code", ""))
