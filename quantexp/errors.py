"""Errors a user can cause: each says what was wrong, what is allowed and how to fix it."""

from collections.abc import Iterable
from difflib import get_close_matches


class QuantexpError(Exception):
    """Shown without a traceback; the exit code is not zero."""


class ConfigError(QuantexpError, ValueError):
    """A value, key or combination of the configuration that cannot be run."""


class DataError(QuantexpError, ValueError):
    """A text, token or model file that is missing or does not hold what it must."""


class CalibrationError(QuantexpError, RuntimeError):
    """A calibration that cannot go on (for example a loss that is not finite)."""


class NumericalError(CalibrationError):
    """A fit left the finite numbers; the ladder (``calibration/ladder.py``) may try again."""


class CellError(QuantexpError):
    """Some cell is not done; each has its cause in its status, and the table shows it."""


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """Returns ``did you mean 'x'? `` for the nearest allowed name, or an empty string."""
    near = get_close_matches(value, list(allowed), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'? " if near else ""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> str:
    """One sentence for an unknown name, with the nearest name and the allowed set."""
    names = sorted(name for name in allowed if not name.startswith("_"))
    allowed = ", ".join(names) or "none"
    return f"unknown {kind} '{value}': {did_you_mean(value, names)}allowed: {allowed}"


class Detached(QuantexpError):  # noqa: N818 (it is no error)
    """The jobs are submitted and go on without this process; the message says how to come back."""
