"""Sizes of Kronecker factors and Hadamard matrices; no torch, so that they are checked early."""

from math import isqrt


def kronecker_sizes(n: int) -> tuple[int, int]:
    """The closest pair of factors of ``n`` of equal parity (FlatQuant's official code).

    4096 → (64, 64), 11008 → (86, 128). Where no such pair exists (n ≡ 2 mod 4) the closest pair
    of any parity is taken; the official search would not end.
    """
    pairs = [(a, n // a) for a in range(1, isqrt(n) + 1) if n % a == 0]
    equal = [(a, b) for a, b in pairs if (a - b) % 2 == 0]
    return max(equal or pairs)


def hadamard(n: int) -> list[list[int]] | None:
    """A Hadamard matrix of size ``n`` (entries ±1, orthogonal rows), or ``None``.

    Sylvester's doubling of 1, of q + 1 (Paley I: q prime, q ≡ 3 mod 4; 12, 20, 24, …) or of
    2(q + 1) (Paley II: q prime, q ≡ 1 mod 4; 28, 36, …).
    """
    if n == 1:
        return [[1]]
    if n % 2:
        return None
    if n % 4 == 0 and (n - 1) % 4 == 3 and _prime(n - 1):
        conference = _conference(n - 1)
        return [[c + (i == j) for j, c in enumerate(row)] for i, row in enumerate(conference)]
    if n % 4 == 0 and (n // 2 - 1) % 4 == 1 and _prime(n // 2 - 1):
        off, on = ((1, 1), (1, -1)), ((1, -1), (-1, -1))
        return [
            [c * off[k][m] + (i == j) * on[k][m] for j, c in enumerate(row) for m in (0, 1)]
            for i, row in enumerate(_conference(n // 2 - 1))
            for k in (0, 1)
        ]
    half = hadamard(n // 2)
    if half is None:
        return None
    return [row + row for row in half] + [row + [-x for x in row] for row in half]


def _conference(q: int) -> list[list[int]]:
    """Paley's conference matrix of order q + 1: skew for q ≡ 3 mod 4, symmetric for 1."""
    squares = {x * x % q for x in range(1, q)}
    sign = 1 if q % 4 == 1 else -1
    inner = [
        [0 if i == j else 1 if (i - j) % q in squares else -1 for j in range(q)] for i in range(q)
    ]
    return [[0] + [1] * q] + [[sign, *row] for row in inner]


def _prime(q: int) -> bool:
    return q > 1 and all(q % d for d in range(2, isqrt(q) + 1))
