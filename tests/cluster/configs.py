"""Configurations for tests of the runner; nothing here needs torch."""

from pathlib import Path
from typing import Any

from fakes import fake_model

from quantexp.config import ExperimentConfig, from_plain

BITS = {
    "weight": {"bits": 4, "dynamic": False},
    **{name: {"granularity": "per_head"} for name in ("key", "value", "query")},
}


def make(
    activation: int = 4, weight: int = 4, cluster: dict[str, Any] | None = None, **changes: Any
) -> ExperimentConfig:
    """A cell on a model in the working directory; cells of one ``weight`` share a calibration."""
    if not Path("model").exists():
        fake_model(Path("model"))
        Path("text.txt").write_text("some words " * 100)
    bits = BITS | {"activation": {"bits": activation, "granularity": "per_token"}}
    bits |= {"weight": BITS["weight"] | {"bits": weight}}
    data = {
        "model": {"name": "local", "source": "local", "path": "model"},
        "method": {"name": "rtn"},
        "bits": bits,
        "data": {"name": "local", "path": "text.txt", "num_samples": 2, "seq_len": 8},
        "evaluation": {"name": "local", "path": "text.txt", "seq_len": 8},
        "protocol": {"name": "uniform"},
        "cluster": {"name": "slurm", **(cluster or {})},
        "tracker": {"name": "none", "mode": "disabled"},
    }
    return from_plain(data | changes)
