"""Attention of a plain ViT on a grid of any size: global or in windows, with relative positions.

Shapes: B images, h x w patches, P prefix tokens, T tokens in a window (or image), D width, A heads of width
d, s the side of a window.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers import apply_rot_embed_cat
from torch import Tensor, nn
from torch.nn import functional as F

from mae_bench.backbones.kernels import HIDDEN, Terms, attend
from mae_bench.backbones.relative import decomposed_terms, entries, table_biases, table_for

Relative = Literal["none", "decomposed", "table"]


class GridAttention(nn.Module):
    """Attention of one of timm's plain ViTs, told the grid of its tokens.

    Its parameters and submodules are those of `attention`, under their own names.

    Args:
        attention: of a kind in `blocks.ATTENTIONS`.
        window: s, or None for attention over the whole grid.
        hide_padding: hide what fills the last windows up from the patches. Otherwise they attend to it, with
            the keys and values that zeros have, as detectron2's ViTDet does.
        relative: relative positions, zero at first; see `mae_bench.backbones.relative`. `decomposed` adds
            the parameters ``rel_pos_h`` and ``rel_pos_w``, `table` adds ``relative_position_bias_table``
            where `attention` has none of its own.
        grid: (h, w) for which relative positions are made where there is no window.
        prefix: P. Every window attends to the prefix tokens; a prefix token attends to one window and the
            prefix at a time, and its results are averaged.
    """

    qkv: nn.Linear | None
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    q_bias: nn.Parameter | None
    v_bias: nn.Parameter
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    gate: nn.Linear | None
    proj: nn.Linear
    attn_drop: nn.Dropout
    proj_drop: nn.Dropout
    rel_pos_h: nn.Parameter | None
    rel_pos_w: nn.Parameter | None
    relative_position_bias_table: nn.Parameter | None

    def __init__(
        self,
        attention: Any,
        *,
        window: int | None,
        hide_padding: bool,
        relative: Relative,
        grid: tuple[int, int],
        prefix: int,
    ) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.fused_attn = bool(attention.fused_attn)
        self.rotate_half = bool(getattr(attention, "rotate_half", False))
        self.window = window
        self.hide_padding = hide_padding
        self.prefix = prefix
        self.grid = grid if window is None else (window, window)
        for name, module in attention.named_children():
            self.add_module(name, module)
        for name, param in attention.named_parameters(recurse=False):
            self.register_parameter(name, param)
        for name in {"qkv", "gate", "q_bias", "v_bias"} - {*self._modules, *self._parameters}:
            setattr(self, name, None)
        first = attention.q_proj if self.qkv is None else self.qkv
        widths = self.num_heads if self.qkv is None else 3 * self.num_heads
        self.head_dim: int = first.out_features // widths
        weight: Tensor = first.weight
        own = getattr(attention, "relative_position_bias_table", None)
        if own is not None:
            table = table_for(own.detach(), attention.window_size, self.grid, whole=window is None)
            table = table if prefix else table[:-3].clone()
            self.relative_position_bias_table = nn.Parameter(table, requires_grad=own.requires_grad)
        shapes: dict[str, tuple[int, int]] = {}
        if relative == "decomposed":
            names = ("rel_pos_h", "rel_pos_w")
            shapes = {
                name: (2 * side - 1, self.head_dim) for name, side in zip(names, self.grid, strict=True)
            }
        elif relative == "table":
            shapes = {"relative_position_bias_table": (entries(self.grid, prefix), self.num_heads)}
        for name in ("rel_pos_h", "rel_pos_w", "relative_position_bias_table"):
            if self._parameters.get(name) is not None:
                continue
            zeros = weight.new_zeros(shapes[name]) if name in shapes else None
            # Frozen where the rest of the block is.
            added = None if zeros is None else nn.Parameter(zeros, requires_grad=weight.requires_grad)
            self.register_parameter(name, added)

    def forward(self, x: Tensor, grid: tuple[int, int], rope: Tensor | None = None) -> Tensor:
        """Tokens (B, P + h*w, D) to tokens of the same shape.

        Args:
            grid: (h, w).
            rope: rotary positions of the patches, sines and cosines: (h*w, 2d) or (A, h*w, 2d).
        """
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        qkv = self._projected(x)
        x = (
            self._whole(qkv, grid, rope)
            if self.window is None
            else self._windows(qkv, grid, self.window, rope)
        )
        if "norm" in self._modules:
            x = self.norm(x)
        if gate is not None:
            x = x * gate
        out: Tensor = self.proj_drop(self.proj(x))
        return out

    def _projected(self, x: Tensor) -> Tensor:
        """Queries, keys and values (B, T, 3*A*d) of tokens (B, T, D)."""
        if self.qkv is None:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
            return torch.cat([q, self._every_head(k), self._every_head(v)], dim=-1)
        if self.q_bias is None:
            out: Tensor = self.qkv(x)
            return out
        return F.linear(x, self.qkv.weight, self._bias())

    def _bias(self) -> Tensor | None:
        """What `_projected` gives for zeros: (3*A*d); None for zeros."""
        if self.qkv is None:
            parts = [
                proj.weight.new_zeros(proj.out_features) if proj.bias is None else proj.bias
                for proj in (self.q_proj, self.k_proj, self.v_proj)
            ]
            return torch.cat([parts[0], self._every_head(parts[1]), self._every_head(parts[2])])
        if self.q_bias is None:
            return self.qkv.bias
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def _every_head(self, x: Tensor) -> Tensor:
        """Keys or values (..., a*d) of fewer heads than there are queries, repeated: (..., A*d)."""
        groups = self.num_heads * self.head_dim // x.shape[-1]
        if groups == 1:
            return x
        return x.unflatten(-1, (-1, self.head_dim)).repeat_interleave(groups, dim=-2).flatten(-2)

    def _whole(self, qkv: Tensor, grid: tuple[int, int], rope: Tensor | None) -> Tensor:
        """(B, P + h*w, 3*A*d) -> (B, P + h*w, A*d), every token attending to every other."""
        parts = qkv.unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).contiguous()
        return self._attend(parts, grid, None, rope).transpose(1, 2).flatten(2)

    def _windows(self, qkv: Tensor, grid: tuple[int, int], side: int, rope: Tensor | None) -> Tensor:
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
        if rope is not None:
            rope = _in_windows(rope, grid, side).repeat(batch, 1, 1, 1)
        hidden = self._hidden(grid, side, qkv) if self.hide_padding else None
        x = self._attend(parts, (side, side), hidden, rope)
        cut = x[:, :, prefix:].unflatten(2, (side, side)).unflatten(0, (batch, down, across))
        patches = cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * side, across * side, -1)
        found = patches[:, :height, :width].flatten(1, 2)
        if prefix:
            first = x[:, :, :prefix].unflatten(0, (batch, -1)).mean(1).transpose(1, 2).flatten(2)
            found = torch.cat([first, found], dim=1)
        return found

    def _padded(self, qkv: Tensor, height: int, width: int) -> Tensor:
        """(B, h, w, 3*A*d) filled up at the bottom and right with what zeros give: the projection's bias."""
        bias = self._bias()
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

    def _attend(
        self, parts: Tensor, grid: tuple[int, int], hidden: Terms | None, rope: Tensor | None
    ) -> Tensor:
        """Queries, keys and values (3, G, A, T, d) to (G, A, T, d).

        Args:
            hidden: terms to be added.
            rope: rotary positions of the patches, to be broadcast to (G, A, h*w, 2d).
        """
        q, k, v = parts.unbind(0)
        if "q_norm" in self._modules:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        terms, pairs = None, None
        if self.rel_pos_h is not None and self.rel_pos_w is not None:
            rows, columns = decomposed_terms(q, self.rel_pos_h, self.rel_pos_w, grid)
            terms = rows.to(v.dtype), columns.to(v.dtype)
        if rope is not None:
            q, k = (self._rotated(one, rope).to(v.dtype) for one in (q, k))
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

    def _rotated(self, x: Tensor, rope: Tensor) -> Tensor:
        """Queries or keys (G, A, T, d) with the rotary positions of their patches."""
        patches = apply_rot_embed_cat(x[:, :, self.prefix :], rope, half=self.rotate_half)
        return torch.cat([x[:, :, : self.prefix], patches], dim=2) if self.prefix else patches


def _in_windows(rope: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Rotary positions (h*w, 2d) or (A, h*w, 2d) of each window: (windows, 1 or A, s*s, 2d)."""
    rope = rope if rope.ndim == 3 else rope[None]
    (height, width), heads = grid, len(rope)
    down, across = -(-height // side), -(-width // side)
    sines, cosines = rope.unflatten(1, grid).chunk(2, dim=-1)
    beyond = (0, 0, 0, across * side - width, 0, down * side - height)
    # Padding is not turned: an angle of zero.
    full = torch.cat([F.pad(sines, beyond), F.pad(cosines, beyond, value=1.0)], dim=-1)
    cut = full.view(heads, down, side, across, side, -1).permute(1, 3, 0, 2, 4, 5)
    return cut.reshape(down * across, heads, side * side, -1)
