"""Biases for the relative position of two patches: decomposed (ViTDet) or one table a block (BEiT).

Shapes: h x w patches, P prefix tokens, T = P + h*w, A heads, d the width of a head, G groups.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


def decomposed_terms(
    q: Tensor, vertical: Tensor, horizontal: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Decomposed relative positions (arXiv:2112.01526, section 4.1) as terms of `kernels.attend`.

    A query scores a patch higher by its product with the embedding of their vertical distance and with that
    of their horizontal one. Prefix tokens have no place, so their terms are zero.

    Args:
        q: queries (G, A, T, d), not scaled.
        vertical, horizontal: embeddings (2h-1, d) and (2w-1, d), from the most negative distance
            (query minus key) on; of another number for another grid.

    Returns:
        rows (G, A, T, h) and columns (G, A, T, w).
    """
    height, width = grid
    prefix = q.shape[2] - height * width
    patches = q[:, :, prefix:].unflatten(2, grid)
    rows = torch.einsum("gaijd,ikd->gaijk", patches, embeddings(vertical, height))
    columns = torch.einsum("gaijd,jkd->gaijk", patches, embeddings(horizontal, width))
    before = (0, 0, prefix, 0)
    return F.pad(rows.flatten(2, 3), before), F.pad(columns.flatten(2, 3), before)


def embeddings(table: Tensor, side: int) -> Tensor:
    """The embedding for each pair of places on an axis: (side, side, d), query first.

    A table of another length than ``2 * side - 1`` is interpolated linearly.
    """
    length = 2 * side - 1
    if len(table) != length:
        table = F.interpolate(table.t()[None], size=length, mode="linear")[0].t()
    place = torch.arange(side, device=table.device)
    return table[place[:, None] - place + side - 1]


def entries(grid: tuple[int, int], prefix: int) -> int:
    """Rows of a table of biases: one for each relative position, and three more with prefix tokens."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + (3 if prefix else 0)


def table_biases(table: Tensor, own: tuple[int, int], grid: tuple[int, int], prefix: int) -> Tensor:
    """The bias (A, T, T) of each query and key, from a table as in BEiT (arXiv:2106.08254).

    Args:
        table: (`entries`, A). First the relative positions of patches, vertical distance (query minus key)
            slower than horizontal, ascending; then, with prefix tokens, the bias of a prefix token towards
            every patch, of every patch towards a prefix token, and of prefix tokens among themselves.
            BEiT has one prefix token; several share these three.
        own: the grid the table is for. For another one its patches' part is resampled (bicubic).
    """
    if grid != own:
        table = _resampled(table, own, grid)
    count = prefix + grid[0] * grid[1]
    # Selecting columns of (A, entries) writes the result as attention reads it, with no transposition.
    return table.t().contiguous().index_select(1, _pairs(grid, prefix, table.device)).view(-1, count, count)


def _resampled(table: Tensor, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A table of biases for another grid."""
    (old_h, old_w), (new_h, new_w) = ((2 * height - 1, 2 * width - 1) for height, width in (own, grid))
    patches = table[: old_h * old_w].t().reshape(1, -1, old_h, old_w)
    patches = F.interpolate(patches, size=(new_h, new_w), mode="bicubic").flatten(2)[0].t()
    return torch.cat([patches, table[old_h * old_w :]])


@lru_cache(maxsize=2)
@torch.inference_mode(False)
def _pairs(grid: tuple[int, int], prefix: int, device: torch.device) -> Tensor:
    """Which entry of a table belongs to each query and key: int32 (T * T).

    The blocks of a pass share it. Made in inference mode, it could not be used in training later.
    """
    height, width = grid
    place = torch.arange(height * width, device=device)
    row, column = place // width, place % width
    patches = (row[:, None] - row + height - 1) * (2 * width - 1) + (column[:, None] - column + width - 1)
    if prefix:
        first = entries(grid, 0)
        patches = F.pad(patches, (prefix, 0, prefix, 0), value=first)
        patches[prefix:, :prefix] = first + 1
        patches[:prefix, :prefix] = first + 2
    return patches.flatten().int()
