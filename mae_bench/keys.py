"""Random numbers as a pure function of (seed, epoch, index).

Whatever is random about a sample (its place in the epoch, its crop, its flip) is computed from its key and
from nothing else. So a batch is the same for any number of loader processes, training processes and
micro-batches, and after any interruption, and no generator's state has to be saved.

The mixing function is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014). It is written out here because the streams of the generators in Python, NumPy and torch cost
more to seed than a small image costs to augment, and because some of them may change between versions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1

# What a key is for; keys of different uses are unrelated.
SAMPLE, ORDER, HOLDOUT, SUBSET = 0, 1, 2, 3


def _mix(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def key_of(seed: int, epoch: int, index: int, use: int = SAMPLE) -> int:
    """The key of a sample in an epoch: an integer in [0, 2**63).

    Args:
        seed: the run's seed.
        epoch: how often the dataset has been gone through before.
        index: position in the dataset.
        use: what the key is for (`SAMPLE`, `ORDER`, `HOLDOUT`, `SUBSET`).
    """
    return _mix(_mix(_mix(_mix(use) + seed) + epoch) + index) >> 1


def keys_of(seed: int, epoch: int, count: int, use: int = SAMPLE) -> NDArray[np.int64]:
    """`key_of` for the indices 0 to `count` - 1, as ``(count,)``."""
    value = np.arange(count, dtype=np.uint64)
    value += np.uint64((_mix(_mix(_mix(use) + seed) + epoch) + _GOLDEN) & _MASK)  # wraps around, as meant
    value ^= value >> np.uint64(30)
    value *= np.uint64(_FIRST)
    value ^= value >> np.uint64(27)
    value *= np.uint64(_SECOND)
    value ^= value >> np.uint64(31)
    return (value >> np.uint64(1)).astype(np.int64)


def permutation(seed: int, epoch: int, count: int, use: int = ORDER) -> NDArray[np.int64]:
    """A random order of 0 to `count` - 1, as ``(count,)``: the indices sorted by their keys."""
    return np.argsort(keys_of(seed, epoch, count, use), kind="stable")


class Draws:
    """A small stream of random numbers that starts from a key."""

    __slots__ = ("_state",)

    def __init__(self, key: int) -> None:
        self._state = key

    def bits(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return _mix(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def log_uniform(self, low: float, high: float) -> float:
        """A number in [low, high) whose logarithm is uniform."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return (self.bits() * count) >> 64

    def order(self, count: int) -> list[int]:
        """A random order of 0 to `count` - 1."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order
