"""A segmenter: a backbone under UperNet or a linear head, and its loss.

Shapes: B images, K classes, H x W pixels of the crop, h x w of a head's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.segmentation.heads import AuxiliaryHead, LinearHead
from downstream.segmentation.labels import IGNORED
from downstream.segmentation.pyramid import Rescaling
from downstream.segmentation.settings import SegmenterSettings
from downstream.segmentation.stages import Stages
from downstream.segmentation.uper import UperNet, resized
from mae_bench.backbones import Backbone, DenseViT, HierarchicalBackbone, quarters
from mae_bench.backbones.hierarchical import STAGES
from mae_bench.backbones.others import FlatBackbone
from mae_bench.backbones.plain import PlainBackbone
from mae_bench.errors import MaeBenchError
from mae_bench.norms import processes, synchronised


class Logits(NamedTuple):
    """Logits (B, K, h, w), and those of the auxiliary head in training where there is one."""

    main: Tensor
    auxiliary: Tensor | None


class Body(NamedTuple):
    """What lies under the heads: ``dense(images, blocks)`` gives maps of `widths` channels."""

    dense: DenseViT | Stages
    blocks: list[int]
    widths: list[int]


def build(backbone: Backbone, classes: int, config: SegmenterSettings, canvas: tuple[int, int]) -> Segmenter:
    """The segmenter of a recipe over `backbone`, which becomes part of it.

    Args:
        backbone: a plain ViT at any image size, which gets the crop's grid, or a hierarchical backbone, whose
            own maps go into the head.
        classes: K.
        canvas: height and width of the crops in pixels.

    Raises:
        MaeBenchError: a block that the backbone does not have; a crop that its patches do not fit into.
    """
    dense, blocks, widths = build_body(backbone, config, canvas)
    return Segmenter(dense, blocks, widths, classes, config)


def build_body(backbone: Backbone, config: SegmenterSettings, canvas: tuple[int, int]) -> Body:
    """The part of `build` that is the backbone, for heads of whatever making."""
    blocks = _blocks(config, backbone)
    height, width = backbone.patch_size
    least = 1 if backbone.hierarchical else 2
    if canvas[0] % height or canvas[1] % width or min(canvas[0] // height, canvas[1] // width) < least:
        cells = "cells" if backbone.hierarchical else "patches"
        raise MaeBenchError(
            f"data.image_size: {list(canvas)} is not cut into whole {cells} of {height} x {width} pixels"
            f"{', two or more a side' if least == 2 else ''}; use multiples of {height} and {width}"
        )
    dense: DenseViT | Stages
    if isinstance(backbone, HierarchicalBackbone):
        dense = Stages(backbone, final_norm=config.final_norm)
        if config.checkpointing:
            backbone.checkpoint_activations()
        widths = [backbone.widths[stage] for stage in blocks]
    else:
        assert isinstance(backbone, PlainBackbone | FlatBackbone)
        dense = DenseViT(
            backbone,
            relative="table" if config.relative_positions else "none",
            grid=(canvas[0] // height, canvas[1] // width),
            prefix_tokens="keep",
            resample="once",
            final_norm=config.final_norm,
            layer_scale=config.layer_scale,
            checkpointing=config.checkpointing,
        )
        widths = [backbone.width] * len(blocks)
        backbone.freeze_after(max(blocks))
    if config.freeze:
        backbone.freeze("all")
    return Body(dense, blocks, widths)


def _blocks(config: SegmenterSettings, backbone: Backbone) -> list[int]:
    """Indices of the blocks whose maps are taken; of a hierarchical backbone, its stages."""
    if backbone.hierarchical and config.head == "uper":
        return list(range(STAGES))  # numbers of blocks are for plain ViTs
    depth = STAGES if backbone.hierarchical else backbone.depth
    if config.blocks == "last":
        return [depth - 1]
    if config.blocks == "quarters":
        return quarters(depth)
    wrong = [block for block in config.blocks if block >= depth]
    if wrong:
        raise MaeBenchError(
            f"model.blocks: {backbone.spec} has {'stages' if backbone.hierarchical else 'blocks'} 0 to "
            f"{depth - 1}, so none of number {wrong[0]}; `quarters` fits any depth"
        )
    return list(config.blocks)


class Segmenter(nn.Module):
    """Normalised crops -> `Logits`; build it with `build`.

    On several processes the batch norms of the heads share their statistics (`mae_bench.norms`).

    Attributes:
        backbone: the backbone, never in training mode where it is frozen.
        blocks: indices of the blocks (or stages) whose maps the head gets.
        departures: what of the settings the backbone does not allow, a sentence each.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
    """

    def __init__(
        self,
        backbone: DenseViT | Stages,
        blocks: Sequence[int],
        widths: Sequence[int],
        classes: int,
        config: SegmenterSettings,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = list(blocks)
        self.mean, self.std = backbone.mean, backbone.std
        self.departures = list(backbone.departures)
        self.frozen = config.freeze
        self.one_mean = config.head == "uper" and 1 in config.pool_scales
        self.rescaling: Rescaling | None = None
        self.auxiliary: AuxiliaryHead | None = None
        self.head: UperNet | LinearHead
        if config.head == "uper":
            if isinstance(backbone, DenseViT):
                self.rescaling = Rescaling(backbone.width)
            self.head = UperNet(widths, config.channels, classes, config.pool_scales, config.dropout)
            if config.auxiliary_weight > 0:
                self.auxiliary = AuxiliaryHead(widths[2], config.auxiliary_channels, classes, config.dropout)
        else:
            self.head = LinearHead(widths, classes, config.dropout)
        for name in ("rescaling", "auxiliary", "head"):
            part: nn.Module | None = getattr(self, name)
            setattr(self, name, None if part is None else synchronised(part))

    def forward(self, images: Tensor) -> Logits:
        """Normalised images (B, 3, H, W) -> logits, a linear head's one a patch, UperNet's four a side.

        Raises:
            MaeBenchError: in training, a single image for a batch norm behind a pooling to one cell.
        """
        if self.training and self.one_mean and len(images) * processes() == 1:
            raise MaeBenchError(
                "train.micro_batch: UperNet normalises one mean an image over the images of a micro-batch, "
                "so it cannot be trained on 1; give 2 or more, free memory with model.checkpointing=true or "
                "a smaller data.image_size, or leave 1 out of model.pool_scales"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.backbone(images, self.blocks)
        auxiliary = self.auxiliary(maps[2]) if self.auxiliary is not None and self.training else None
        main: Tensor = self.head(maps if self.rescaling is None else self.rescaling(maps))
        return Logits(main, auxiliary)

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once: embeddings, block 0, ..., block L-1, and last all heads."""
        layers = [[f"backbone.{name}" for name in layer] for layer in self.backbone.layer_names()]
        layers[-1] += [name for name, _ in self.named_parameters() if not name.startswith("backbone.")]
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names of the class token, the registers and the position embeddings."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}


# ---------------------------------------------------------------- loss


def loss(logits: Logits, target: Tensor, auxiliary_weight: float) -> dict[str, Tensor]:
    """Cross-entropy of the logits enlarged to the target's size, in fp32.

    The mean is over all pixels, with zero for those without a class, as mmsegmentation takes it by default
    (`avg_non_ignore=False`). So a crop weighs as much as it has labelled pixels, a batch without any gives
    zero, and the mean over micro-batches is that over the batch.

    Args:
        target: (B, H, W) uint8 or int64, classes 0..K-1, `IGNORED` where there is none.
        auxiliary_weight: weight of the auxiliary logits' loss.

    Returns:
        ``loss``, and where there are auxiliary logits its parts ``main`` and ``auxiliary`` (without weight).
    """
    main = pixel_loss(logits.main, target)
    if logits.auxiliary is None:
        return {"loss": main}
    auxiliary = pixel_loss(logits.auxiliary, target)
    return {"loss": main + auxiliary_weight * auxiliary, "main": main, "auxiliary": auxiliary}


def pixel_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over all pixels of (B, H, W), for logits (B, K, h, w) of any size; see `loss`."""
    total: Tensor = _SummedCrossEntropy.apply(logits, target)
    return total / target.numel()


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of enlarged logits, summed over all pixels.

    150 classes on 512 x 512 pixels take 157 MB an image, and usual training keeps two or three such maps of
    every image for the way back. The gradient with respect to the small logits is all that is needed, up to
    a factor; it is computed at once, image by image, so that one image's maps are in memory at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else None
        total = logits.new_zeros((), dtype=torch.float32)
        with torch.autocast(logits.device.type, enabled=False), torch.set_grad_enabled(wanted):
            for index in range(len(logits)):
                own = logits[index : index + 1].detach().float().requires_grad_(wanted)
                large = resized(own, target.shape[1:])
                one = F.cross_entropy(
                    large, target[index : index + 1].long(), ignore_index=IGNORED, reduction="sum"
                )
                total += one.detach()
                if gradient is not None:
                    (part,) = torch.autograd.grad(one, own)
                    gradient[index] = part[0]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None
