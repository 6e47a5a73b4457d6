"""A small outputs folder, written record by record as a run writes it."""

import hashlib
from pathlib import Path
from typing import Any

from quantexp.experiment import record

_BITS = {
    "w16a16": (16, 16, 16, 16, 16, None),
    "w8a8": (8, 8, 16, 16, 16, None),
    "w4a4": (4, 4, 16, 16, 16, None),
    "w4a4kv4": (4, 4, 4, 4, 16, None),
    "w4a4qkv4": (4, 4, 4, 4, 4, None),
    "w4a16": (4, 16, 16, 16, 16, None),
    "w3a16g128": (3, 16, 16, 16, 16, 128),
}


class FakeOutputs:
    """Writes cells, evaluations, calibrations and sweeps below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def cell(
        self,
        label: str,
        bits: str = "w4a4",
        ppl: float | None = None,
        *,
        model: str = "demo",
        state: str = "done",
        seed: int = 0,
        data_seed: int | None = None,
        protocol: str = "uniform",
        paper: str | None = None,
        gptq: dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        scheme: str = "symmetric",
        code: str = "",
        updated: str = "2026-01-01T00:00:00+00:00",
        **status: Any,
    ) -> str:
        """One cell with its status, and its perplexity on pydocs if there is one; returns its id.

        ``data_seed`` is ``seed`` where it is not given.
        ``code`` stands for whatever changes a fingerprint without being in the configuration.
        """
        data_seed = seed if data_seed is None else data_seed
        *widths, group = _BITS[bits]
        tensors = ("weight", "activation", "key", "value", "query")
        spec: dict[str, Any] = {
            t: {"bits": b, "scheme": scheme} for t, b in zip(tensors, widths, strict=True)
        }
        spec["weight"]["group_size"] = group
        name, _, rounding = label.partition("+")
        name, rounding = ("rtn", "gptq") if label == "gptq" else (name, rounding or "rtn")
        config = {
            "model": {"name": model, "source": "demo", "path": None},
            "method": {"name": name, **(method or {})},
            "bits": spec,
            "data": {"name": "pydocs", "corpus": "pydocs", "seed": data_seed},
            "evaluation": {"name": "default", "perplexity": [{"name": "pydocs"}]},
            "protocol": {"name": protocol, "paper": paper},
            "cluster": {"name": "local", "threads": 2},
            "tracker": {"name": "wandb", "mode": "auto"},
            "paths": {"outputs": str(self.root)},
            "rounding": rounding,
            "gptq": {"damping": 0.01, **(gptq or {})},
            "seed": seed,
            "keep": "checkpoint",
            "name": None,
        }
        digest = hashlib.sha256(repr((config, code)).encode()).hexdigest()
        cell = f"{model}-{label.replace('+', '-')}-{bits}-{digest[:8]}"
        self.folder(cell).mkdir(parents=True, exist_ok=True)
        identity = {
            "cell": cell,
            "fingerprint": digest,
            "calibration": hashlib.sha256(digest.encode()).hexdigest(),
            "model": model,
            "method": name,
            "rounding": rounding,
            "label": label,
            "bits": bits,
            "protocol": protocol,
            "seed": seed,
            "data_seed": data_seed,
        }
        run_only = ["paths", "cluster", "tracker", "keep", "name"]
        record.write_signed(
            self.folder(cell) / "cell.json", {**identity, "config": config, "run_only": run_only}
        )
        record.write(
            self.folder(cell) / "status.json",
            {"state": state, "attempt": 1, "updated": updated, **status},
        )
        if ppl is not None:
            self.evaluation(cell, ppl)
        return cell

    def folder(self, cell: str) -> Path:
        return self.root / "cells" / cell

    def evaluation(
        self,
        cell: str,
        value: float,
        dataset: str = "pydocs",
        libraries: dict[str, str] | None = None,
        **details: Any,
    ) -> Path:
        """A perplexity record."""
        digest = hashlib.sha256(repr((dataset, details)).encode()).hexdigest()
        path = self.folder(cell) / "evaluations" / f"perplexity-{dataset}-{digest[:8]}.json"
        common = {"seq_len": 128, "windows": 8, "token_hash": "abc", "window_nll": [1.0]}
        data = {
            "kind": "perplexity",
            "dataset": dataset,
            "metric": "ppl",
            "value": value,
            "details": {**common, **details},
            "time": "2026-01-01T00:00:00+00:00",
            "provenance": {"quantexp": "0.1.0", "host": "node7", "libraries": libraries or {}},
        }
        record.write_signed(path, data)
        return path

    def block_error(self, cell: str, blocks: int = 2) -> None:
        """The diagnostics of a quantized cell."""
        details = [{"block": i, "mse": 0.1 * (i + 1), "sqnr_db": 20.0 - i} for i in range(blocks)]
        record.write_signed(
            self.folder(cell) / "evaluations" / "block_error-pydocs-00000000.json",
            {
                "kind": "block_error",
                "dataset": "pydocs",
                "metric": "sqnr_db",
                "value": details[-1]["sqnr_db"],
                "details": {"blocks": details},
            },
        )

    def calibration(
        self,
        cell: str,
        blocks: int = 2,
        report_blocks: list[dict[str, Any]] | None = None,
        **report: Any,
    ) -> None:
        """The report of the cell's calibration; ``report_blocks`` takes the place of its blocks."""
        stored = record.read(self.folder(cell) / "cell.json")
        assert stored is not None
        found = [
            {"block": i, "seconds": 2.0 + i, "peak_memory_bytes": 2**30, "loss": [0.4, 0.2, 0.1]}
            for i in range(blocks)
        ]
        record.write_signed(
            self.root / "calibrations" / stored["calibration"][:16] / "report.json",
            {
                "calibration": stored["calibration"],
                "seconds": 61.0,
                "peak_memory_bytes": 2**31,
                "effective_bits": 4.25,
                "blocks": found if report_blocks is None else report_blocks,
                **report,
            },
        )

    def sweep(self, name: str, cells: list[str]) -> None:
        """A named sweep of cells."""
        record.write(self.root / "sweeps" / name / "sweep.json", {"name": name, "cells": cells})
