"""timm's models that are no plain ViTs: hierarchical ones, and flat ones that go their own way.

Whatever has a `forward_intermediates` is taken: maps at four strides make a `HierarchicalBackbone`, maps at
one stride a `FlatBackbone`.

Shapes: B images, P prefix tokens, h x w cells, D width, L blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import timm
import torch
from timm.models.hiera import Hiera, Reroll, Unroll
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae_bench.backbones.architecture import grid_for
from mae_bench.backbones.hierarchical import STAGES, HierarchicalBackbone
from mae_bench.backbones.network import NetworkBackbone, blocks_of
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError

FINAL_NORM = "final_norm"
"""Name of the final norm in a hierarchical network, which timm keeps as ``norm`` or ``head.norm``."""


def build(arch: str, *, channels: int, image_size: tuple[int, int] | None, where: str) -> nn.Module:
    """A network with timm's initial weights, without head, for images of any size where it allows that.

    A Swin shifts and partitions its windows whatever the size of the map, as it does in detection; timm's
    classifiers do not where one window is as large as the map.

    Args:
        image_size: (height, width) in pixels that a network is made for which allows no other; None: its own.

    Raises:
        MaeBenchError: timm cannot build it, or it gives no maps.
    """
    kind = _class_of(arch, where)
    # A class may hand its arguments on to the one it is made of.
    makers = [vars(part)["__init__"] for part in kind.__mro__ if "__init__" in vars(part)]
    taken = {name for maker in makers for name in inspect.signature(maker).parameters}
    options: dict[str, Any] = {}
    if "strict_img_size" in taken:
        options["strict_img_size"] = False
    elif "dynamic_img_size" in taken:
        options["dynamic_img_size"] = True
    elif "img_size" in taken and image_size is not None and kind is not Hiera:
        options["img_size"] = image_size
    if "always_partition" in taken:
        options["always_partition"] = True
    try:
        net: Any = timm.create_model(arch, pretrained=False, num_classes=0, in_chans=channels, **options)
        strides = [int(info["reduction"]) for info in net.feature_info]
        if len(set(strides)) > 1 and len(set(strides[-STAGES:])) != STAGES:
            raise MaeBenchError(
                f"{where}: {arch} has maps at strides {strides[-STAGES:]}, not at {STAGES} different ones"
            )
        if len(set(strides)) > 1:
            norm = _final_norm(net)
            net.prune_intermediate_layers(STAGES, prune_norm=True, prune_head=True)
            if norm is not None:
                net.add_module(FINAL_NORM, norm)
        elif getattr(net, "attn_pool", None) is not None:
            net.attn_pool = None
    except (AssertionError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaeBenchError(f"{where}: timm cannot build {arch} as a backbone: {reason}") from error
    built: nn.Module = net
    return built


def _class_of(arch: str, where: str) -> type[nn.Module]:
    with torch.device("meta"):
        try:
            kind = type(timm.create_model(arch, pretrained=False))
        except (RuntimeError, NotImplementedError, AssertionError, TypeError, ValueError):
            # Some networks compute while they are built, which the meta device does not.
            kind = type(nn.Module())
    if kind is nn.Module:
        kind = type(timm.create_model(arch, pretrained=False))
    if not hasattr(kind, "forward_intermediates"):
        raise MaeBenchError(f"{where}: timm's {kind.__name__} gives no maps (no forward_intermediates)")
    return kind


def _final_norm(net: nn.Module) -> nn.Module | None:
    """The norm that follows the last map, before or after pooling."""
    for name in ("norm", "head.norm"):
        try:
            norm = net.get_submodule(name)
        except AttributeError:
            continue
        if any(True for _ in norm.parameters()):
            return norm
    return None


def wrap(net: nn.Module, *, spec: str, arch: str, family: str, report: LoadReport) -> Backbone:
    """A network of `build` as a backbone."""
    info: list[dict[str, Any]] = list(cast(Any, net).feature_info)[-STAGES:]
    facts: dict[str, Any] = {"spec": spec, "arch": arch, "family": family, "report": report}
    facts |= {"channels": len(report.mean)}
    widths, strides = ([int(one[key]) for one in info] for key in ("num_chs", "reduction"))
    if len(set(strides)) == 1:
        blocks = [str(one["module"]) for one in cast(Any, net).feature_info]
        return FlatBackbone(net, stride=strides[-1], width=widths[-1], blocks=blocks, **facts)
    norm = FINAL_NORM if hasattr(net, FINAL_NORM) else None
    kind = HieraBackbone if type(net) is Hiera else TimmHierarchical
    return kind(net, widths=widths, strides=strides, blocks=blocks_of(net), norm=norm, **facts)


class TimmHierarchical(HierarchicalBackbone):
    """A hierarchical network of timm's."""

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The four maps; see `HierarchicalBackbone.pyramid`."""
        return _explained(super().pyramid, images, self)


class HieraBackbone(TimmHierarchical):
    """Hiera, whose order of tokens and positions are made for one size, at any size of whole mask units."""

    def _maps(self, images: Tensor) -> list[Tensor]:
        net = self.net
        size = [images.shape[2], images.shape[3]]
        unit = [s * m for s, m in zip(net.patch_stride, net.mask_unit_size, strict=True)]
        if any(side % cell for side, cell in zip(size, unit, strict=True)):
            raise MaeBenchError(
                f"{self.spec}: an image of {size[0]}x{size[1]} pixels cannot be divided into mask units of "
                f"{unit[0]}x{unit[1]}; take multiples of these"
            )
        own = list(net.tokens_spatial_shape)
        grid = [side // stride for side, stride in zip(size, net.patch_stride, strict=True)]
        x = net.patch_embed(images)
        x = x + self._positions(own, grid)
        pools = [net.q_stride] * len(net.stage_ends[:-1])
        x = Unroll(tuple(size), net.patch_stride, pools)(x)
        reroll = Reroll(tuple(size), net.patch_stride, pools, net.stage_ends, net.q_pool)
        maps = []
        for index, block in enumerate(net.blocks):
            again = net.grad_checkpointing and self.training and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
            if index in net.stage_ends:
                maps.append(reroll(x, index).permute(0, 3, 1, 2).contiguous())
        return maps

    def _positions(self, own: list[int], grid: list[int]) -> Tensor:
        """Position embeddings (1, h*w, D) on a grid; bicubic with antialiasing where it is not their own."""
        net = self.net
        if net.pos_embed_win is not None:
            units = [cells // unit for cells, unit in zip(grid, net.mask_unit_size, strict=True)]
            table = F.interpolate(net.pos_embed, size=grid, mode="bicubic", antialias=True)
            table = table + net.pos_embed_win.tile(units)
            return table.flatten(2).transpose(1, 2)
        table = net.pos_embed
        if grid == own:
            return table
        patches = table.unflatten(1, own).permute(0, 3, 1, 2).float()
        resized = F.interpolate(patches, size=grid, mode="bicubic", antialias=True)
        return resized.flatten(2).transpose(1, 2).to(table.dtype)


class FlatBackbone(NetworkBackbone):
    """A network of timm's with maps of one size that is no plain ViT of `mae_bench.backbones.plain`."""

    hierarchical: ClassVar[bool] = False

    def __init__(self, net: nn.Module, *, stride: int, width: int, **facts: Any) -> None:
        super().__init__(net, width=width, norm="norm" if hasattr(net, "norm") else None, **facts)
        self.patch_size = (stride, stride)
        self.prefix_tokens = int(getattr(net, "num_prefix_tokens", 0))
        self.has_class_token = isinstance(getattr(net, "cls_token", None), Tensor)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens (B, P, D) and patches (B, h, w, D) after the final norm; see `Backbone.tokens`."""
        grid = self.grid(images)
        x = _explained(self.net.forward_features, images, self)
        if x.ndim == 4:  # (B, D, h, w)
            return x.new_zeros(len(x), 0, x.shape[1]), x.permute(0, 2, 3, 1)
        return x[:, : self.prefix_tokens], x[:, self.prefix_tokens :].unflatten(1, grid)

    def maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """One map (B, D, h, w) for each of `blocks`; see `Backbone.maps`."""
        wanted = self.numbered(blocks)
        self.grid(images)
        distinct = sorted(set(wanted))

        def intermediates(batch: Tensor) -> list[Tensor]:
            maps: list[Tensor] = self.net.forward_intermediates(
                batch, indices=distinct, intermediates_only=True, output_fmt="NCHW"
            )
            return maps

        found = dict(zip(distinct, _explained(intermediates, images, self), strict=True)) if wanted else {}
        return [found[index] for index in wanted]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(h, w) for images (B, C, H, W).

        Raises:
            MaeBenchError: as for `tokens`.
        """
        self.check_images(images)
        return grid_for(self.patch_size, (images.shape[2], images.shape[3]), self.spec)


def _explained(call: Any, images: Tensor, backbone: Backbone) -> Any:
    """The result of a network of timm's, which says by an assertion which image sizes it does not take."""
    try:
        return call(images)
    except (AssertionError, IndexError) as error:
        height, width = backbone.image_size
        raise MaeBenchError(
            f"{backbone.spec}: {backbone.arch} takes no images of {images.shape[2]}x{images.shape[3]} pixels"
            f" ({str(error) or 'timm says no more'}); its weights are for {height}x{width}"
        ) from error
