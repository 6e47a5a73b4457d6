"""Finds the cells that ``--flatness`` names and measures them; refuses what cannot be compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantexp.config import from_plain
from quantexp.errors import ConfigError, DataError, unknown
from quantexp.experiment import record
from quantexp.experiment.cell import Cell, model_name
from quantexp.experiment.outputs import cells as all_cells
from quantexp.waiting import Waiting


def measure_cells(
    outputs: Path, wanted: Sequence[str], block: int | None, sweep: str | None = None
) -> dict[str, Any]:
    """The flatness data of cells (see :func:`quantexp.figures.flatness.measure`).

    Args:
        outputs: Folder of the results.
        sweep: Only its cells are meant; ``None``: all.
        wanted: Names of cells, or unambiguous parts of them.
        block: Whose channels are kept; ``None``: the middle one.

    Raises:
        ConfigError: No such cell or block, or cells that cannot be compared.
        DataError: A checkpoint was freed or never made.
    """
    found = [_cell(outputs, name, sweep) for name in dict.fromkeys(wanted)]
    _check(found, block)
    # torch only now that the cells are known to fit together
    from quantexp.figures.flatness import measure

    with Waiting("blocks measured") as told:
        return measure(found, block, told)


def _cell(outputs: Path, name: str, sweep: str | None) -> Cell:
    names = [folder.name for folder in all_cells(outputs, sweep)]
    fitting = [name] if name in names else [other for other in names if name in other]
    if not fitting:
        if not names:
            raise ConfigError(f"unknown cell '{name}': {outputs} holds no cell yet")
        raise ConfigError(unknown("cell", name, names))
    if len(fitting) > 1:
        raise ConfigError(
            f"'{name}' is part of several cells: {', '.join(fitting)}: name one of them"
        )
    stored = record.read(outputs / "cells" / fitting[0] / "cell.json")
    if stored is None or not isinstance(stored.get("config"), dict):
        raise DataError(f"{outputs / 'cells' / fitting[0] / 'cell.json'} is no record of a cell")
    # the folder may have moved since
    config = stored["config"] | {"paths": {"outputs": str(outputs)}}
    return Cell(from_plain(config))


def _check(found: Sequence[Cell], block: int | None) -> None:
    first = found[0]
    for cell in found:
        if not cell.quantized:
            raise ConfigError(f"{cell.id} is the baseline, which nothing transforms: leave it out")
        for what, mine, others in (
            ("model", model_name(cell), model_name(first)),
            ("bit setting", cell.config.bits, first.config.bits),
        ):
            if mine != others:
                raise ConfigError(
                    f"{cell.id} and {first.id} differ in their {what}: name cells of one model "
                    "and bit setting"
                )
        manifest = cell.checkpoint / "manifest.json"
        files = (record.read(manifest) or {}).get("files") or {}
        if not files or not all((cell.checkpoint / "checkpoint" / f).is_file() for f in files):
            raise DataError(
                f"{cell.id} has no checkpoint in {cell.checkpoint} (unfinished, or freed by clean "
                "or keep=records): run its command again"
            )
    labels = [cell.config.label for cell in found]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ConfigError(f"two cells of {', '.join(sorted(twice))}: name one per method")
    blocks = first.model.blocks
    if block is not None and not 0 <= block < blocks:
        raise ConfigError(f"--block={block}: the model has blocks 0 to {blocks - 1}")
