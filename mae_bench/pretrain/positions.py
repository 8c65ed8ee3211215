"""Position embeddings: the fixed two-dimensional sine-cosine table, and picking places from a table."""

from __future__ import annotations

import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError

WAVELENGTH = 10_000.0


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """The table that MAE adds to its tokens (arXiv:2111.06377, appendix A.1), for any grid.

    A quarter of the channels each holds the sine of the column, the cosine of the column, the sine of the
    row and the cosine of the row, at frequencies falling geometrically from 1 towards 1/10000.

    Args:
        dim: width of the tokens, a multiple of 4.
        grid: rows and columns of patches.

    Returns:
        float32 ``(rows * columns, dim)``, row by row.

    Raises:
        MaeBenchError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise MaeBenchError(
            f"positions: sincos needs a width divisible by 4, not {dim}; change it or use positions=learned"
        )
    rows, columns = grid
    quarter = dim // 4
    frequencies = WAVELENGTH ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    of_row = torch.arange(rows, dtype=torch.float64)[:, None] * frequencies
    of_column = torch.arange(columns, dtype=torch.float64)[:, None] * frequencies
    parts = [
        of_column.sin()[None].expand(rows, -1, -1),
        of_column.cos()[None].expand(rows, -1, -1),
        of_row.sin()[:, None].expand(-1, columns, -1),
        of_row.cos()[:, None].expand(-1, columns, -1),
    ]
    return torch.cat(parts, dim=-1).reshape(rows * columns, dim).float()


def take_positions(table: Tensor, which: Tensor) -> Tensor:
    """``(N, D)`` and int64 ``(B, K)`` to ``(B, K, D)``."""
    return table.index_select(0, which.flatten()).unflatten(0, which.shape)
