"""Round to nearest: the quantizer alone. No data, no transform, no compensation.

With ``rounding=gptq`` this is GPTQ (arXiv 2210.17323): see ``quantization/gptq.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantexp.methods.base import Holds, Method

if TYPE_CHECKING:
    from quantexp.config import BitsConfig


class RoundToNearest(Method):
    """Nothing to fit: the block loop rounds the weights as they are."""

    transforms = False

    def holds(self, bits: BitsConfig) -> Holds:
        """The weights, and their integers."""
        return Holds(weights=1.5)
