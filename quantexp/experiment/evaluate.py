"""evaluate: a cell's checkpoint × one evaluation → one record."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from quantexp.calibration import data
from quantexp.calibration.blocks import Progress, rebuild
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.calibration.sampling import token_hash
from quantexp.evaluation.block_error import block_errors
from quantexp.evaluation.perplexity import details, perplexity, window_nll
from quantexp.experiment import record
from quantexp.experiment.cell import Cell, Evaluation, fingerprint
from quantexp.measure import Meter, device_name
from quantexp.models.load import StreamedModel


def evaluate(cell: Cell, evaluation: Evaluation, progress: Progress) -> None:
    """Measures one thing on the model as rebuilt from its checkpoint and writes the record.

    Raises:
        QuantexpError: A file is missing or damaged, a text too short.
    """
    meter = Meter()
    model = StreamedModel(cell.model, cell.config.model)
    block = _blocks(cell, model)
    tokenizer = model.tokenizer()

    def report(done: int) -> None:
        progress(f"{evaluation.kind} {evaluation.name}", done, model.blocks, None)

    found: dict[str, Any]
    if evaluation.set is not None:
        windows = data.find_set(evaluation.set).load(tokenizer)
        nll = window_nll(model, block, windows, report)
        value = perplexity(nll, windows.shape[1] - 1)
        found = {"metric": "ppl", "value": value, "details": details(windows, nll, tokenizer)}
    else:
        windows = cell.windows.load(tokenizer)[: evaluation.inputs["count"]]
        errors = block_errors(model, block, windows, report)
        found = {
            "metric": "sqnr_db",
            "value": errors[-1]["sqnr_db"],
            "details": {"windows": len(windows), "blocks": errors},
        }
    found["details"]["token_hash"] = token_hash(windows)
    identity = cell.describe()
    del identity["config"], identity["run_only"], identity["fingerprint"]
    record.write_signed(
        cell.folder / "evaluations" / evaluation.file_name,
        {
            "kind": evaluation.kind,
            "dataset": evaluation.name,
            **found,
            **identity,
            "fingerprint": fingerprint(evaluation.inputs),
            "inputs": evaluation.inputs,
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "dtype": str(model.compute).removeprefix("torch."),
            "stored_dtype": str(model.stored).removeprefix("torch."),
            **meter.read(),
            "time": record.now(),
            "provenance": record.provenance(),
        },
    )


def _blocks(cell: Cell, model: StreamedModel) -> Callable[[int], nn.Module]:
    """Blocks by index: from the checkpoint's integers, or as they are for the baseline."""
    if not cell.quantized:
        return lambda index: model.block(index, model.compute)
    checkpoint = QuantizedCheckpoint(cell.checkpoint)
    return lambda index: (
        rebuild(model, checkpoint.block(index), index, cell.config, model.compute).module
    )
