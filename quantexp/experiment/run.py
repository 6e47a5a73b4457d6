"""What a machine runs for one cell: calibrate, evaluate, mirror. The same callable everywhere."""

import shutil

from quantexp.config import from_plain
from quantexp.experiment import record
from quantexp.experiment.cell import Cell
from quantexp.experiment.status import Status
from quantexp.typed import plain


def run_cell(config: dict[str, object]) -> bool:
    """Does what is missing of one cell; nothing finished is done again.

    Args:
        config: A plain configuration (what ``cell.json`` stores): it crosses processes.

    Returns:
        Whether the cell is done. A failure is in ``status.json``, with its traceback.
    """
    cell = Cell(from_plain(config))
    status = Status(cell.folder)
    record.write(cell.folder / "cell.json", plain(cell.describe()))
    try:
        _calibrate_and_evaluate(cell, status)
    except Exception as error:
        status.fail(error)
        _mirror(cell)
        return False
    status.finish()
    _mirror(cell)
    return True


def is_done(cell: Cell) -> bool:
    """Whether all records of a cell exist; needs no torch."""
    return not cell.missing


def free_checkpoint(cell: Cell) -> None:
    """``keep=records``: removes the blocks and keeps manifest, report and records."""
    for name in ("blocks", "checkpoint"):
        shutil.rmtree(cell.checkpoint / name, ignore_errors=True)


def _calibrate_and_evaluate(cell: Cell, status: Status) -> None:
    missing = cell.missing
    if not missing:
        return
    # torch is imported only where there is work to do
    from quantexp.experiment.calibrate import calibrate
    from quantexp.experiment.evaluate import evaluate

    if cell.quantized:
        calibrate(cell, status.progress)
    for evaluation in missing:
        evaluate(cell, evaluation, status.progress)


def _mirror(cell: Cell) -> None:
    from quantexp.tracking.mirror import mirror

    mirror(cell)
