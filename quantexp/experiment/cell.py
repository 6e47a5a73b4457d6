"""A cell: one fully resolved experiment, its three fingerprints and its folders.

``calibration`` hashes what decides the quantized checkpoint, ``cell`` adds the bits that act only
when the model runs, ``evaluation`` adds one test set. Fields are hashed as resolved, never as
"non-defaults". What is on none of the three lists cannot change a number: ``paths``, ``cluster``,
``tracker``, ``activations``, ``objective``, ``keep``, ``name``, ``plugins`` (:data:`RUN_ONLY`); a
plugin counts by its code.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quantexp import registry
from quantexp.calibration import data
from quantexp.config import ExperimentConfig, PerplexitySet, to_plain
from quantexp.evaluation import task_files, tasks
from quantexp.experiment import record
from quantexp.methods.base import Method
from quantexp.models import source
from quantexp.protocols import official
from quantexp.typed import plain

RUN_ONLY = (
    "paths", "cluster", "tracker", "activations", "objective", "keep", "name", "plugins"
)  # fmt: skip
EVALUATION_VERSION = 1  # raised whenever the same checkpoint may be measured differently
GPTQ_VERSION = 5  # raised whenever rounding=gptq may give other integers
CALIBRATION_VERSION = 1  # raised whenever the block loop may give another checkpoint


def fingerprint(value: Any) -> str:
    """sha256 (hex) of plain data in canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a cell: what it measures and the file that holds its record."""

    kind: str  # perplexity | validation | block_error | zeroshot
    name: str
    inputs: dict[str, Any]
    set: PerplexitySet | None = None
    task: task_files.TaskFile | None = None  # a zero-shot task's documents; None: the hub's

    @property
    def file_name(self) -> str:
        """Name of the record within the cell's folder."""
        return f"{self.kind}-{self.name}-{fingerprint(self.inputs)[:8]}.json"


@dataclass(frozen=True)
class Cell:
    """A configuration with its identity. Computing it reads files, but imports no torch."""

    config: ExperimentConfig

    @property
    def outputs(self) -> Path:
        """The folder that holds all results."""
        return Path(self.config.paths.outputs)

    @cached_property
    def model(self) -> source.ModelSource:
        """The checkpoint's files."""
        return source.find(self.config.model)

    @cached_property
    def windows(self) -> data.WindowSource:
        """The calibration text."""
        return data.find(self.config.data)

    @cached_property
    def method(self) -> Method:
        """The method with this cell's options."""
        return registry.method(self.config.method.name)(self.config.method.options)

    @property
    def quantized(self) -> bool:
        """Whether there is anything to calibrate: the baseline has nothing."""
        return self.config.method.name != "none"

    @property
    def needs_windows(self) -> bool:
        """Whether calibration depends on the calibration windows."""
        config = self.config
        return bool(self.method.streams) or config.rounding == "gptq" or config.bits.static

    @cached_property
    def calibration_inputs(self) -> dict[str, Any]:
        """Everything that decides the checkpoint; what a method declares irrelevant is left out."""
        config, method = self.config, self.method
        inputs: dict[str, Any] = {
            "version": [CALIBRATION_VERSION, method.version],
            "model": {"content": self.model.content_hash, "dtype": config.model.dtype},
            "method": {"name": config.method.name, **plain(config.method.options)},
            "rounding": config.rounding,
            "weight": plain(config.bits.weight),
            "protocol": config.protocol.name,
        }
        if plugin := registry.plugin(config.method.name):
            inputs["plugin"] = plugin.source
        if config.rounding == "gptq":
            options = plain(config.gptq)
            if self.model.architecture.experts is None:
                del options["unseen_experts"]
            inputs["gptq"] = {"version": GPTQ_VERSION, **options}
        if self.needs_windows:
            inputs["data"] = self.windows.inputs
            for key in ("activation_dtype", "products"):
                if (value := getattr(config, key)) != "float32":
                    inputs[key] = value
            if method.uses_forward_bits or config.rounding == "gptq" or config.bits.static:
                inputs["forward"] = config.bits.forward
        if method.seeded:
            inputs["seed"] = config.seed
        return inputs

    @cached_property
    def calibration(self) -> str:
        """Fingerprint of the quantized checkpoint."""
        return fingerprint(self.calibration_inputs)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the cell."""
        return fingerprint({"calibration": self.calibration, "forward": self.config.bits.forward})

    @property
    def id(self) -> str:
        """Readable name with 8 digits of the fingerprint; also the folder and the W&B run."""
        config = self.config
        label = config.label.replace("+", "-")
        return f"{model_name(self)}-{label}-{config.bits.label}-{self.fingerprint[:8]}"

    @property
    def folder(self) -> Path:
        """The cell's folder."""
        return self.outputs / "cells" / self.id

    @property
    def checkpoint(self) -> Path:
        """The quantized checkpoint's folder, shared by cells with equal calibrations."""
        return self.outputs / "calibrations" / self.calibration[:16]

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All evaluations that the configuration asks for."""
        common = {"cell": self.fingerprint, "version": EVALUATION_VERSION}
        found = []
        asked = self.config.evaluation
        for kind, sets in (("perplexity", asked.perplexity), ("validation", asked.validation)):
            for item in sets:
                inputs = {**common, "kind": kind, "set": data.find_set(item).inputs}
                found.append(Evaluation(kind, item.name, inputs, item))
        count = asked.block_error_windows
        if self.quantized and count:
            inputs = {**common, "kind": "block_error", "data": self.windows.inputs, "count": count}
            found.append(Evaluation("block_error", self.config.data.name, inputs))
        found += [self._zeroshot(name, common) for name in asked.tasks]
        return tuple(found)

    def _zeroshot(self, name: str, common: dict[str, Any]) -> Evaluation:
        config, task = self.config.evaluation, tasks.TASKS[name]
        file = task_files.find(name, config.task_data) if config.task_data else None
        inputs = {
            **common,
            "kind": "zeroshot",
            "task": name,
            "task_version": task.version,
            "data": file.inputs if file else {"hub": task.hub},
            "limit": config.task_limit,
            "batch_size": self._batch_size,
            "lm_eval": version(tasks.HARNESS),
        }
        return Evaluation("zeroshot", name, inputs, task=file)

    @property
    def _batch_size(self) -> int:
        """One where a range found as it runs spans the batch: a document's neighbours are in it."""
        return 1 if self.config.bits.per_batch else self.config.evaluation.batch_size

    def result(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """The record of an evaluation, or ``None`` where it is not done."""
        return record.read(self.folder / "evaluations" / evaluation.file_name)

    @property
    def missing(self) -> list[Evaluation]:
        """The evaluations that are still to do."""
        return [e for e in self.evaluations if self.result(e) is None]

    def describe(self) -> dict[str, Any]:
        """``cell.json``: identity and configuration, as plain data."""
        plugin = registry.plugin(self.config.method.name)
        return {
            "cell": self.id,
            "fingerprint": self.fingerprint,
            "calibration": self.calibration,
            "model": model_name(self),
            "method": self.config.method.name,
            "rounding": self.config.rounding,
            "label": self.config.label,
            "bits": self.config.bits.label,
            "protocol": self.config.protocol.name,
            **official.describe(self.config),
            **({"plugin": plugin.describe()} if plugin else {}),
            "seed": self.config.seed,
            "data_seed": self.config.data.seed,
            "config": to_plain(self.config),
            "run_only": list(RUN_ONLY),
        }


def model_name(cell: Cell) -> str:
    """``demo``, or the last part of the checkpoint's path or hub name."""
    model = cell.config.model
    if model.name in ("local", "hf") and model.path:
        return Path(model.path).name
    return model.name
