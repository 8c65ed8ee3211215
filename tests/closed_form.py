"""Weights, images and noise as a pure function of a name's place and an index: the same on every machine.

Numbers in tests that were made with another implementation stay reproducible here, whatever the random
generators of libraries do in a later version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def numbers(shape: Sequence[int], stream: int) -> Tensor:
    """float64 in [-1, 1) of any shape: SplitMix64 of (stream, index), with uint64 that wraps around."""
    count = math.prod(shape)
    value = np.arange(count, dtype=np.uint64) + np.uint64(stream * 1_000_003 + 1)
    value *= np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return torch.from_numpy((value >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(list(shape))


def fill(state: Mapping[str, Tensor], fixed: Sequence[str] = ()) -> dict[str, Tensor]:
    """New float64 values for every tensor, by its place among the sorted names; those of `fixed` are kept.

    Matrices get entries of deviation 1 / sqrt(fan-in), gains of norms 1 + 0.2 u, all else 0.2 u, u in [-1, 1).
    """
    new = {}
    for place, name in enumerate(sorted(state)):
        tensor = state[name]
        if name in fixed:
            new[name] = tensor.double()
            continue
        values = numbers(tensor.shape, place)
        if tensor.ndim > 1 and name.endswith("weight"):
            values = values * math.sqrt(3 / math.prod(tensor.shape[1:]))
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values = 0.2 * values
        new[name] = values
    return new
