"""What every engine's detector stands on: the backbone, changed for large images, and the pyramid over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from downstream.detection.pyramid import SimplePyramid, TopDownPyramid, strides_around
from downstream.detection.settings import DetectorSettings, PyramidSettings
from mae_bench.backbones import Backbone
from mae_bench.backbones.dense import DenseViT, quarters
from mae_bench.backbones.hierarchical import HierarchicalBackbone
from mae_bench.backbones.others import FlatBackbone
from mae_bench.backbones.plain import PlainBackbone
from mae_bench.errors import MaeBenchError


class Plan(NamedTuple):
    """What a recipe makes of a backbone.

    Attributes:
        blocks: the blocks of a plain ViT whose maps the pyramid takes; empty for a hierarchical backbone.
        widths: channels of the maps that the pyramid takes, from the finest on.
        strides: of p2 to p6, in pixels.
        flat: the maps are all of one size, which is that of p4.
    """

    blocks: list[int]
    widths: list[int]
    strides: list[float]
    flat: bool


class Trunk(NamedTuple):
    """A detector without its heads.

    Attributes:
        body: the backbone.
        pyramid: from its maps to p2 to p6.
        blocks, strides: see `Plan`.
    """

    body: nn.Module
    pyramid: nn.Module
    blocks: list[int]
    strides: list[float]


def build_trunk(backbone: Backbone, config: DetectorSettings, canvas: tuple[int, int]) -> Trunk:
    """Backbone and pyramid of a recipe.

    A plain ViT attends in windows and gets the pyramid of `config.pyramid`; a hierarchical backbone always
    gets a feature pyramid network over its own maps.

    Args:
        canvas: (height, width) in pixels to which images are padded.

    Raises:
        MaeBenchError: the stride of p5 does not divide the canvas; patches are not square; there is no such
            block.
    """
    planned = plan(backbone, config, canvas)
    pyramid = build_pyramid(planned.widths, config.pyramid, flat=planned.flat)
    return Trunk(build_body(backbone, config, canvas), pyramid, planned.blocks, planned.strides)


def plan(backbone: Backbone, config: DetectorSettings, canvas: tuple[int, int]) -> Plan:
    """What there is to build; raises as `build_trunk` does."""
    if isinstance(backbone, HierarchicalBackbone):
        strides = strides_around(backbone.strides[2])
        if list(backbone.strides) != strides[:4]:
            raise MaeBenchError(
                f"{backbone.spec} has maps of strides {list(backbone.strides)}; a pyramid needs four, each "
                "twice the one before"
            )
        _check_canvas(canvas, strides[3], backbone.spec)
        return Plan([], list(backbone.widths), strides, flat=False)
    assert isinstance(backbone, PlainBackbone | FlatBackbone)
    height, width = backbone.patch_size
    if height != width:
        raise MaeBenchError(
            f"{backbone.spec} has patches of {height}x{width} pixels; detection needs square ones"
        )
    strides = strides_around(width)
    _check_canvas(canvas, strides[3], backbone.spec)
    blocks = _blocks(backbone, config.pyramid)
    return Plan(blocks, [backbone.width] * len(blocks), strides, flat=True)


def _blocks(backbone: Backbone, pyramid: PyramidSettings) -> list[int]:
    if pyramid.kind == "simple":
        return [backbone.depth - 1]
    blocks = quarters(backbone.depth) if pyramid.blocks == "quarters" else list(pyramid.blocks)
    if len(blocks) != 4 or max(blocks) != backbone.depth - 1:
        raise MaeBenchError(
            f"model.pyramid.blocks: {blocks} should be four blocks of {backbone.spec}, the last of them "
            f"{backbone.depth - 1}: no block may be left without use"
        )
    return blocks


def build_pyramid(widths: Sequence[int], config: PyramidSettings, *, flat: bool) -> nn.Module:
    """The pyramid over maps of `widths` channels; `flat` as in `Plan`."""
    if flat and config.kind == "simple":
        return SimplePyramid(widths[-1], config.channels, config.norm)
    return TopDownPyramid(widths, config.channels, config.norm, rescaled=flat)


def build_body(backbone: Backbone, config: DetectorSettings, canvas: tuple[int, int]) -> nn.Module:
    """The backbone, changed as detection needs it; `plan` has found that it will do."""
    if isinstance(backbone, HierarchicalBackbone):
        backbone.remove_norm()
        # Detection trains on few images at once.
        backbone.fix_statistics()
        if config.checkpointing:
            backbone.checkpoint_activations()
        return backbone
    assert isinstance(backbone, PlainBackbone | FlatBackbone)
    attention = config.attention
    everywhere = [] if attention.window is None else attention.global_blocks
    height, width = backbone.patch_size
    return DenseViT(
        backbone,
        window=attention.window,
        global_blocks=quarters(backbone.depth) if everywhere == "quarters" else everywhere,
        window_padding=attention.window_padding,
        relative="decomposed" if attention.relative_positions else "none",
        grid=(canvas[0] // height, canvas[1] // width),
        prefix_tokens=attention.prefix_tokens,
        resample="each_time",
        final_norm=False,
        checkpointing=config.checkpointing,
    )


def maps_of(body: nn.Module, blocks: Sequence[int], batch: Tensor) -> list[Tensor]:
    """The maps (B, D, h, w) that the pyramid takes, of normalised images (B, C, H, W)."""
    maps: list[Tensor] = (
        body.pyramid(batch) if isinstance(body, HierarchicalBackbone) else body(batch, blocks)
    )
    return maps


def _check_canvas(canvas: tuple[int, int], stride: float, spec: str) -> None:
    if any(side % stride for side in canvas):
        raise MaeBenchError(
            f"data.image_size: {canvas[0]}x{canvas[1]} is not divisible by {stride:g}, the stride of the "
            f"coarsest map over {spec}"
        )
