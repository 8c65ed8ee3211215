"""Compressed run lengths of many masks at once: are they well formed, and how many pixels has each mask.

The evaluation walks through the runs of two masks side by side, and never comes to an end if one of them is
shorter. So every mask of a file is checked, by arithmetic on whole arrays, for there may be a million.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Codes are taken in parts of so many bytes: arrays that stay in the processor's cache take half the time.
_PART = 1 << 16
_WRONG = "\x00"
# Groups of 5 bits that an int64 has room for; a longer number is no run length.
_MOST_GROUPS = 12


def areas(codes: Sequence[str | bytes], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of pixels of each mask; -1 where the runs are malformed or do not fill the image exactly.

    Args:
        codes: n compressed run lengths, as JSON has them or as COCO's tools give them.
        pixels: how many pixels each image has, ``(n,)``.

    Returns:
        ``(n,)``

    Raises:
        AttributeError: a code is neither text nor bytes.
    """
    # No text is replaced by one that is as wrong; so is, below, what is not ASCII.
    texts = [code if isinstance(code, str) else code.decode("latin-1") for code in codes]
    texts = [text or _WRONG for text in texts]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    found = np.empty(len(texts), dtype=np.int64)
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(texts):
        read = int(ends[begin] - lengths[begin])
        end = max(begin + 1, int(np.searchsorted(ends, read + _PART, side="right")))
        joined = "".join(texts[begin:end])
        if not joined.isascii():
            joined = "".join(character if character.isascii() else _WRONG for character in joined)
        found[begin:end] = _areas(joined.encode("ascii"), lengths[begin:end], pixels[begin:end])
        begin = end
    return found


def _areas(text: bytes, lengths: NDArray[np.int64], pixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """`areas` of codes of the given lengths (not 0), end to end."""
    numbers, first, sound = _numbers(text, lengths)
    # From the fourth number of a code on, what is written is the difference from the number before the last
    # one: runs are running sums over every second number. Rows of two numbers let one sum do for both.
    count = np.diff(first, append=len(numbers))
    sums = np.zeros((len(numbers) // 2 + 1, 2), dtype=np.int64)
    sums.ravel()[: len(numbers)] = numbers
    np.cumsum(sums, axis=0, out=sums)
    of_sums = np.zeros((len(sums) + 1, 2), dtype=np.int64)
    np.cumsum(sums, axis=0, out=of_sums[1:])

    lead = numbers[first]
    total, odd = lead.copy(), np.zeros_like(lead)
    flat = sums.ravel()
    for place in (1, 2):  # the runs 1, 3, 5, ... are the object, 2, 4, 6, ... and the first one are not
        runs = np.maximum((count - place + 1) // 2, 0)
        begin = first + place
        row, column = begin // 2, begin % 2
        # What the running sum had before the chain began: run 0 stands alone, though in the same column.
        base = np.where(begin >= 2, flat[np.maximum(begin - 2, 0)], 0)
        part = np.where(runs > 0, of_sums[np.minimum(row + runs, len(sums)), column], 0)
        part -= np.where(runs > 0, of_sums[np.minimum(row, len(sums)), column], 0) + runs * base
        total += part
        if place == 1:
            odd = part
        sound &= _least(sums, row, column, runs) >= base
    sound &= (lead >= 0) & (total == pixels)
    return np.where(sound, odd, -1)


def _least(
    sums: NDArray[np.int64], row: NDArray[np.int64], column: NDArray[np.int64], runs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The least of ``sums[row : row + runs, column]`` of each code; a large number where `runs` is 0."""
    least = np.full(len(row), np.iinfo(np.int64).max)
    for side in (0, 1):
        own = np.flatnonzero((column == side) & (runs > 0))
        if len(own):
            # Pairs of begin and end; what lies between one code's end and the next one's begin is dropped.
            padded = np.append(sums[:, side], np.iinfo(np.int64).max)
            edges = np.stack([row[own], row[own] + runs[own]], axis=1).ravel()
            least[own] = np.minimum.reduceat(padded, edges)[::2]
    return least


def _numbers(
    text: bytes, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The numbers of codes that lie end to end.

    A number is written as groups of five bits, the lowest first, each as a character from '0' on; bit 5 says
    that another group follows, bit 4 of the last group is the sign (COCO's mask API, `rleToString`).

    Returns:
        All numbers; the place of each code's first one, ``(n,)``; whether each code is well formed, ``(n,)``.
    """
    symbols = np.frombuffer(text, dtype=np.uint8) - np.uint8(48)  # what was below '0' wraps around
    last = np.cumsum(lengths) - 1
    final = symbols < 32
    sound = final[last]
    sound[np.searchsorted(last, np.flatnonzero(symbols > 63))] = False
    final[last] = True  # a code that breaks off must not run on into its neighbour
    stop = np.flatnonzero(final)
    groups = np.diff(stop, prepend=-1)
    sound[np.searchsorted(last, stop[groups > _MOST_GROUPS])] = False
    numbers = ((symbols[stop] & 31).astype(np.int64) ^ 16) - 16
    more = np.flatnonzero(groups > 1)
    for below in range(1, _MOST_GROUPS):
        if not len(more):
            break
        numbers[more] = (numbers[more] << 5) | (symbols[stop[more] - below] & 31)
        more = more[groups[more] > below + 1]
    first = np.searchsorted(stop, last - lengths + 1)
    return numbers, first, sound
