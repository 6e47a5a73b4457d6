"""What a machine runs for one cell: calibrate, evaluate, mirror. The same callable everywhere."""

import shutil
import sys
from pathlib import Path

from filelock import FileLock

from quantexp.config import from_plain
from quantexp.experiment import record
from quantexp.experiment.cell import Cell
from quantexp.experiment.status import Status

CHECKPOINT_FOLDERS = ("blocks", "checkpoint")  # of a calibration: all that takes space


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
    with lock(cell):
        if is_done(cell):
            return True
        status = Status(cell.folder)
        record.write_signed(cell.folder / "cell.json", cell.describe())
        try:
            _calibrate_and_evaluate(cell, status)
        except KeyboardInterrupt:
            status.interrupt()
            raise
        except (Exception, SystemExit) as error:
            status.fail(error)
        else:
            status.finish()
        _mirror(cell)
        return is_done(cell)


def is_done(cell: Cell) -> bool:
    """Whether all records of a cell exist; needs no torch."""
    return not cell.missing


def lock(cell: Cell) -> FileLock:
    """Held while a process works on the cell's calibration; freed by the system when it dies."""
    path = lock_path(cell.outputs, cell.checkpoint.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def lock_path(outputs: Path, calibration: str) -> Path:
    """The file of :func:`lock`, by the name of the checkpoint's folder."""
    return outputs / "calibrations" / f".{calibration}.lock"


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
