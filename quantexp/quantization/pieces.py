"""A large matrix a few rows at a time, where its rows do not see each other.

What one operation makes is still in the processor's cache when the next one reads it, and nothing
as large as the matrix is made in between. An accelerator is asked to do more at once.
"""

from collections.abc import Iterator

from torch import Tensor

PIECE = 1 << 19  # elements
_TIMES = 16  # as many on an accelerator, where each operation takes microseconds to start


def pieces(matrix: Tensor, columns: int | None = None) -> Iterator[slice]:
    """Runs of rows of a matrix (R, C); ``columns`` is what becomes of a row, if that is not C."""
    elements = PIECE if matrix.device.type == "cpu" else PIECE * _TIMES
    count = max(1, elements // (columns or matrix.shape[1]))
    return (slice(first, first + count) for first in range(0, len(matrix), count))
