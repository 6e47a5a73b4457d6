"""The unquantized model: the baseline of every table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantexp.errors import ConfigError
from quantexp.methods.base import Method

if TYPE_CHECKING:
    from quantexp.config import ExperimentConfig


class NoQuantization(Method):
    """Leaves everything as it is, in the checkpoint's dtype."""

    transforms = False

    @classmethod
    def check(cls, config: ExperimentConfig) -> None:
        """Refuses bits that would quantize something."""
        if config.bits.active:
            raise ConfigError(
                f"method=none with bits={config.bits.label}: the baseline quantizes nothing; "
                "use bits=w16a16, or method=rtn"
            )
