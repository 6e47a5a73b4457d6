"""Rounds the weights of a merged block: to nearest, or by GPTQ in the order of the computation.

GPTQ's Hessians come from the quantized stream, through what is already rounded. Linears that read
the same values share one, and are rounded as one matrix: its rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from quantexp.config import ExperimentConfig
from quantexp.errors import CalibrationError
from quantexp.quantization.block import QuantBlock
from quantexp.quantization.gptq import Hessian, gptq
from quantexp.quantization.linear import QuantLinear
from quantexp.quantization.rounding import rtn

Observe = Callable[[Mapping[str, Callable[[Tensor], None]]], None]


class WeightRounding:
    """Makes a block's weights what their integers say.

    Args:
        quant: The block, merged.
        index: Its position, for messages.
        config: Bits, rounding and its options.
        stored: Dtype of the scales in the checkpoint.
        observe: Sends the quantized stream through the block, for observers of linears.
    """

    def __init__(
        self,
        quant: QuantBlock,
        index: int,
        config: ExperimentConfig,
        stored: torch.dtype,
        observe: Observe,
    ) -> None:
        self._quant, self._index, self._stored = quant, index, stored
        self._spec, self._options = config.bits.weight, config.gptq
        self._rounding, self._observe = config.rounding, observe

    def round(self) -> dict[str, Any]:
        """Rounds all weights.

        Returns:
            For the block's report: by GPTQ, damping, dead columns and loss of each linear, and
            where more damping was needed.

        Raises:
            CalibrationError: A weight or a Hessian is not finite, or an expert saw no token.
        """
        linears, architecture = self._quant.linears, self._quant.architecture
        for path, linear in linears.items():
            # infinities are the least or the largest, and one NaN is both
            if not torch.stack(linear.weight.data.aminmax()).isfinite().all():
                raise CalibrationError(
                    f"block {self._index}, {path}: the merged weight is not finite: the transform "
                    "overflowed; use model.dtype=float32, or other options of the method"
                )
        if self._rounding == "rtn":
            self._to_nearest(linears.values())
            return {}
        reports: dict[str, dict[str, Any]] = {}
        one_pass = (architecture.linears,)
        for group in architecture.sequential if self._options.true_sequential else one_pass:
            reports |= self._by_gptq(group)
        usual = self._options.damping
        ladder = [
            {
                "step": f"damping {report['damping']:g}",
                "cause": f"{path}: not positive definite at gptq.damping={usual:g}",
            }
            for path, report in reports.items()
            if report.get("damping", usual) != usual
        ]
        return {"gptq": reports, "ladder": ladder}

    def _to_nearest(self, linears: Iterable[QuantLinear]) -> None:
        for linear in linears:
            factors = linear.range_factors()
            linear.set_integers(rtn(linear.weight.data, self._spec, self._stored, factors))

    def _by_gptq(self, group: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rounds linears of which none comes before another; the report of each."""
        alike = self._reading_alike(group)
        hessians: dict[str, Hessian] = {}
        for first, *_ in alike:
            weight = self._quant.linears[first].weight
            hessians[first] = Hessian(weight.shape[1], weight.device, weight.dtype)
        self._observe({first: hessian.add for first, hessian in hessians.items()})
        self._check_seen([p for paths in alike if not hessians[paths[0]].sequences for p in paths])
        reports: dict[str, dict[str, Any]] = {}
        for paths in alike:
            hessian = hessians.pop(paths[0])  # its memory is free behind its last use
            linears = [self._quant.linears[path] for path in paths]
            if not hessian.sequences:
                self._to_nearest(linears)
                reports |= {path: {"tokens": 0, "rounding": "rtn"} for path in paths}
                continue
            weights = [linear.weight.data for linear in linears]
            factors = [linear.range_factors() for linear in linears]
            try:
                rounded = gptq(
                    weights, hessian.matrix, self._spec, self._options, self._stored, factors
                )
            except CalibrationError as error:
                where = f"block {self._index}, {', '.join(paths)}"
                raise CalibrationError(f"{where}: {error}") from error
            for path, linear, (integers, note) in zip(paths, linears, rounded, strict=True):
                linear.set_integers(integers)
                reports[path] = {
                    "damping": note.damping,
                    "dead_columns": note.dead_columns,
                    "loss": note.loss,
                }
                if self._quant.architecture.of_expert(path):
                    reports[path]["tokens"] = hessian.sequences
        return reports

    def _reading_alike(self, group: Sequence[str]) -> list[list[str]]:
        """A group's linears, those together that read the same values.

        Not where a clip of the input was learned for each linear, nor where one scale for a whole
        matrix would be taken from all of them.
        """
        found: dict[str, list[str]] = {}
        for path in group:
            own = self._quant.linears[path].input_quantizer.clip is not None
            own |= self._spec.granularity == "per_tensor"
            key = path if own else self._quant.architecture.input_of(path)
            found.setdefault(key, []).append(path)
        return list(found.values())

    def _check_seen(self, unseen: Sequence[str]) -> None:
        """Says what becomes of linears of experts that no token reached; that is an option."""
        if unseen and self._options.unseen_experts == "error":
            raise CalibrationError(
                f"block {self._index}: no calibration token reached {len(unseen)} linears of "
                f"experts (first: {min(unseen)}): use more windows (data.num_samples), or round "
                "them to nearest with gptq.unseen_experts=rtn"
            )
        if unseen:
            print(
                f"block {self._index}: {len(unseen)} linears of experts that no calibration token "
                "reached are rounded to nearest (gptq.unseen_experts=rtn)",
                flush=True,
            )
