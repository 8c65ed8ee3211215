"""A plain ViT as a backbone for detection and segmentation: large images, windows, relative positions.

ViTDet (arXiv:2203.16527) keeps most blocks' attention within windows and lets a few blocks attend globally;
segmentation with BEiT (arXiv:2106.08254) and MAE adds a table of biases for relative positions. Shapes: B
images, H x W pixels, h x w patches, P prefix tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae_bench.backbones.architecture import positional_prefix
from mae_bench.backbones.attention import GridAttention, Relative
from mae_bench.backbones.blocks import add_layer_scale, through
from mae_bench.backbones.others import FlatBackbone
from mae_bench.backbones.plain import BeitBackbone, Context, EvaBackbone, PlainBackbone, ViTBackbone
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

    A backbone whose blocks cannot be taken apart (`Backbone.windows`) attends globally, keeps its prefix
    tokens and its positions, and gets neither relative positions nor LayerScale.

    Args:
        window: side in patches of the windows of all blocks but `global_blocks`; None: all attend globally.
        global_blocks: blocks that attend globally, counted from 0.
        window_padding: what fills windows up at the edge is `masked` or, as in detectron2, `attended`.
        relative: relative positions, zero at first: `decomposed` (ViTDet), a `table` in each block (BEiT).
            A BEiT has its own table in each block either way.
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
        departures: what of the above this backbone does not allow, a sentence each.

    Raises:
        MaeBenchError: there is no block of such a number.
    """

    def __init__(
        self,
        backbone: PlainBackbone | FlatBackbone,
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
        self.final_norm = final_norm
        self.departures: list[str] = []
        self._numbered(global_blocks)
        if not final_norm:
            backbone.remove_norm()
        grid = int(grid[0]), int(grid[1])
        if isinstance(backbone, ViTBackbone) and backbone.windows:
            self._take_apart(
                backbone, grid, window, global_blocks, window_padding, relative, prefix_tokens == "drop"
            )
            if resample == "once":
                self._resample(backbone, grid)
            if layer_scale is not None:
                self._add_layer_scale(backbone, layer_scale)
        else:
            self._note_what_stays(window, relative, layer_scale)
        if isinstance(backbone, FlatBackbone) and checkpointing:
            backbone.checkpoint_activations()
        if isinstance(backbone, FlatBackbone) and not final_norm:
            _freeze_unused(backbone)
        self.train(self.training)

    def forward(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patches after each of `blocks` (counted from 0) of normalised images (B, C, H, W).

        Returns:
            One map (B, D, h, w) for each of `blocks`, in their order.

        Raises:
            MaeBenchError: there is no such block, or the patch size does not divide H and W.
        """
        self._numbered(blocks)
        backbone = self.backbone
        if not isinstance(backbone, PlainBackbone):
            maps = backbone.maps(images, blocks)
            return [self._normed(one.movedim(1, -1)).movedim(-1, 1).contiguous() for one in maps]
        grid = backbone.grid(images)
        context = backbone.context(grid)
        x = self._embed(images, grid)
        found: dict[int, Tensor] = {}
        for index in range(max(blocks, default=-1) + 1):
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(self._block, index, x, grid, context, use_reentrant=False)
            else:
                x = self._block(index, x, grid, context)
            if index in blocks:
                patches = self._normed(x[:, backbone.prefix_tokens :])
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

    # ------------------------------------------------------------ building

    def _take_apart(
        self,
        backbone: ViTBackbone,
        grid: tuple[int, int],
        window: int | None,
        global_blocks: Sequence[int],
        window_padding: str,
        relative: Relative,
        without_prefix: bool,
    ) -> None:
        """Put a `GridAttention` in place of every attention."""
        if without_prefix:
            _drop_prefix(backbone)
        if isinstance(backbone, BeitBackbone):
            backbone.own_tables()
        for index, block in enumerate(backbone.vit.blocks):
            block.attn = GridAttention(
                block.attn,
                window=None if index in global_blocks else window,
                hide_padding=window_padding == "masked",
                relative=relative,
                grid=grid,
                prefix=backbone.prefix_tokens,
            )

    def _resample(self, backbone: ViTBackbone, grid: tuple[int, int]) -> None:
        """Position embeddings for `grid`, from now on."""
        vit = backbone.vit
        table = self._positions(backbone, grid)
        if table is not None:
            trained = vit.pos_embed.requires_grad
            vit.pos_embed = nn.Parameter(table.detach().clone(), requires_grad=trained)
        backbone.image_size = (grid[0] * self.patch_size[0], grid[1] * self.patch_size[1])
        vit.patch_embed.set_input_size(img_size=backbone.image_size)

    def _add_layer_scale(self, backbone: ViTBackbone, value: float) -> None:
        without = [not add_layer_scale(block, self.width, value) for block in backbone.vit.blocks]
        if any(without):
            self.departures.append(
                f"{backbone.spec} normalises what its blocks add, so they get no LayerScale of {value:g}"
            )

    def _note_what_stays(self, window: int | None, relative: Relative, layer_scale: float | None) -> None:
        wanted = [
            "attends globally in every block" if window is not None else "",
            "gets no relative positions" if relative != "none" else "",
            "gets no LayerScale" if layer_scale is not None else "",
        ]
        wanted = [one for one in wanted if one]
        if wanted:
            listed = ", ".join(wanted[:-1]) + (" and " if len(wanted) > 1 else "") + wanted[-1]
            self.departures.append(
                f"{self.backbone.spec} is a {self.backbone.arch}, whose blocks cannot be taken apart, so it "
                f"{listed}"
            )

    # ------------------------------------------------------------ passing through

    def _block(self, index: int, x: Tensor, grid: tuple[int, int], context: Context) -> Tensor:
        """Tokens (B, P + h*w, D) after block `index`."""
        backbone = self.backbone
        assert isinstance(backbone, PlainBackbone)
        if not backbone.windows:
            return backbone.block(index, x, context)
        block = backbone.vit.blocks[index]
        rope = backbone.rope_of(index, context) if isinstance(backbone, EvaBackbone) else None
        return through(block, x, lambda y: block.attn(y, grid, rope))

    def _normed(self, x: Tensor) -> Tensor:
        return self.backbone.normed(x) if self.final_norm else x

    def _numbered(self, blocks: Sequence[int]) -> None:
        """Raise MaeBenchError unless every one of `blocks` exists."""
        wrong = [block for block in blocks if not 0 <= block < self.depth]
        if wrong:
            raise MaeBenchError(
                f"{self.backbone.spec} has blocks 0 to {self.depth - 1}, so none of number {wrong[0]}"
            )

    def _embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches with their positions behind the prefix tokens: (B, P + h*w, D)."""
        backbone = self.backbone
        assert isinstance(backbone, PlainBackbone)
        if not isinstance(backbone, ViTBackbone) or not backbone.windows:
            return backbone.embed(images, grid)
        return backbone.assembled(images, self._positions(backbone, grid))

    @staticmethod
    def _positions(backbone: ViTBackbone, grid: tuple[int, int]) -> Tensor | None:
        """Position embeddings on `grid`, by plain bicubic interpolation where they are for another."""
        vit = backbone.vit
        table: Tensor | None = vit.pos_embed
        own = vit.patch_embed.grid_size
        if table is None or grid == own:
            return table
        prefix = positional_prefix(vit)
        patches = table[:, prefix:].unflatten(1, own).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, size=grid, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([table[:, :prefix], patches], dim=1)


def _freeze_unused(backbone: FlatBackbone) -> None:
    """Freeze what no map hears of, such as class tokens that only come in at the end.

    It would get no gradient, which distributed training takes for an error.
    """
    image = torch.zeros(1, backbone.channels, *backbone.image_size, device=next(backbone.parameters()).device)
    trained = [param for param in backbone.parameters() if param.requires_grad]
    with torch.enable_grad():
        (last,) = backbone.maps(image, [-1])
        heard = torch.autograd.grad(last.sum(), trained, allow_unused=True) if trained else ()
    for param, gradient in zip(trained, heard, strict=True):
        param.requires_grad_(gradient is not None)


def _drop_prefix(backbone: ViTBackbone) -> None:
    """Take class token and registers out of `backbone`, with their entries in the position embeddings."""
    vit = backbone.vit
    prefix = positional_prefix(vit)
    if prefix and vit.pos_embed is not None:
        rest = vit.pos_embed.detach()[:, prefix:].clone(memory_format=torch.contiguous_format)
        vit.pos_embed = nn.Parameter(rest, requires_grad=vit.pos_embed.requires_grad)
    vit.cls_token = vit.reg_token = None
    vit.num_prefix_tokens = backbone.prefix_tokens = 0
    backbone.has_class_token = False
