"""A large matrix a few rows at a time, where its rows do not see each other.

What one operation makes is still in the processor's cache when the next one reads it, and nothing
as large as the matrix is made in between.
"""

from collections.abc import Iterator

PIECE = 1 << 19  # elements


def pieces(rows: int, columns: int) -> Iterator[slice]:
    """Runs of rows of a matrix (rows, columns)."""
    count = max(1, PIECE // columns)
    return (slice(first, first + count) for first in range(0, rows, count))
