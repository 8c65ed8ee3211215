"""Hierarchical backbones (ResNet, ConvNeXt, Swin): four maps of falling resolution, over timm's models.

They serve dense tasks, beside the plain ViTs of `mae_bench.backbones.surface`.

Shapes: B images, C channels, H x W pixels; map i has D_i channels and h_i x w_i cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import timm
from timm.layers import DropPath
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from mae_bench.backbones.report import LoadReport
from mae_bench.errors import MaeBenchError

Family = type[ResNet] | type[ConvNeXt] | type[SwinTransformer]
FAMILIES: tuple[Family, ...] = (ResNet, ConvNeXt, SwinTransformer)
STAGES = 4


def family_of(name: str) -> Family | None:
    """The class that timm builds `name` of (a pretrained tag is ignored), if it is one of `FAMILIES`."""
    base = name.partition(".")[0]
    if not timm.is_model(base):
        return None
    built = inspect.signature(timm.model_entrypoint(base)).return_annotation
    return next((family for family in FAMILIES if built is family), None)


def build(arch: str, family: Family, channels: int, where: str) -> nn.Module:
    """A network with timm's initial weights, without head, for images of any size.

    What comes behind the last map, the final norm included, is left out. A Swin shifts and partitions its
    windows whatever the size of the map, as it does in detection; timm's classifiers do not where one window
    is as large as the map.

    Raises:
        MaeBenchError: timm cannot build it, or its maps are not at four strides.
    """
    options: dict[str, Any] = {}
    if family is SwinTransformer:
        options = {"strict_img_size": False, "always_partition": True}
    try:
        net: Any = timm.create_model(arch, pretrained=False, num_classes=0, in_chans=channels, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MaeBenchError(f"{where}: timm cannot build {arch}: {reason}") from error
    net.prune_intermediate_layers(STAGES, prune_norm=True, prune_head=True)
    strides = _last(net, "reduction")
    if len(set(strides)) != STAGES:
        raise MaeBenchError(
            f"{where}: {arch} has maps at strides {list(strides)}, not at four different ones"
        )
    built: nn.Module = net
    return built


class HierarchicalBackbone(nn.Module):
    """A network of four stages without head, at any image size that its coarsest stride divides.

    Batch norms keep the statistics that were pretrained, in training too, since detection trains on few
    images at once; those of untrained weights learn theirs.

    Attributes:
        net: timm's model.
        spec: the text that named it, for example ``timm:resnet50.a1_in1k``.
        arch: timm's name of the architecture.
        model_args: arguments with which timm built it; none.
        widths: D_i, from the finest map to the coarsest.
        strides: of the maps, in pixels of the image.
        width: the last of `widths`.
        depth: number of blocks.
        image_size: (height, width) in pixels that the weights were trained at.
        channels: C.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
        hierarchical: True.
        digest: SHA-256 of the weights as loaded.
        report: what was loaded from where.
        pretraining: None; such weights do not say how they came about.
    """

    hierarchical: Literal[True] = True
    pretraining: Mapping[str, Any] | None = None

    def __init__(self, net: nn.Module, *, spec: str, arch: str, channels: int, report: LoadReport) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.arch = arch
        self.model_args: dict[str, Any] = {}
        self.widths = _last(net, "num_chs")
        self.strides = _last(net, "reduction")
        self.width = self.widths[-1]
        self.depth = sum(1 for _ in self._blocks())
        self.image_size = report.image_size
        self.channels = channels
        self.mean = report.mean
        self.std = report.std
        self.digest = report.digest_after
        self.report = report
        self._fixed_statistics = report.format != "random"

    def forward(self, images: Tensor) -> list[Tensor]:
        """The same as `pyramid`."""
        return self.pyramid(images)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The maps (B, D_i, h_i, w_i) of normalised images (B, C, H, W), from the finest to the coarsest.

        Raises:
            MaeBenchError: C is not the backbone's, or its coarsest stride does not divide H and W.
        """
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise MaeBenchError(
                f"{self.spec} takes images of {self.channels} channels (B, {self.channels}, H, W), not "
                f"{tuple(images.shape)}"
            )
        height, width, coarsest = images.shape[2], images.shape[3], self.strides[-1]
        if height % coarsest or width % coarsest:
            raise MaeBenchError(
                f"{self.spec}: an image of {height}x{width} pixels cannot be divided into cells of "
                f"{coarsest}x{coarsest}; pad it to multiples of {coarsest}"
            )
        net: Any = self.net
        maps: list[Tensor] = net.forward_intermediates(images, indices=STAGES, intermediates_only=True)
        return maps

    # ------------------------------------------------------------ training

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once, in depth order: stem, block 0, ..., block L-1, and nothing behind.

        What takes a map to the next stage belongs to that stage's first block.
        """
        blocks = [name for name, _ in self._blocks()]
        layers: list[list[str]] = [[] for _ in range(self.depth + 2)]
        for name, _ in self.named_parameters():
            own = next((i for i, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
            if own is None:
                stage, downsample, _ = name.partition(".downsample.")
                own = next((i for i, block in enumerate(blocks) if block.startswith(f"{stage}.")), -1)
                own = own if downsample else -1
            layers[own + 1].append(name)
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names of a Swin's relative position biases, as its authors have it; of no other parameter."""
        exempt: set[str] = getattr(self.net, "no_weight_decay", set)()
        return {f"net.{name}" for name in exempt} & {name for name, _ in self.named_parameters()}

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth (arXiv:1603.09382): 0 in the first block, linearly up to `rate` in the last."""
        if not 0 <= rate < 1:
            raise MaeBenchError(f"drop_path should be at least 0 and less than 1, not {rate}")
        for index, (_, block) in enumerate(self._blocks()):
            own = rate * index / max(self.depth - 1, 1)
            for name in ("drop_path", "drop_path1", "drop_path2"):
                if hasattr(block, name):
                    setattr(block, name, DropPath(own) if own > 0 else nn.Identity())
        self.train(self.training)

    def train(self, mode: bool = True) -> HierarchicalBackbone:
        """Set training mode on all but the batch norms whose statistics were pretrained."""
        super().train(mode)
        if mode and self._fixed_statistics:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _blocks(self) -> Iterator[tuple[str, nn.Module]]:
        """Name and module of each block, in depth order."""
        net: Any = self.net
        if isinstance(net, ResNet):
            stages = [(f"layer{i}", getattr(net, f"layer{i}")) for i in range(1, STAGES + 1)]
        else:
            part = "stages" if isinstance(net, ConvNeXt) else "layers"
            stages = [(f"{part}.{i}.blocks", stage.blocks) for i, stage in enumerate(getattr(net, part))]
        for name, stage in stages:
            for index, block in stage.named_children():
                yield f"net.{name}.{index}", block


def _last(net: Any, fact: str) -> tuple[int, ...]:
    """A fact of timm's about each of the last four maps."""
    return tuple(int(info[fact]) for info in list(net.feature_info)[-STAGES:])
