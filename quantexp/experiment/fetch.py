"""Corpora of the hub that cells will read, fetched before the first job starts."""

from collections.abc import Iterable

from quantexp.calibration import hub
from quantexp.calibration.data import find_set
from quantexp.calibration.hub import HubFile
from quantexp.experiment.cell import Cell


def fetch(cells: Iterable[Cell]) -> None:
    """Downloads the corpora that the cells' missing work needs and the cache lacks.

    Raises:
        DataError: A corpus is missing, and the network is off or fails; the message holds the
            commands that fetch it.
    """
    hub.fetch(file for cell in cells for file in files(cell))


def files(cell: Cell) -> list[HubFile]:
    """The files of the hub that a cell's missing evaluations, and their calibration, read."""
    missing = cell.missing
    sources = [find_set(evaluation.set) for evaluation in missing if evaluation.set is not None]
    errors = any(evaluation.set is None for evaluation in missing)
    if missing and cell.quantized and (cell.needs_windows or errors):
        sources.append(cell.windows)
    return [source.file for source in sources if source.file is not None]
