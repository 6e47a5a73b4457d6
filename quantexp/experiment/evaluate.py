"""evaluate: a cell's checkpoint × one evaluation → one record."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from quantexp.calibration import activations, data, footprint, ladder
from quantexp.calibration.blocks import Progress, rebuild
from quantexp.calibration.checkpoint import QuantizedCheckpoint
from quantexp.calibration.footprint import TOKENS
from quantexp.calibration.passes import once_more
from quantexp.calibration.sampling import token_hash
from quantexp.evaluation.block_error import block_errors
from quantexp.evaluation.perplexity import details, perplexity, window_nll
from quantexp.experiment import record
from quantexp.experiment.cell import Cell, Evaluation, fingerprint
from quantexp.measure import Meter, device_name
from quantexp.models.load import StreamedModel


class Subject:
    """A cell's model as its evaluations need it: streamed by block, or whole; each built once.

    Attributes:
        model: The checkpoint's pieces.
        block: Block by index: rebuilt from integers, or as it is for the baseline.
    """

    def __init__(self, cell: Cell) -> None:
        self.model = StreamedModel(cell.model, cell.config.model)
        self.block = _blocks(cell, self.model)
        self._whole: Any = None

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer()

    def whole(self, progress: Progress) -> Any:
        """All of it in memory, as a ``PreTrainedModel``; made once."""
        if self._whole is None:
            from quantexp.models.assemble import assemble

            def block(index: int) -> nn.Module:
                progress("whole model", index, self.model.blocks, None)
                return self.block(index)

            self._whole = assemble(self.model, block)
        return self._whole


def evaluate(
    cell: Cell, evaluation: Evaluation, progress: Progress, subject: Subject | None = None
) -> None:
    """Measures one thing on the model as rebuilt from its checkpoint and writes the record.

    Args:
        cell: Whose checkpoint.
        evaluation: One of the cell's.
        progress: Told of what is done.
        subject: The cell's model, where several evaluations share it.

    Raises:
        QuantexpError: A file is missing or damaged, a text too short.
    """
    meter = Meter()
    subject = subject or Subject(cell)
    model, block, tokenizer = subject.model, subject.block, subject.tokenizer

    def report(done: int) -> None:
        progress(f"{evaluation.kind} {evaluation.name}", done, model.blocks, None)

    found: dict[str, Any]
    if evaluation.kind == "zeroshot":
        found = _zeroshot(evaluation, subject, progress)
    elif evaluation.set is not None:
        windows = data.find_set(evaluation.set).load(tokenizer)

        def score(tokens: int) -> list[float]:
            stored = _store(cell, model, windows, tokens)
            return window_nll(model, block, windows, report, stored, tokens)

        nll, at_once = once_more(score, cell.config.bits)
        value = perplexity(nll, windows.shape[1] - 1)
        found = {"metric": "ppl", "value": value, "details": details(windows, nll, tokenizer)}
        found["details"] |= {"token_hash": token_hash(windows), **_said(at_once)}
    else:
        windows = cell.windows.load(tokenizer)[: evaluation.inputs["count"]]
        errors, at_once = once_more(
            lambda tokens: block_errors(model, block, windows, report, tokens), cell.config.bits
        )
        found = {
            "metric": "sqnr_db",
            "value": errors[-1]["sqnr_db"],
            "details": {
                "windows": len(windows),
                "blocks": errors,
                "token_hash": token_hash(windows),
                **_said(at_once),
            },
        }
    measured = {
        "dtype": str(model.compute).removeprefix("torch."),
        "stored_dtype": str(model.stored).removeprefix("torch."),
        **meter.read(),
    }
    store(cell, evaluation, found, measured)


def store(
    cell: Cell, evaluation: Evaluation, found: Mapping[str, Any], measured: Mapping[str, Any]
) -> None:
    """Writes the record of an evaluation.

    Args:
        cell: Whose.
        evaluation: One of the cell's.
        found: Metric, value and details.
        measured: With which dtypes, in how many seconds and bytes.
    """
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
            **measured,
            **_fallbacks(cell),
            "time": record.now(),
            "provenance": record.provenance(),
        },
    )


def _said(tokens: int) -> dict[str, int]:
    """For the details of a record: how many tokens passed at once, where memory was short."""
    return {"pass_tokens": tokens} if tokens < TOKENS else {}


def _store(cell: Cell, model: StreamedModel, windows: Tensor, tokens: int) -> activations.Store:
    """Where perplexity keeps its hidden states."""
    (count, length), width = windows.shape, model.compute.itemsize
    work = footprint.evaluating(model.source, cell.config.bits, count, length, width)
    shape, dtype = (count, length, model.source.hidden), model.compute
    setting = activations.setting(cell.config, tokens)
    return activations.choose(setting, 1, shape, dtype, model.device, work, cell.folder)


def _fallbacks(cell: Cell) -> dict[str, Any]:
    """What the numerical ladder did, so that a record says so without its calibration's report."""
    report = (record.read(cell.checkpoint / "report.json") if cell.quantized else None) or {}
    found = ladder.summary(report.get("blocks", ()))
    return {"fallbacks": found} if found else {}


def _zeroshot(evaluation: Evaluation, subject: Subject, progress: Progress) -> dict[str, Any]:
    from quantexp.evaluation.zeroshot import zeroshot  # lm-eval takes seconds to import

    whole = subject.whole(progress)
    # documents are read and cut into tokens, which takes seconds for the larger tasks
    progress(f"documents of {evaluation.name}", 0, 1, None)
    return zeroshot(
        whole,
        subject.tokenizer,
        evaluation.name,
        evaluation.task,
        evaluation.inputs["limit"],
        evaluation.inputs["batch_size"],
        lambda done, total: progress(f"zeroshot {evaluation.name}", done, total, None),
    )


def _blocks(cell: Cell, model: StreamedModel) -> Callable[[int], nn.Module]:
    """Blocks by index: from the checkpoint's integers, or as they are for the baseline."""
    if not cell.quantized:
        return lambda index: model.block(index, model.compute)
    checkpoint = QuantizedCheckpoint(cell.checkpoint)
    return lambda index: (
        rebuild(model, checkpoint.block(index), index, cell.config, model.compute).module
    )
