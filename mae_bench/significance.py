"""Tests in closed form: swapped samples, means over seeds, and the correction for many comparisons.

docs/statistics.md has the formulas and their sources. numpy and scipy are imported when a test is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Above this exponent Hoeffding's bound stands for the tail, which is then near what the rounding of a Fourier
# transform hides.
_FAR = 25.0
# Standard deviations beyond which nothing is left that a float could hold beside 1.
_WIDTH = 12.0


def swap_p(steps: NDArray[np.int64]) -> float:
    """p of the paired randomisation test for a mean difference of zero, two-sided, as a mid-p value.

    Swapping what two sides made of a sample turns the sign of its difference. Over all 2^N ways of swapping,
    p is the share whose sum is farther from zero than the one observed, and half the share as far.

    Args:
        steps: (N,) differences, in whole multiples of some unit.
    """
    import numpy as np

    counts = np.bincount(np.abs(steps))
    sizes = np.flatnonzero(counts[1:]) + 1
    observed = abs(int(steps.sum()))
    if len(sizes) == 0:
        return 1.0
    if len(sizes) == 1:
        size = int(sizes[0])
        count = int(counts[size])
        return mcnemar_p((count + observed // size) // 2, (count - observed // size) // 2)
    return _lattice_p(observed, {int(size): int(counts[size]) for size in sizes})


def mcnemar_p(b: int, c: int) -> float:
    """McNemar's test as a mid-p value: `b` samples that one side alone has right, `c` the other alone.

    Half the probability of what was observed is left out. The exact test proper counts all of it, and rejects
    true hypotheses more rarely than its level says where few samples differ (Fagerland, Lydersen and Laake
    2013, who recommend the mid-p value; docs/statistics.md has both measured).
    """
    from scipy.special import bdtr

    if b + c == 0:
        return 1.0
    fewer = min(b, c)
    at_most = float(bdtr(fewer, b + c, 0.5))
    below = float(bdtr(fewer - 1, b + c, 0.5)) if fewer else 0.0
    # Twice what is at most as large, less what is as large; with b = c the two tails share the middle.
    return 0.5 + below if b == c else at_most + below


def _lattice_p(observed: int, counts: dict[int, int]) -> float:
    """Mid-p of a sum of signed whole numbers, ``counts[size]`` of each size, each sign with probability 1/2.

    The characteristic function of the sum is a product of cosines; its Fourier transform is the distribution
    (Pagano and Tritchler 1983).
    """
    import numpy as np
    from scipy.fft import irfft, next_fast_len

    variance = sum(count * size**2 for size, count in counts.items())
    exponent = observed**2 / (2 * variance)
    if exponent > _FAR:
        return 2 * math.exp(-exponent)
    reach = sum(count * size for size, count in counts.items())
    reach = min(reach, observed + math.ceil(_WIDTH * math.sqrt(variance)))
    length = next_fast_len(2 * reach + 2, real=True)
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    spectrum = np.ones_like(angles)
    for size, count in counts.items():
        spectrum *= np.cos(size * angles) ** count
    chances = irfft(spectrum, length)
    tail = 2 * float(chances[observed + 1 : reach + 1].sum())
    middle = float(chances[observed]) * (0.5 if observed == 0 else 1.0)
    return min(1.0, max(0.0, tail + middle))


@dataclass(frozen=True)
class SeedTest:
    """Welch's test of the means over seeds: whether other seeds of training would tell the sides apart."""

    low: float
    high: float
    """Ends of the interval of the difference."""
    p: float


def welch(a: Sequence[float], b: Sequence[float], level: float) -> SeedTest | None:
    """Welch's t test of two means; None where a side has one value alone, or no value varies."""
    from scipy.stats import ttest_ind

    if min(len(a), len(b)) < 2 or (len(set(a)) == 1 and len(set(b)) == 1):
        return None
    found = ttest_ind(a, b, equal_var=False)
    ends = found.confidence_interval(level)
    return SeedTest(float(ends.low), float(ends.high), float(found.pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected so that the chance of even one false claim keeps the level (Holm 1979)."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[at]))
        corrected[at] = largest
    return corrected
