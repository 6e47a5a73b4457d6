"""What options may be chosen by: errors on the calibration windows, or a validation set.

Never a test set: of several settings the one that does best there looks better than it is.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quantexp.config import EvaluationConfig
from quantexp.errors import ConfigError, unknown

BLOCK_ERROR = "block_error"
_VALIDATION = "validation"


def check(name: str, evaluation: EvaluationConfig) -> None:
    """Refuses an objective that is a test set or does not exist, and a validation set that is one.

    Raises:
        ConfigError: With the reason and the fix.
    """
    for item in evaluation.validation:
        for test in evaluation.perplexity:
            if item.name == test.name or _text(item) == _text(test):
                raise ConfigError(
                    f"evaluation.validation '{item.name}' is the test set '{test.name}': a number "
                    "on a text that options were chosen by is too good; give another text"
                )
    sets = [f"{_VALIDATION}/{item.name}" for item in evaluation.validation]
    refuse_test(name, [item.name for item in evaluation.perplexity] + list(evaluation.tasks))
    if name not in (BLOCK_ERROR, *sets):
        raise ConfigError(
            f"{unknown('objective', name, (BLOCK_ERROR, *sets))}; validation/NAME is a set of "
            "evaluation.validation=[{name:NAME,path:FILE}]"
        )


def refuse_test(name: str, tests: Iterable[str]) -> None:
    """Refuses the name of a test set, alone or behind its kind.

    Raises:
        ConfigError: It is one.
    """
    kind, _, last = name.rpartition("/")
    if kind != _VALIDATION and last in tests:
        raise ConfigError(
            f"objective={name} is a test set: options chosen by it would make its own number too "
            f"good. Allowed: {BLOCK_ERROR} (on the calibration windows), or {_VALIDATION}/NAME "
            "with evaluation.validation=[{name:NAME,path:FILE}]"
        )


def value(name: str, records: Iterable[Mapping[str, Any]]) -> float | None:
    """The objective of a cell, smaller is better; ``None`` where no record holds it.

    ``block_error`` is the mean over blocks of the relative squared error of a block's output,
    Σ(y-ŷ)²/Σy², with all errors of earlier blocks in it.

    Args:
        name: The objective.
        records: The cell's evaluation records.
    """
    kind, _, dataset = name.partition("/")
    for data in records:
        if data["kind"] != kind or (dataset and data["dataset"] != dataset):
            continue
        if kind == _VALIDATION:
            return float(data["value"])
        blocks = (data.get("details") or {}).get("blocks") or ()
        errors = [10 ** (-float(block["sqnr_db"]) / 10) for block in blocks]
        return math.fsum(errors) / len(errors) if errors else None
    return None


def described(name: str) -> str:
    """The objective in words, for notes."""
    if name == BLOCK_ERROR:
        return "mean relative block error on the calibration windows"
    return f"perplexity on the validation set {name.partition('/')[2]}"


def _text(item: Any) -> str:
    return str(Path(item.path).expanduser().resolve()) if item.path else str(item.corpus)
