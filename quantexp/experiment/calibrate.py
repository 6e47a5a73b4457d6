"""calibrate: one distinct calibration → one quantized checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from quantexp.calibration.blocks import Progress, calibrate_blocks
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.calibration.sampling import token_hash
from quantexp.config import to_plain
from quantexp.experiment import record
from quantexp.experiment.cell import Cell, model_name
from quantexp.experiment.code import science
from quantexp.models.load import StreamedModel


def calibrate(cell: Cell, progress: Progress) -> None:
    """Makes the cell's checkpoint, or the rest of it; does nothing if it is complete.

    Raises:
        QuantexpError: The data is too short, a loss is not finite, a file is damaged.
    """
    checkpoint = QuantizedCheckpoint(cell.checkpoint)
    if checkpoint.complete:
        return
    model = StreamedModel(cell.model, cell.config.model)
    windows = cell.windows.load(model.tokenizer()) if cell.needs_windows else None
    report = calibrate_blocks(model, cell.method, cell.config, windows, checkpoint, progress)
    conclude(cell, checkpoint, model.blocks, windows, report)


def conclude(
    cell: Cell,
    checkpoint: QuantizedCheckpoint,
    blocks: int,
    windows: Tensor | None,
    report: Mapping[str, Any],
) -> None:
    """Makes a checkpoint of stored blocks, with its manifest and its report.

    Args:
        cell: Whose.
        checkpoint: All its blocks are stored.
        blocks: How many there are.
        windows: The tokens it was calibrated on (B, T), or ``None``.
        report: Of the block loop.
    """
    drawn = {} if windows is None else {"token_hash": token_hash(windows)}
    common = {
        **drawn,
        "calibration": cell.calibration,
        "inputs": cell.calibration_inputs,
        "time": record.now(),
        "provenance": record.provenance(),
        "code": science(),
    }
    manifest = {
        **common,
        "source": {
            "model": model_name(cell),
            "folder": str(cell.model.folder),
            "content": cell.model.content_hash,
        },
        "config": to_plain(cell.config),
        "effective_bits": report["effective_bits"],
    }
    checkpoint.consolidate(blocks, manifest, {**common, **report})
