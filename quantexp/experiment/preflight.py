"""What would fail later, refused now: models, group sizes, data files and folders; no torch."""

import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from math import gcd
from pathlib import Path

from quantexp.calibration.data import WindowSource, find_set
from quantexp.config import TENSORS
from quantexp.errors import ConfigError, DataError, QuantexpError
from quantexp.evaluation import task_files, tasks
from quantexp.experiment.cell import Cell
from quantexp.methods.base import check_transforms
from quantexp.models.source import ModelSource


def problems(cell: Cell) -> list[str]:
    """Reasons why a cell cannot run, each with value, allowed set and fix; empty when it can."""
    found = []
    for check in _checks(cell):
        try:
            check()
        except QuantexpError as error:
            found.append(str(error))
        except OSError as error:
            found.append(f"cannot read {error.filename}: {error.strerror}")
    return found


def _checks(cell: Cell) -> Iterator[Callable[[], None]]:
    yield lambda: _writable(cell.outputs, cell.outputs.absolute())
    try:
        model = cell.model
    except QuantexpError as error:
        text = str(error)

        def refuse() -> None:
            raise DataError(text)

        yield refuse
        return
    yield lambda: _groups(cell, model)
    yield lambda: check_transforms(cell.method, cell.config, model)
    yield lambda: cell.method.check_model(cell.config, model)
    if cell.quantized and (cell.needs_windows or cell.config.evaluation.block_error_windows):
        yield lambda: _windows("data", "data.seq_len", cell.windows, model)
    asked = cell.config.evaluation
    sets = [("perplexity", i, item) for i, item in enumerate(asked.perplexity)]
    sets += [("validation", i, item) for i, item in enumerate(asked.validation)]
    for kind, i, item in sets:
        where = f"evaluation.{kind} '{item.name}'"
        key = f"evaluation.{kind}[{i}].seq_len"
        yield lambda item=item, where=where, key=key: _windows(  # type: ignore[misc]
            where, key, find_set(item), model
        )
    for name in cell.config.evaluation.tasks:
        yield lambda name=name: _task(cell, name)  # type: ignore[misc]


def _task(cell: Cell, name: str) -> None:
    """A local file must be right; without one, what is not cached must be within reach."""
    folder = cell.config.evaluation.task_data
    if folder is not None:
        task_files.find(name, folder)
    elif not tasks.is_cached(name) and not _measured(cell, name):
        cause = "no network is asked for" if tasks.offline() else tasks.network()
        if cause is not None:
            raise DataError(tasks.unreachable(name, f"{cause}, and it is not cached"))


def _measured(cell: Cell, task: str) -> bool:
    try:
        return ("zeroshot", task) not in {(item.kind, item.name) for item in cell.missing}
    except QuantexpError:  # another check says it
        return False


@cache  # a file for each cell of a sweep would be bad manners
def _writable(outputs: Path, absolute: Path) -> None:
    # Of a folder that is not there yet, the part that is: checking leaves nothing behind.
    there = next(path for path in (absolute, *absolute.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(
            f"paths.outputs={outputs} cannot be written ({error.strerror}): "
            "give a folder of yours, paths.outputs=FOLDER or QUANTEXP_OUTPUTS=FOLDER"
        ) from error


def _groups(cell: Cell, model: ModelSource) -> None:
    inputs = {
        "hidden size": model.hidden,
        "intermediate size": model.intermediate,
        "heads x head_dim": model.heads * model.head_dim,
    }
    for tensor in TENSORS:
        spec = getattr(cell.config.bits, tensor)
        if not spec.active or not spec.group_size:
            continue
        sizes = inputs if tensor in ("weight", "activation") else {"head_dim": model.head_dim}
        if any(size % spec.group_size for size in sizes.values()):
            common = gcd(*sizes.values())
            divisors = [d for d in range(2, common + 1) if common % d == 0]
            near = sorted(sorted(divisors, key=lambda d: abs(d - spec.group_size))[:4])
            described = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ConfigError(
                f"bits.{tensor}.group_size={spec.group_size} does not divide the model's "
                f"{described}: nearest allowed are {', '.join(map(str, near))}, or null"
            )


def _windows(where: str, key: str, source: WindowSource, model: ModelSource) -> None:
    if source.seq_len > model.max_positions:
        raise ConfigError(
            f"{key}={source.seq_len} is longer than the model's {model.max_positions} positions: "
            f"allowed 2 to {model.max_positions}"
        )
    path = source.corpus.path
    if path is None:
        return
    windows = source.corpus.token_windows
    if windows is None:
        try:
            size = len(source.corpus.text.encode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: '{path}' is no UTF-8 text (byte {error.start}): convert it"
            ) from error
        if size <= source.seq_len:  # a token is at least one byte
            raise DataError(
                f"{where}: '{path}' has {size} bytes, too few for a window of "
                f"{source.seq_len} tokens: give a longer text or a smaller {key}"
            )
        return
    vocabulary = int(model.config["vocab_size"])
    highest = max(max(window) for window in windows)
    if highest >= vocabulary:
        raise DataError(
            f"{where}: '{path}' holds token id {highest}, but the model knows ids 0 to "
            f"{vocabulary - 1}: the windows were made with another tokenizer"
        )
