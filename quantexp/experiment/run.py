"""What a machine runs for one cell: calibrate, evaluate, mirror. The same callable everywhere."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

    One process at a time works on a cell, and on a calibration: a second one (the same command in
    another terminal, or a job that outlived its launcher) waits, and then finds it done. Cells
    that share a calibration are evaluated at the same time.

    Args:
        config: A plain configuration (what ``cell.json`` stores): it crosses processes.

    Returns:
        Whether the cell is done. A failure is in ``status.json``, with its traceback.
    """
    cell = Cell(from_plain(config))
    with Claim(_path(cell, cell.id)) as own, ExitStack() as calibration:
        if is_done(cell):
            return True
        claims = [own]
        if cell.quantized:
            claims.append(calibration.enter_context(Claim(_path(cell))))

        def calibrated() -> None:
            claims[:] = [own]
            calibration.close()

        with _attempt(cell, claims) as status:
            _calibrate_and_evaluate(cell, status, calibrated)
            status.finish()
        _mirror(cell)
        return is_done(cell)


def calibrate_cell(config: dict[str, object]) -> bool:
    """The first half of :func:`run_cell`: the cell's checkpoint, and no evaluation.

    Returns:
        Whether the checkpoint is there.
    """
    cell = Cell(from_plain(config))
    with Claim(_path(cell)) as claim:
        if is_calibrated(cell):
            return True
        with _attempt(cell, [claim]) as status:
            from quantexp.experiment.calibrate import calibrate

            calibrate(cell, status.progress)
            status.hand_over()
        return is_calibrated(cell)


def under_way() -> Status | None:
    """The attempt that this process is at; what a signal's handler must end in order."""
    return _attempts[-1] if _attempts else None


@contextmanager
def _attempt(cell: Cell, claims: list[Claim]) -> Iterator[Status]:
    """An attempt whose end is written down, whatever it is; it stops if a claim is lost."""

    def check() -> None:
        for claim in claims:
            claim.check()

    for folder in (cell.folder, cell.checkpoint):
        record.remove_partials(folder)  # of an attempt that was killed: blocks are large
    status = Status(cell.folder, check)
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


@contextmanager
def unused(checkpoint: Path) -> Iterator[None]:
    """For its body nobody makes or reads a checkpoint: who comes now waits, and looks again.

    Raises:
        BusyError: Somebody is at it.
    """
    folder, name = checkpoint.parent, checkpoint.name
    with ExitStack() as held:
        # the calibration's own first: after that there are no new readers
        for path in (folder / f".{name}.claim", *folder.glob(f".{name}.*.claim")):
            held.enter_context(Claim(path, wait=False))
        yield


def free(checkpoint: Path) -> None:
    """Removes a checkpoint's integers; its manifest, its report and all records stay."""
    for name in CHECKPOINT_FOLDERS:
        shutil.rmtree(checkpoint / name, ignore_errors=True)


def _path(cell: Cell, reader: str | None = None) -> Path:
    """The claim of a cell's calibration, or of a cell that reads it (:func:`unused` takes all)."""
    name = cell.checkpoint.name if reader is None else f"{cell.checkpoint.name}.{reader}"
    return cell.checkpoint.with_name(f".{name}.claim")


def _calibrate_and_evaluate(cell: Cell, status: Status, calibrated: Callable[[], None]) -> None:
    """All that is missing; ``calibrated`` is told when others may read the checkpoint."""
    # torch is imported only where there is work to do
    from quantexp.experiment.calibrate import calibrate
    from quantexp.experiment.evaluate import Subject, evaluate

    if cell.quantized:
        calibrate(cell, status.progress)
        calibrated()
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
