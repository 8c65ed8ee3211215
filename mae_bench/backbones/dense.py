"""A plain ViT as a backbone for detection and segmentation: large images, windows, relative positions.

ViTDet (arXiv:2203.16527) keeps most blocks' attention within windows and lets a few blocks attend globally;
segmentation with BEiT (arXiv:2106.08254) and MAE adds a table of biases for relative positions. Shapes: B
images, H x W pixels, h x w patches, P prefix tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from timm.layers import Attention, LayerScale
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae_bench.backbones.architecture import positional_prefix, positions
from mae_bench.backbones.attention import GridAttention, Relative
from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError


def quarters(depth: int) -> list[int]:
    """The last block of each quarter of `depth` blocks, counted from 0: 12 gives 2, 5, 8, 11.

    Raises:
        MaeBenchError: fewer than four blocks.
    """
    if depth < 4:
        raise MaeBenchError(f"a backbone of {depth} blocks has no quarters: give the blocks by number")
    return [depth * part // 4 - 1 for part in range(1, 5)]


class DenseViT(nn.Module):
    """Maps of a plain ViT at any image size its patches divide. It takes `backbone` over and changes it.

    Args:
        window: side in patches of the windows of all blocks but `global_blocks`; None: all attend globally.
        global_blocks: blocks that attend globally, counted from 0.
        window_padding: what fills windows up at the edge is `masked` or, as in detectron2, `attended`.
        relative: relative positions, zero at first: `decomposed` (ViTDet), a `table` in each block (BEiT).
        grid: (h, w) patches for which relative positions are made in global blocks, and absolute ones with
            ``resample="once"``; other grids get them interpolated.
        prefix_tokens: `drop` takes class token and registers out; `keep` leaves them to attend (see
            `GridAttention`). Maps hold patches alone either way.
        resample: `once` resamples the position embeddings to `grid` now and trains them so (mmsegmentation);
            `each_time` keeps the table and resamples it in every pass (detectron2). Both plain bicubic.
        final_norm: send every map through the final norm, which is taken out otherwise.
        checkpointing: compute the activations of each block again on the way back.
        layer_scale: initial value of LayerScale in blocks that have none; None adds none.

    Attributes:
        backbone, patch_size, width, depth, mean, std: as in `Backbone`.

    Raises:
        MaeBenchError: there is no block of such a number, or blocks attend in a way unknown here.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        grid: tuple[int, int],
        window: int | None = None,
        global_blocks: Sequence[int] = (),
        window_padding: Literal["masked", "attended"] = "masked",
        relative: Relative = "none",
        prefix_tokens: Literal["drop", "keep"] = "drop",
        resample: Literal["each_time", "once"] = "each_time",
        final_norm: bool = False,
        checkpointing: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.patch_size, self.width, self.depth = backbone.patch_size, backbone.width, backbone.depth
        self.mean, self.std = backbone.mean, backbone.std
        self.checkpointing = checkpointing
        self._numbered(global_blocks)
        vit = backbone.vit
        if prefix_tokens == "drop":
            _drop_prefix(backbone)
        if not final_norm:
            vit.norm = nn.Identity()
        if resample == "once":
            table = self._positions((int(grid[0]), int(grid[1]))).detach().clone()
            vit.pos_embed = nn.Parameter(table, requires_grad=positions(vit).requires_grad)
            backbone.image_size = (grid[0] * self.patch_size[0], grid[1] * self.patch_size[1])
            vit.patch_embed.set_input_size(img_size=backbone.image_size)
        for index, block in enumerate(cast("Sequence[Block]", vit.blocks)):
            if type(block.attn) is not Attention:
                kind = type(block.attn).__name__
                raise MaeBenchError(
                    f"{backbone.spec}: block {index} attends by a {kind}, which large images do not allow; "
                    "take an architecture with timm's ordinary attention"
                )
            block.attn = GridAttention(
                block.attn,
                window=None if index in global_blocks else window,
                hide_padding=window_padding == "masked",
                relative=relative,
                grid=(int(grid[0]), int(grid[1])),
                prefix=backbone.prefix_tokens,
            )
            if layer_scale is not None:
                _add_layer_scale(block, self.width, layer_scale)
        self.train(self.training)

    def forward(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patches after each of `blocks` (counted from 0) of normalised images (B, C, H, W).

        Returns:
            One map (B, D, h, w) for each of `blocks`, in their order.

        Raises:
            MaeBenchError: there is no such block, or the patch size does not divide H and W.
        """
        self._numbered(blocks)
        grid = self.backbone.grid(images)
        vit = self.backbone.vit
        x = vit.norm_pre(self._embed(images, grid))
        found: dict[int, Tensor] = {}
        for index in range(max(blocks, default=-1) + 1):
            block = cast(Block, vit.blocks[index])
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(_through, block, x, grid, use_reentrant=False)
            else:
                x = _through(block, x, grid)
            if index in blocks:
                patches = vit.norm(x[:, self.backbone.prefix_tokens :])
                found[index] = patches.transpose(1, 2).unflatten(2, grid).contiguous()
        return [found[index] for index in blocks]

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once, in depth order: embeddings, block 0, ..., block L-1, final norm.

        Relative positions belong to their block. The last is empty without ``final_norm``.
        """
        return [[f"backbone.{name}" for name in layer] for layer in self.backbone.layer_names()]

    def no_weight_decay(self) -> set[str]:
        """Names of the class token, the registers and the position embeddings, as in the MAE recipes."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def _numbered(self, blocks: Sequence[int]) -> None:
        """Raise MaeBenchError unless every one of `blocks` exists."""
        wrong = [block for block in blocks if not 0 <= block < self.depth]
        if wrong:
            raise MaeBenchError(
                f"{self.backbone.spec} has blocks 0 to {self.depth - 1}, so none of number {wrong[0]}"
            )

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches with their positions behind the prefix tokens: (B, P + h*w, D)."""
        vit = self.backbone.vit
        # Left in the layout of the convolution, every norm and sum below would run against the grain.
        x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2).contiguous()
        x = vit.patch_embed.norm(x)
        table = self._positions(grid)
        prefix = [
            token.expand(len(x), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None
        ]
        if positional_prefix(vit):
            return vit.pos_drop(torch.cat([*prefix, x], dim=1) + table)
        x = x + table
        return vit.pos_drop(torch.cat([*prefix, x], dim=1) if prefix else x)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings on `grid`, by plain bicubic interpolation where they are for another."""
        vit = self.backbone.vit
        table: Tensor = positions(vit)
        own = vit.patch_embed.grid_size
        if grid == own:
            return table
        prefix = positional_prefix(vit)
        patches = table[:, prefix:].unflatten(1, own).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=grid, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([table[:, :prefix], patches], dim=1)


def _through(block: Block, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """One block of timm's, whose attention is told the grid."""
    x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), grid)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def _drop_prefix(backbone: Backbone) -> None:
    """Take class token and registers out of `backbone`, with their entries in the position embeddings."""
    vit = backbone.vit
    table = positions(vit)
    if positional_prefix(vit):
        rest = table.detach()[:, positional_prefix(vit) :].clone(memory_format=torch.contiguous_format)
        vit.pos_embed = nn.Parameter(rest, requires_grad=table.requires_grad)
    vit.cls_token = vit.reg_token = None
    vit.has_class_token, vit.num_reg_tokens, vit.num_prefix_tokens = False, 0, 0
    backbone.prefix_tokens = 0


def _add_layer_scale(block: Block, width: int, value: float) -> None:
    """Give `block` LayerScale where it has none, frozen where its norms are."""
    like = cast(Tensor, block.norm1.weight)
    for name in ("ls1", "ls2"):
        if isinstance(getattr(block, name), nn.Identity):
            scale = LayerScale(width, init_values=value, device=like.device, dtype=like.dtype)
            scale.gamma.requires_grad_(like.requires_grad)
            setattr(block, name, scale)
