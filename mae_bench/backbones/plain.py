"""Plain ViTs as backbones: a column of blocks over patches of one size.

Over timm's `VisionTransformer`, `Beit` (tables of relative positions) and `Eva` (rotary positions).

Shapes: B images, C channels, H x W pixels, P prefix tokens (class token first, then registers), h x w
patches, N = h*w, D width, L blocks, A heads of width d.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from timm.models.beit import Beit, gen_relative_position_index
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F

from mae_bench.backbones.architecture import Plain, grid_for, positional_prefix, resampled
from mae_bench.backbones.blocks import ATTENTION_HALF, known, through
from mae_bench.backbones.network import set_rate
from mae_bench.backbones.relative import resized_table
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.surface import Backbone

Context = Any
"""What blocks need to know of a grid besides the tokens: rotary positions, biases; None for nothing."""


class PlainBackbone(Backbone):
    """A plain ViT; further attributes:

    Attributes:
        vit: timm's model, or a user's own module with `blocks`.
    """

    hierarchical: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    def __init__(self, vit: nn.Module, *, patch_size: tuple[int, int], **facts: Any) -> None:
        super().__init__(**facts)
        self.vit: Any = vit
        self.patch_size = patch_size

    # ------------------------------------------------------------ features

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens (B, P, D) and patches (B, h, w, D) after the final norm; see `Backbone.tokens`."""
        return self.rest(self.trunk(images, self.depth), self.depth, self.grid(images))

    def maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """One map (B, D, h, w) for each of `blocks`; see `Backbone.maps`."""
        wanted = self.numbered(blocks)
        grid = self.grid(images)
        context = self.context(grid)
        x = self.embed(images, grid)
        found: dict[int, Tensor] = {}
        for index in range(max(wanted, default=-1) + 1):
            x = self.block(index, x, context)
            if index in wanted:
                patches = x[:, self.prefix_tokens :]
                found[index] = patches.transpose(1, 2).unflatten(2, grid).contiguous()
        return [found[index] for index in wanted]

    def trunk(self, images: Tensor, blocks: int) -> Tensor:
        """Tokens (B, P+N, D) after the first `blocks` blocks, positions added, without the final norm.

        With `rest` it divides the network where a task stops training it, so that the frozen part can be
        computed once. All L blocks give the features before the final norm.
        """
        grid = self.grid(images)
        x = self.embed(images, grid)
        context = self.context(grid) if blocks else None
        for index in range(blocks):
            x = self.block(index, x, context)
        return x

    def rest(self, x: Tensor, blocks: int, grid: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Go on from `trunk`: what `tokens` would have given.

        Args:
            x: tokens (B, P+N, D) after the first `blocks` blocks.
            grid: (h, w); None takes that of `image_size`.

        Returns:
            Prefix tokens (B, P, D) and patch tokens (B, h, w, D), after the final norm.
        """
        if grid is None:
            grid = self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]
        context = self.context(grid) if blocks < self.depth else None
        for index in range(blocks, self.depth):
            x = self.block(index, x, context)
        x = self.normed(x)
        return x[:, : self.prefix_tokens], x[:, self.prefix_tokens :].unflatten(1, grid)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(h, w) for images (B, C, H, W).

        Raises:
            MaeBenchError: as for `tokens`.
        """
        self.check_images(images)
        return grid_for(self.patch_size, (images.shape[2], images.shape[3]), self.spec)

    # ------------------------------------------------------------ what a kind of ViT does its own way

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches with their positions behind the prefix tokens: (B, P+N, D)."""
        raise NotImplementedError

    def context(self, grid: tuple[int, int]) -> Context:
        """What the blocks need to know of a grid besides the tokens."""
        return None

    def block(self, index: int, x: Tensor, context: Context) -> Tensor:
        """Tokens (B, P+N, D) after block `index`."""
        out: Tensor = self.vit.blocks[index](x)
        return out

    def normed(self, x: Tensor) -> Tensor:
        """Tokens of any shape (..., D) after the final norm."""
        out: Tensor = self.vit.norm(x)
        return out

    # ------------------------------------------------------------ training

    def layer_names(self) -> list[list[str]]:
        """Embeddings, block 0, ..., block L-1, final norm; see `Backbone.layer_names`."""
        layers: list[list[str]] = [[] for _ in range(self.depth + 2)]
        for name, _ in self.named_parameters():
            part, _, inner = name.removeprefix("vit.").partition(".")
            if part == "blocks":
                layers[1 + int(inner.split(".")[0])].append(name)
            else:
                layers[-1 if part == "norm" else 0].append(name)
        return layers

    def no_weight_decay(self) -> set[str]:
        """Class token, registers and position embeddings, as in the MAE recipes, and what timm adds."""
        exempt = {"cls_token", "reg_token", "pos_embed", *getattr(self.vit, "no_weight_decay", set)()}
        return {f"vit.{name}" for name in exempt} & {name for name, _ in self.named_parameters()}

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth in every block; see `Backbone.set_drop_path`."""
        for own, block in zip(self.depths(rate), self.vit.blocks, strict=True):
            set_rate(block, own)
        self.train(self.training)

    def remove_norm(self) -> None:
        """Take the final norm away."""
        self.vit.norm = nn.Identity()

    def _parts(self, blocks: int) -> list[str]:
        around = [name for name, _ in self.vit.named_children() if name not in ("blocks", "norm")]
        around += [name for name, _ in self.vit.named_parameters(recurse=False)]
        return [f"vit.{name}" for name in (*around, *(f"blocks.{index}" for index in range(blocks)))]

    def _half(self, block: int) -> list[str]:
        return [f"vit.blocks.{block}.{part}" for part in ATTENTION_HALF]


class ViTBackbone(PlainBackbone):
    """A backbone over one of timm's plain ViTs."""

    def __init__(
        self,
        vit: Plain,
        *,
        spec: str,
        arch: str,
        family: str,
        report: LoadReport,
        model_args: Mapping[str, Any] | None = None,
        pretraining: Mapping[str, Any] | None = None,
    ) -> None:
        blocks = cast("nn.ModuleList", vit.blocks)
        super().__init__(
            vit,
            patch_size=tuple(vit.patch_embed.patch_size),
            spec=spec,
            arch=arch,
            family=family,
            report=report,
            depth=len(blocks),
            width=vit.embed_dim,
            channels=vit.patch_embed.proj.in_channels,
            model_args=model_args,
            pretraining=pretraining,
        )
        self.prefix_tokens = vit.num_prefix_tokens
        self.has_class_token = vit.cls_token is not None
        self.windows = self.halves = all(known(block) for block in blocks)

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches with their positions behind the prefix tokens: (B, P+N, D)."""
        return self.assembled(images, self.positions(grid))

    def positions(self, grid: tuple[int, int]) -> Tensor | None:
        """Position embeddings (1, P+N, D) on a grid, resampled where they stand for another one.

        (1, N, D) where prefix tokens have none of their own; None where there are none at all.
        """
        table: Tensor | None = self.vit.pos_embed
        own = self.vit.patch_embed.grid_size
        return table if table is None or grid == own else resampled(self.vit, table, own, grid)

    def assembled(self, images: Tensor, table: Tensor | None) -> Tensor:
        """Patches and prefix tokens with positions of `table`: (B, P+N, D)."""
        vit = self.vit
        # Left in the layout of the convolution, every norm and sum below would run against the grain.
        x = vit.patch_embed.norm(vit.patch_embed.proj(images).flatten(2).transpose(1, 2).contiguous())
        tokens = (vit.cls_token, getattr(vit, "reg_token", None))
        prefix = [token.expand(len(x), -1, -1) for token in tokens if token is not None]
        if table is not None and not positional_prefix(vit):
            x = x + table
        x = torch.cat([*prefix, x], dim=1) if prefix else x
        if table is not None and positional_prefix(vit):
            x = x + table
        x = vit.pos_drop(x)
        out: Tensor = vit.norm_pre(x) if hasattr(vit, "norm_pre") else x
        return out


class BeitBackbone(ViTBackbone):
    """BEiT and its kin: a table of biases for relative positions in each block, or one for all."""

    def context(self, grid: tuple[int, int]) -> Context:
        """The grid, and the bias of each query and key that the blocks share, (1, A, T, T), or None."""
        shared = self.vit.rel_pos_bias
        return grid, None if shared is None else _biases(shared, shared.relative_position_bias_table, grid)

    def own_tables(self) -> None:
        """Give each block a table of its own, where they share one.

        A shared table is for pretraining; the fine-tuning of BEiT's authors lets the blocks' tables part.
        """
        shared = self.vit.rel_pos_bias
        if shared is None:
            return
        for block in self.vit.blocks:
            attention, table = block.attn, shared.relative_position_bias_table
            own = attention.relative_position_bias_table
            value = table.detach().clone() if own is None else own.detach() + table.detach()
            attention.relative_position_bias_table = nn.Parameter(value, requires_grad=table.requires_grad)
            attention.window_size = shared.window_size
        self.vit.rel_pos_bias = None

    def block(self, index: int, x: Tensor, context: Context) -> Tensor:
        """Tokens after block `index`; on another grid than its own, its table is resampled."""
        grid, bias = context
        block = self.vit.blocks[index]
        attention = block.attn
        table = attention.relative_position_bias_table
        if table is None or grid == tuple(attention.window_size):
            out: Tensor = block(x, shared_rel_pos_bias=bias)
            return out
        own = _biases(attention, table, grid)
        return through(block, x, lambda y: _attend(attention, y, own if bias is None else own + bias))


def _attend(attention: Any, x: Tensor, bias: Tensor) -> Tensor:
    """BEiT's attention of tokens (B, T, D) with the bias (1, A, T, T) instead of that of its own table."""
    parts = None
    if attention.q_bias is not None:
        parts = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    qkv = F.linear(x, attention.qkv.weight, parts).unflatten(2, (3, attention.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    dropout = attention.attn_drop.p if attention.training else 0.0
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
    out: Tensor = attention.proj_drop(attention.proj(x.transpose(1, 2).flatten(2)))
    return out


def _biases(holder: Any, table: Tensor, grid: tuple[int, int]) -> Tensor:
    """The bias (1, A, T, T) of each query and key of a grid, from a table for the grid of `holder`."""
    own = tuple(holder.window_size)
    if grid != own:
        table = resized_table(table, own, grid)
    count = grid[0] * grid[1] + 1
    index = gen_relative_position_index(grid, device=table.device).view(-1)
    return table[index].view(count, count, -1).permute(2, 0, 1)[None]


class EvaBackbone(ViTBackbone):
    """EVA, EVA-02, DINOv3 and their kin: rotary positions."""

    def context(self, grid: tuple[int, int]) -> Context:
        """Sines and cosines (N, 2d); (L, A, N, 2d) where each block has its own; None without."""
        rope = self.vit.rope
        return None if rope is None else rope.get_embed(shape=list(grid))

    def block(self, index: int, x: Tensor, context: Context) -> Tensor:
        """Tokens after block `index`."""
        out: Tensor = self.vit.blocks[index](x, rope=self.rope_of(index, context))
        return out

    def rope_of(self, index: int, context: Context) -> Tensor | None:
        """The rotary positions of a block: (N, 2d) or (A, N, 2d)."""
        rope: Tensor | None = context
        return rope[index] if self.vit.rope_mixed and rope is not None else rope


KINDS: dict[type[nn.Module], type[ViTBackbone]] = {Beit: BeitBackbone, Eva: EvaBackbone}
"""timm's classes -> backbones over them; a `VisionTransformer` is a `ViTBackbone`."""
