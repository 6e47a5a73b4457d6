"""What a single value of a configuration may be; ``where`` is its key as a user writes it.

All raise :class:`~quantexp.errors.ConfigError` with the key, the value and what is allowed.
"""

from collections.abc import Iterable

from quantexp.errors import ConfigError, unknown


def one_of(where: str, value: str, allowed: Iterable[str]) -> None:
    """Refuses what is not among the names."""
    if value not in allowed:
        raise ConfigError(unknown(where, value, allowed))


def at_least(where: str, value: int | None, least: int = 1) -> None:
    """Refuses what is smaller; ``None`` leaves the choice to us."""
    if value is not None and value < least:
        raise ConfigError(f"{where}={value} is too small: allowed {least} or more")


def above_zero(where: str, value: float) -> None:
    """Refuses zero, what is below it, and what is no number."""
    if not value > 0:
        raise ConfigError(f"{where}={value} must be greater than 0")


def share(where: str, value: float) -> None:
    """Refuses what is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{where}={value} is out of range: allowed 0 to 1")
