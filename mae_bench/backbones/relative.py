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


def resized_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """A BEiT's table of biases (entries, A) for another grid; the prefix token's three rows are kept.

    As in the fine-tuning of BEiT's authors, the old entries are put at distances in geometric progression, so
    that near ones stay where they are and the farthest reach as far as the new grid; between them it is
    linear, as timm has it (cubic by the authors).
    """
    distances = [2 * side - 1 for side in old]
    down, across = (
        _stretching(count, 2 * side - 1).to(table) for count, side in zip(distances, new, strict=True)
    )
    patches = table[:-3].t().unflatten(1, distances)
    stretched = down @ patches @ across.t()
    return torch.cat([stretched.flatten(1).t(), table[-3:]])


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _stretching(old: int, new: int) -> Tensor:
    """The share of each of `old` distances in each of `new` ones: (new, old), both symmetric about zero."""
    if old == new:
        return torch.eye(old)
    steps, reach = old // 2, new // 2
    low, high = 1.01, 1.5
    # The ratio of the progression with which the farthest of the old distances comes to the farthest new one.
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (1 - ratio**steps) / (1 - ratio) > reach else (ratio, high)
    places = torch.tensor([(ratio**step - 1) / (ratio - 1) for step in range(1, steps + 1)])
    places = torch.cat([-places.flip(0), torch.zeros(1), places])
    wanted = torch.arange(-reach, reach + 1.0)
    right = torch.searchsorted(places, wanted, right=True).clamp(1, old - 1)
    left = right - 1
    share = ((wanted - places[left]) / (places[right] - places[left])).clamp(0, 1)
    matrix = torch.zeros(new, old)
    rows = torch.arange(new)
    matrix[rows, left] = 1 - share
    matrix[rows, right] += share
    return matrix


def table_for(table: Tensor, own: tuple[int, int], grid: tuple[int, int], *, whole: bool) -> Tensor:
    """A BEiT's pretrained table of biases (entries, A) for another grid.

    Args:
        table: the last three rows are those of the prefix token.
        own: the grid the table is for.
        whole: whether `grid` is that of an image; it may be a window in a larger one.

    Returns:
        Resized where the image is larger or smaller, since a distance between patches is another in the scene
        then. A window sees patches as far apart as ever: where the table reaches far enough, its entries for
        these distances.
    """
    own = int(own[0]), int(own[1])
    if grid == own:
        return table.clone()
    if whole or grid[0] > own[0] or grid[1] > own[1]:
        return resized_table(table, own, grid)
    patches = table[:-3].unflatten(0, (2 * own[0] - 1, 2 * own[1] - 1))
    rows, columns = (slice(length - side, length + side - 1) for length, side in zip(own, grid, strict=True))
    return torch.cat([patches[rows, columns].flatten(0, 1), table[-3:]])


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
