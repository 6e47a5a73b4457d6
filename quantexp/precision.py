"""How an accelerator multiplies float32 matrices: said aloud, for torch has several defaults."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_PRECISIONS = {"float32": "ieee", "tf32": "tf32"}  # as config.py names them, as torch does


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Within it float32 matrix products on an accelerator have this precision.

    ``tf32`` reads 10 bits of each factor's mantissa, as many as float16 has, and adds in float32.
    Statistics, factorizations and fits ask for ``float32``, whatever is set around them.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = _PRECISIONS[precision]
    try:
        yield
    finally:
        matmul.fp32_precision = before
