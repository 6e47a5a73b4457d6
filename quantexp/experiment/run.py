"""What a machine runs for one cell: calibrate, evaluate, mirror. The same callable everywhere."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantexp.config import from_plain
from quantexp.experiment import faults, record
from quantexp.experiment.cell import Cell
from quantexp.experiment.claim import Claim
from quantexp.experiment.status import Status

CHECKPOINT_FOLDERS = ("blocks", "checkpoint")  # of a calibration: all that takes space
_attempts: list[Status] = []  # of this process, the last one under way: signals end it


def run_cell(config: dict[str, object]) -> bool:
    """Does what is missing of one cell; nothing finished is done again.

    One process at a time works on a calibration: a second one (the same command in another
    terminal, or a job that outlived its launcher) waits, and then finds it done.

    Args:
        config: A plain configuration (what ``cell.json`` stores): it crosses processes.

    Returns:
        Whether the cell is done. A failure is in ``status.json``, with its traceback.
    """
    cell = Cell(from_plain(config))
    with lock(cell) as claim:
        if is_done(cell):
            return True
        with _attempt(cell, claim) as status:
            _calibrate_and_evaluate(cell, status)
            status.finish()
        _mirror(cell)
        return is_done(cell)


def calibrate_cell(config: dict[str, object]) -> bool:
    """The first half of :func:`run_cell`: the cell's checkpoint, and no evaluation.

    Returns:
        Whether the checkpoint is there.
    """
    cell = Cell(from_plain(config))
    with lock(cell) as claim:
        if is_calibrated(cell):
            return True
        with _attempt(cell, claim) as status:
            from quantexp.experiment.calibrate import calibrate

            calibrate(cell, status.progress)
            status.hand_over()
        return is_calibrated(cell)


def under_way() -> Status | None:
    """The attempt that this process is at; what a signal's handler must end in order."""
    return _attempts[-1] if _attempts else None


@contextmanager
def _attempt(cell: Cell, claim: Claim) -> Iterator[Status]:
    """An attempt whose end is written down, whatever it is."""
    for folder in (cell.folder, cell.checkpoint):
        record.remove_partials(folder)  # of an attempt that was killed: blocks are large
    status = Status(cell.folder, claim.check)
    _attempts.append(status)
    try:
        record.write_signed(cell.folder / "cell.json", cell.describe())
        yield status
    except KeyboardInterrupt:
        status.interrupt()
        raise
    except (Exception, SystemExit) as error:
        status.fail(error)
        if faults.of_exception(error) == faults.DISK or status.closed:
            raise  # no other cell of the job would fare better; or a signal ends the job
    finally:
        _attempts.remove(status)


def is_calibrated(cell: Cell) -> bool:
    """Whether a cell's checkpoint is there; the baseline needs none. No torch."""
    if not cell.quantized:
        return True
    manifest = record.read(cell.checkpoint / "manifest.json")
    files = () if manifest is None else manifest["files"]
    return manifest is not None and all(
        (cell.checkpoint / "checkpoint" / f).is_file() for f in files
    )


def is_done(cell: Cell) -> bool:
    """Whether all records of a cell exist; needs no torch."""
    return not cell.missing


def lock(cell: Cell) -> Claim:
    """Held while a process works on the cell's calibration."""
    return Claim(lock_path(cell.outputs, cell.checkpoint.name))


def lock_path(outputs: Path, calibration: str) -> Path:
    """The file of :func:`lock`, by the name of the checkpoint's folder."""
    return outputs / "calibrations" / f".{calibration}.claim"


def free(checkpoint: Path) -> None:
    """Removes a checkpoint's integers; its manifest, its report and all records stay."""
    for name in CHECKPOINT_FOLDERS:
        shutil.rmtree(checkpoint / name, ignore_errors=True)


def _calibrate_and_evaluate(cell: Cell, status: Status) -> None:
    # torch is imported only where there is work to do
    from quantexp.experiment.calibrate import calibrate
    from quantexp.experiment.evaluate import Subject, evaluate

    if cell.quantized:
        calibrate(cell, status.progress)
    subject = Subject(cell)
    for evaluation in cell.missing:
        evaluate(cell, evaluation, status.progress, subject)


def _mirror(cell: Cell) -> None:
    if cell.config.tracker.mode == "disabled":
        return
    try:
        from quantexp.tracking.mirror import mirror

        mirror(cell)
    except Exception as error:  # a broken tracker never fails a cell
        print(f"warning: {cell.id} was not mirrored: {error}", file=sys.stderr)
