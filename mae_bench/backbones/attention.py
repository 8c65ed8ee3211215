"""Attention of a plain ViT on a grid of any size: global or in windows, with relative positions.

Shapes: B images, h x w patches, P prefix tokens, T tokens in a window (or image), D width, A heads of width
d, s the side of a window.
"""

from __future__ import annotations

from typing import Literal

import torch
from timm.layers import Attention
from torch import Tensor, nn

from mae_bench.backbones.kernels import HIDDEN, Terms, attend
from mae_bench.backbones.relative import decomposed_terms, entries, table_biases

Relative = Literal["none", "decomposed", "table"]


class GridAttention(nn.Module):
    """timm's attention, its submodules taken over under their own names, told the grid of its tokens.

    Args:
        window: s, or None for attention over the whole grid.
        hide_padding: hide what fills the last windows up from the patches. Otherwise they attend to it, with
            the keys and values that zeros have, as detectron2's ViTDet does.
        relative: relative positions, zero at first; see `mae_bench.backbones.relative`. `decomposed` adds
            the parameters ``rel_pos_h`` and ``rel_pos_w``, `table` adds ``relative_position_bias_table``.
        grid: (h, w) for which relative positions are made where there is no window.
        prefix: P. Every window attends to the prefix tokens; a prefix token attends to one window and the
            prefix at a time, and its results are averaged.
    """

    rel_pos_h: nn.Parameter | None
    rel_pos_w: nn.Parameter | None
    relative_position_bias_table: nn.Parameter | None

    def __init__(
        self,
        attention: Attention,
        *,
        window: int | None,
        hide_padding: bool,
        relative: Relative,
        grid: tuple[int, int],
        prefix: int,
    ) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.head_dim: int = attention.head_dim
        self.fused_attn = bool(attention.fused_attn)
        self.window = window
        self.hide_padding = hide_padding
        self.prefix = prefix
        self.grid = grid if window is None else (window, window)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.gate: nn.Module | None = attention.gate
        self.attn_drop, self.proj_drop = attention.attn_drop, attention.proj_drop
        shapes: dict[str, tuple[int, int]] = {}
        if relative == "decomposed":
            names = ("rel_pos_h", "rel_pos_w")
            shapes = {
                name: (2 * side - 1, self.head_dim) for name, side in zip(names, self.grid, strict=True)
            }
        elif relative == "table":
            shapes = {"relative_position_bias_table": (entries(self.grid, prefix), self.num_heads)}
        weight: Tensor = self.qkv.weight
        for name in ("rel_pos_h", "rel_pos_w", "relative_position_bias_table"):
            zeros = weight.new_zeros(shapes[name]) if name in shapes else None
            # Frozen where the rest of the block is.
            param = None if zeros is None else nn.Parameter(zeros, requires_grad=weight.requires_grad)
            self.register_parameter(name, param)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, P + h*w, D) to tokens of the same shape; `grid` is (h, w)."""
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        qkv = self.qkv(x)
        x = self.norm(
            self._whole(qkv, grid) if self.window is None else self._windows(qkv, grid, self.window)
        )
        if gate is not None:
            x = x * gate
        out: Tensor = self.proj_drop(self.proj(x))
        return out

    def _whole(self, qkv: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, P + h*w, 3*A*d) -> (B, P + h*w, A*d), every token attending to every other."""
        parts = qkv.unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).contiguous()
        return self._attend(parts, grid, None).transpose(1, 2).flatten(2)

    def _windows(self, qkv: Tensor, grid: tuple[int, int], side: int) -> Tensor:
        """As `_whole`, each window of `side` x `side` patches for itself."""
        (height, width), prefix, batch = grid, self.prefix, len(qkv)
        down, across = -(-height // side), -(-width // side)
        heads = (3, self.num_heads, self.head_dim)
        patches = self._padded(qkv[:, prefix:].unflatten(1, grid), down * side, across * side)
        cut = patches.view(batch, down, side, across, side, *heads).permute(5, 0, 1, 3, 6, 2, 4, 7)
        parts = cut.reshape(3, batch * down * across, self.num_heads, side * side, self.head_dim)
        if prefix:
            first = qkv[:, None, :prefix].expand(-1, down * across, -1, -1).flatten(0, 1)
            parts = torch.cat([first.unflatten(2, heads).permute(2, 0, 3, 1, 4), parts], dim=3)
        x = self._attend(parts, (side, side), self._hidden(grid, side, qkv) if self.hide_padding else None)
        cut = x[:, :, prefix:].unflatten(2, (side, side)).unflatten(0, (batch, down, across))
        patches = cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * side, across * side, -1)
        found = patches[:, :height, :width].flatten(1, 2)
        if prefix:
            first = x[:, :, :prefix].unflatten(0, (batch, -1)).mean(1).transpose(1, 2).flatten(2)
            found = torch.cat([first, found], dim=1)
        return found

    def _padded(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """(B, h, w, 3*A*d) filled up at the bottom and right with what zeros give: the projection's bias."""
        bias: Tensor | None = self.qkv.bias
        fill = qkv.new_zeros(qkv.shape[3]) if bias is None else bias.to(qkv.dtype)
        if qkv.shape[2] < width:
            shape = (*qkv.shape[:2], width - qkv.shape[2], -1)
            qkv = torch.cat([qkv, fill.expand(shape)], dim=2)
        if qkv.shape[1] < height:
            qkv = torch.cat([qkv, fill.expand(len(qkv), height - qkv.shape[1], width, -1)], dim=1)
        return qkv.contiguous()

    def _hidden(self, grid: tuple[int, int], side: int, like: Tensor) -> Terms | None:
        """Terms that hide the padding, (B * windows, 1, 1, s) for rows and for columns; None without any."""
        if not any(length % side for length in grid):
            return None
        rows, columns = (
            (torch.arange(-(-length // side) * side, device=like.device) >= length).to(like.dtype) * HIDDEN
            for length in grid
        )
        rows, columns = rows.view(-1, 1, side), columns.view(1, -1, side)
        every = (len(like), len(rows), columns.shape[1], side)
        return rows.expand(every).reshape(-1, 1, 1, side), columns.expand(every).reshape(-1, 1, 1, side)

    def _attend(self, parts: Tensor, grid: tuple[int, int], hidden: Terms | None) -> Tensor:
        """Queries, keys and values (3, G, A, T, d) to (G, A, T, d); `hidden` are terms to be added."""
        q, k, v = parts.unbind(0)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        terms, pairs = None, None
        if self.rel_pos_h is not None and self.rel_pos_w is not None:
            rows, columns = decomposed_terms(q, self.rel_pos_h, self.rel_pos_w, grid)
            terms = rows.to(v.dtype), columns.to(v.dtype)
        if hidden is not None:
            own = terms or (hidden[0].new_zeros(()), hidden[1].new_zeros(()))
            every = (*q.shape[:3], -1)
            terms = (own[0] + hidden[0]).expand(every), (own[1] + hidden[1]).expand(every)
        if self.relative_position_bias_table is not None:
            pairs = table_biases(self.relative_position_bias_table, self.grid, grid, self.prefix).to(v.dtype)
        biased = terms is not None or pairs is not None
        return attend(
            q,
            k,
            v,
            terms=terms,
            pairs=pairs,
            dropout=self.attn_drop.p if self.training else 0.0,
            # On a CPU plain products are faster once there are biases, forward and backward.
            fused=self.fused_attn and not (biased and q.device.type == "cpu"),
        )
