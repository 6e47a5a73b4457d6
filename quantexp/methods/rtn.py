"""Round to nearest: the quantizer alone. No data, no transform, no compensation.

With ``rounding=gptq`` this is GPTQ (arXiv 2210.17323): see ``quantization/gptq.py``.
"""

from quantexp.methods.base import Holds, Method


class RoundToNearest(Method):
    """Nothing to fit: the block loop rounds the weights as they are."""

    transforms = False
    holds = Holds(weights=1.5)
