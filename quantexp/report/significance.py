"""Which differences are noise: an interval for the difference of two results on the same test set.

Paired: both results are compared window by window (or document by document), so what makes a text
hard for every model cancels. Block bootstrap: consecutive windows come from one article and are
alike, so whole runs of windows are drawn, not single ones (Künsch 1989; circular, Politis & Romano
1992). The interval's percentiles are widened for the few blocks there are (Hesterberg 2015).

What it does not cover: seeds and calibration data (mean±std over runs does), and that of many
comparisons some look significant by chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from quantexp.errors import DataError

LEVEL = 0.95
FEWEST = 8  # windows or documents: with fewer the interval says nothing
_DRAWS = 10_000
_NUMBERS = 1 << 22  # drawn at once, to bound the memory
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; ``neutral`` is what no difference means (1 or 0)."""

    estimate: float
    low: float
    high: float
    neutral: float
    count: int
    block: int

    @property
    def significant(self) -> bool:
        """Whether "no difference" is outside."""
        return not self.low <= self.neutral <= self.high


def perplexity_ratio(a: Sequence[float], b: Sequence[float], predictions: int) -> Interval:
    """Interval of perplexity(a) / perplexity(b); 1 means equal.

    The ratio is exp of the mean difference, since all windows have equally many predictions.

    Args:
        a: Negative log-likelihood of each window, in nats, summed over its predictions.
        b: The same windows of the other model.
        predictions: Predicted tokens per window.

    Raises:
        DataError: Unlike or too few windows, or values that are not finite.
    """
    difference = _paired(a, b) / predictions
    mean, low, high, block = _mean(difference, block_length(len(difference)))
    return Interval(math.exp(mean), math.exp(low), math.exp(high), 1.0, len(difference), block)


def accuracy_difference(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Interval of accuracy(a) - accuracy(b) in the scores' unit; 0 means equal.

    Documents are independent of one another: blocks of one.

    Args:
        a: Score of each document.
        b: The same documents of the other model.

    Raises:
        DataError: Unlike or too few documents, or scores that are not finite.
    """
    difference = _paired(a, b)
    mean, low, high, block = _mean(difference, 1)
    return Interval(mean, low, high, 0.0, len(difference), block)


def block_length(count: int) -> int:
    """Windows per block: the cube root of their number, the best rate for a variance (Künsch 1989).

    5 for the 166 windows of WikiText-2 at 2048 tokens.
    """
    return max(1, round(math.cbrt(count)))


def _paired(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise DataError(f"{len(a)} and {len(b)} values are no pairs: the test sets differ")
    if len(a) < FEWEST:
        raise DataError(f"{len(a)} windows or documents are too few for an interval: {FEWEST} are")
    difference: np.ndarray = np.asarray(a, float) - np.asarray(b, float)
    if not np.isfinite(difference).all():
        raise DataError("a value is not finite: a broken run has no interval")
    return difference


def _mean(values: np.ndarray, block: int) -> tuple[float, float, float, int]:
    """Mean of (N) with its interval, by the circular block bootstrap."""
    count = len(values)
    blocks = math.ceil(count / block)
    # mean of each run of `block` neighbours, the last joined to the first
    ring = np.concatenate([values, values[: block - 1]])
    runs = np.convolve(ring, np.ones(block) / block, "valid")
    generator = np.random.default_rng(_SEED)
    rounds = math.ceil(_DRAWS / max(1, _NUMBERS // blocks))
    sizes = [len(part) for part in np.array_split(np.arange(_DRAWS), rounds)]
    means = np.concatenate(
        [runs[generator.integers(count, size=(size, blocks))].mean(1) for size in sizes]
    )
    tail = _tail(blocks)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high), block


def _tail(blocks: int) -> float:
    """Tail that makes percentiles of few blocks as wide as Student's t asks for.

    t is expanded in powers of 1/(blocks - 1) (Abramowitz & Stegun 26.7.5).
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + LEVEL) / 2)
    freedom = max(3, blocks - 1)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return normal.cdf(-t * math.sqrt(blocks / max(1, blocks - 1)))
