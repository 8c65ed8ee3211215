"""Softmax attention with biases for rows, columns and pairs of patches, as fast as each device allows.

Shapes: G groups (images or windows), A heads, T = P + h*w tokens (P prefix tokens, then patches row by
row), d the width of a head. Two kinds of bias may be added to the scores (G, A, T, T):

- `terms`: rows (G, A, T, h) and columns (G, A, T, w). Query t scores the patch in row r and column c higher
  by ``rows[t, r] + columns[t, c]``; prefix tokens as keys get nothing.
- `pairs`: (A, T, T), one value for each query and key, the same in all groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

HIDDEN = -3e4
"""A term that hides a key: the softmax of it is 0 in every type, and two of them are finite in fp16."""

Terms = tuple[Tensor, Tensor]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    terms: Terms | None = None,
    pairs: Tensor | None = None,
    dropout: float = 0.0,
    fused: bool = True,
) -> Tensor:
    """Softmax of ``q k^T / sqrt(d)`` plus the biases, applied to `v`: (G, A, T, d).

    Args:
        dropout: share of the attention weights that is dropped; goes through the fused kernel always.
        fused: PyTorch's fused kernel, which keeps no matrix (T, T) unless `pairs` is given; otherwise plain
            matrix products with the scores in one buffer. Both give the same up to rounding.
    """
    q = q * q.shape[-1] ** -0.5
    if fused or dropout:
        return _fused(q, k, v, terms, pairs, dropout)
    if terms is not None and q.dtype != torch.float32 and q.dtype != torch.float64:
        # Hardware that multiplies half precision fast is slow at everything else.
        q, k = widened(q, k, terms)
        terms = None
    rows, columns = terms or (None, None)
    out: Tensor = _Plain.apply(q, k, v, rows, columns, pairs)
    return out


def widened(q: Tensor, k: Tensor, terms: Terms, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys whose products contain the terms: (G, A, T, e) each, with e = d + h + w or more.

    A query is continued by its own terms, a key by one-hot vectors of its row and its column, so that
    ``q' k' = q k + rows[row of k] + columns[column of k]``. Zeros fill e up to a multiple of `multiple`.
    """
    rows, columns = terms
    height, width, count = rows.shape[-1], columns.shape[-1], q.shape[2]
    spare = -(q.shape[-1] + height + width) % multiple
    place = torch.arange(height * width, device=q.device)
    hot = q.new_zeros(count, height + width + spare)
    patches = hot[count - height * width :]
    patches.scatter_(1, (place // width)[:, None], 1)
    patches.scatter_(1, (height + place % width)[:, None], 1)
    zeros = [q.new_zeros(1).expand(*q.shape[:3], spare)] if spare else []
    wide = torch.cat([q, rows, columns, *zeros], dim=-1)
    return wide, torch.cat([k, hot.expand(*k.shape[:2], -1, -1)], dim=-1)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, terms: Terms | None, pairs: Tensor | None, dropout: float
) -> Tensor:
    """`attend` by ``F.scaled_dot_product_attention``, `q` scaled already."""
    own = v.shape[-1]
    if terms is not None:
        q, k = widened(q, k, terms, multiple=8)
        if pairs is None and v.dtype in (torch.bfloat16, torch.float16):
            # The flash kernel, for half precision and without a mask, wants one width for all three.
            v = F.pad(v, (0, q.shape[-1] - own))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=pairs, dropout_p=dropout, scale=1.0)
    return out[..., :own]


class _Plain(torch.autograd.Function):
    """`attend` by matrix products, `q` scaled already; the scores become the weights in their own buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        pairs: Tensor | None,
    ) -> Tensor:
        groups, heads, count, _ = q.shape
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        if rows is None and pairs is None:
            scores = torch.bmm(q, k.transpose(1, 2))
        else:
            scores = _biases(q, rows, columns, pairs, (groups, heads, count)).baddbmm_(q, k.transpose(1, 2))
        torch.softmax(scores, dim=-1, out=scores)
        ctx.save_for_backward(q, k, v, scores)
        ctx.sizes = (
            (groups, heads),
            None if rows is None or columns is None else (rows.shape[-1], columns.shape[-1]),
        )
        return torch.bmm(scores, v).unflatten(0, (groups, heads))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights = ctx.saved_tensors
        outer, grid = ctx.sizes
        grad = grads[0].flatten(0, 1)
        of_v = torch.bmm(weights.transpose(1, 2), grad)
        scores = torch.bmm(grad, v.transpose(1, 2))
        torch._softmax_backward_data(scores, weights, -1, weights.dtype, grad_input=scores)
        of_q, of_k = torch.bmm(scores, k), torch.bmm(scores.transpose(1, 2), q)
        of_rows = of_columns = of_pairs = None
        if grid is not None and (ctx.needs_input_grad[3] or ctx.needs_input_grad[4]):
            patches = scores[:, :, -grid[0] * grid[1] :].unflatten(2, grid).unflatten(0, outer)
            of_rows, of_columns = patches.sum(-1), patches.sum(-2)
        if ctx.needs_input_grad[5]:
            of_pairs = scores.unflatten(0, outer).sum(0)
        of_q, of_k, of_v = (x.unflatten(0, outer) for x in (of_q, of_k, of_v))
        return of_q, of_k, of_v, of_rows, of_columns, of_pairs


def _biases(
    like: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
    pairs: Tensor | None,
    sizes: tuple[int, int, int],
) -> Tensor:
    """The sum of the biases in a buffer (G*A, T, T) of its own."""
    count = sizes[2]
    scores = like.new_empty(*sizes, count)
    if rows is None or columns is None:
        assert pairs is not None
        return scores.copy_(pairs).flatten(0, 1)
    height, width = rows.shape[-1], columns.shape[-1]
    prefix = count - height * width
    scores[..., :prefix] = 0
    patches = scores[..., prefix:].unflatten(-1, (height, width))
    torch.add(rows[..., None], columns[..., None, :], out=patches)
    if pairs is not None:
        scores.add_(pairs)
    return scores.flatten(0, 1)
