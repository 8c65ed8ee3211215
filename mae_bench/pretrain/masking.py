"""Which patches of an image are hidden: random, block-wise or grid-wise, as a pure function of a key.

Every way of masking gives each patch a number, and the patches with the smallest numbers stay visible. The
numbers come from a hash of the sample's key (`mae_bench.data.key_of`), computed on the device, and from no
generator: so an image is masked alike for any micro-batch, any number of processes and after any resume.

Legend: B images, N = rows * columns patches.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError

Masking = Literal["random", "block", "grid"]

GRID_RATIO = 0.75

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), its unsigned constants written as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
# Keeps these numbers apart from those that augmentation draws from the same key.
_MASKING = 0x6D61736B696E67

# Block-wise masking after BEiT (Bao et al., arXiv:2106.08254, algorithm 1): blocks of at least 16 of 14 x 14
# patches, aspect ratios between 0.3 and 1 / 0.3.
_BLOCK_SHARE = 16 / 196
_BLOCK_ASPECT = 0.3
_BLOCK_TRIES = 48


def kept_count(patches: int, ratio: float) -> int:
    """How many of `patches` stay visible: ``int(patches * (1 - ratio))``, as in the authors' release.

    The share that is hidden is therefore `ratio` or, by less than one patch, more.

    Raises:
        MaeBenchError: nothing would be visible, or nothing hidden.
    """
    kept = int(patches * (1 - ratio))
    if not 0 < kept < patches:
        raise MaeBenchError(
            f"mask_ratio: {ratio} leaves {kept} of {patches} patches visible; "
            "at least one must be visible and one hidden"
        )
    return kept


def check(kind: Masking, grid: tuple[int, int], ratio: float) -> None:
    """Raise a MaeBenchError where `kind` cannot hide exactly the wanted share of a grid."""
    kept_count(grid[0] * grid[1], ratio)
    if kind != "grid":
        return
    if ratio != GRID_RATIO:
        raise MaeBenchError(
            f"mask_ratio: grid-wise masking keeps one of every four patches, so 0.75, not {ratio}"
        )
    if grid[0] % 2 or grid[1] % 2:
        raise MaeBenchError(
            "masking: grid-wise masking needs an even number of rows and columns of patches, "
            f"not {grid[0]} and {grid[1]}"
        )


def noise(kind: Masking, keys: Tensor, grid: tuple[int, int], ratio: float) -> Tensor:
    """A number for each patch; the `kept_count` smallest of an image stay visible.

    * ``random``: uniform in [0, 1).
    * ``block``: rectangles are hidden one after the other until the share is reached (arXiv:2111.06377,
      Table 1f, with the rectangles of BEiT). The last one loses its first rows, and part of a row, where it
      would exceed the share: the ratio is exact.
    * ``grid``: of every 2 x 2 patches one stays, the same for the whole image; which of the four is drawn for
      each image (the paper does not say).

    Args:
        keys: int64 ``(B,)``.

    Returns:
        float32 ``(B, N)``, on the device of `keys`.
    """
    rows, columns = grid
    if kind == "random":
        return uniform(keys, rows * columns)
    if kind == "grid":
        return _grid_noise(keys, grid)
    return _block_noise(keys, grid, rows * columns - kept_count(rows * columns, ratio))


def split(values: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Indices of the visible and of the hidden patches, each in the order of their numbers.

    Args:
        values: ``(B, N)``; equal numbers are taken in the order of the patches.

    Returns:
        int64 ``(B, kept)`` and ``(B, N - kept)``.
    """
    order = torch.argsort(values, dim=1, stable=True)
    return order[:, :kept], order[:, kept:]


def uniform(keys: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) for each of the int64 `keys` ``(B,)``, as float32 ``(B, count)``."""
    steps = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device) * _GOLDEN
    bits = _mix(_mix(keys ^ _MASKING)[:, None] + steps)
    # 24 bits are what float32 holds exactly.
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """The logical right shift; torch's own copies the sign of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _grid_noise(keys: Tensor, grid: tuple[int, int]) -> Tensor:
    rows, columns = grid
    which = (uniform(keys, 1) * 4).long()  # (B, 1)
    row = torch.arange(rows, device=keys.device).repeat_interleave(columns) % 2
    column = torch.arange(columns, device=keys.device).repeat(rows) % 2
    return ((row * 2 + column)[None] != which).float()


def _block_noise(keys: Tensor, grid: tuple[int, int], hidden: int) -> Tensor:
    """Minus the turn in which a patch was first hidden, so that those hidden last, or never, stay visible.

    Of the last rectangle's patches, equal here, `split` leaves the first ones visible.
    """
    rows, columns = grid
    device = keys.device
    draws = uniform(keys, 4 * _BLOCK_TRIES).view(-1, _BLOCK_TRIES, 4, 1)
    least = max(1.0, _BLOCK_SHARE * rows * columns)
    row = torch.arange(rows, device=device)
    column = torch.arange(columns, device=device)
    turn = torch.full((len(keys), rows, columns), float(_BLOCK_TRIES), device=device)
    for number in range(_BLOCK_TRIES):
        area_draw, aspect_draw, top_draw, left_draw = draws[:, number].unbind(1)  # each (B, 1)
        missing = hidden - (turn < _BLOCK_TRIES).sum((1, 2))[:, None]
        area = least + area_draw * (missing - least).clamp(min=0)
        aspect = torch.exp((2 * aspect_draw - 1) * -math.log(_BLOCK_ASPECT))
        height = (area * aspect).sqrt().round().clamp(1, rows)
        width = (area / aspect).sqrt().round().clamp(1, columns)
        top = (top_draw * (rows - height + 1)).floor()
        left = (left_draw * (columns - width + 1)).floor()
        in_rows = (row >= top) & (row < top + height)
        in_columns = (column >= left) & (column < left + width)
        block = in_rows[:, :, None] & in_columns[:, None, :]
        turn = torch.where(block & (turn == _BLOCK_TRIES), float(number), turn)
    return -turn.flatten(1)
