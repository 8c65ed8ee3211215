"""Mask R-CNN over a backbone: from images to losses, or to detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from downstream.detection.layers import ChannelNorm
from downstream.detection.proposals import Proposals
from downstream.detection.regions import RegionHeads
from downstream.detection.settings import DetectorSettings
from downstream.detection.trunk import build_trunk, maps_of
from mae_bench.augment import normalise
from mae_bench.backbones import Backbone
from mae_bench.errors import MaeBenchError
from mae_bench.norms import synchronised


def build(
    backbone: Backbone,
    classes: int,
    config: DetectorSettings,
    canvas: tuple[int, int],
) -> Detector:
    """The detector of a recipe.

    A plain ViT attends in windows and gets the pyramid of `config.pyramid`; a hierarchical backbone always
    gets a feature pyramid network over its own maps. Norms of kind ``batch`` take the images of all
    processes together (see `mae_bench.norms`).

    Args:
        classes: K.
        canvas: (height, width) in pixels to which images are padded.

    Raises:
        MaeBenchError: the stride of p5 does not divide the canvas; patches are not square; there is no such
            block.
    """
    trunk = build_trunk(backbone, config, canvas)
    heads = RegionHeads
    if config.heads.cascade:
        from downstream.detection.cascade import CascadeHeads

        heads = CascadeHeads
    channels, norm = config.pyramid.channels, config.pyramid.norm
    detector = Detector(
        trunk.body,
        trunk.pyramid,
        Proposals(config.proposals, channels, trunk.strides),
        heads(config.heads, classes, channels, trunk.strides[:4], norm),
        blocks=trunk.blocks,
        canvas=canvas,
    )
    return cast(Detector, synchronised(detector)) if norm == "batch" else detector


class Detector(nn.Module):
    """Mask R-CNN.

    Attributes:
        body: the backbone.
        pyramid: from its maps to p2 to p6.
        rpn: the region proposal network.
        roi_heads: box and mask heads.
        blocks: the blocks of a plain ViT whose maps the pyramid takes; empty for a hierarchical backbone.
        canvas: (height, width) of what the backbone sees.
        departures: what of the settings its backbone does not allow, a sentence each.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
    """

    def __init__(
        self,
        body: nn.Module,
        pyramid: nn.Module,
        rpn: Proposals,
        roi_heads: RegionHeads,
        *,
        blocks: Sequence[int],
        canvas: tuple[int, int],
    ) -> None:
        super().__init__()
        self.body = body
        self.pyramid = pyramid
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.blocks = list(blocks)
        self.canvas = canvas
        self.departures: list[str] = list(getattr(body, "departures", ()))
        self.mean: Sequence[float] = body.mean  # type: ignore[assignment]
        self.std: Sequence[float] = body.std  # type: ignore[assignment]

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Args:
            images: uint8 (C, h, w) each, no larger than the canvas.
            targets: in training, of each image ``boxes`` (n, 4) in pixels, ``labels`` (n,) in 1..K, ``masks``
                (n, h, w); n may be 0.

        Returns:
            In training ``loss_objectness``, ``loss_rpn_box``, ``loss_classifier``, ``loss_box`` and
            ``loss_mask``, whose sum is the loss. Else for each image ``boxes`` (n, 4) in its pixels, cut to
            it, ``scores`` (n,), ``labels`` (n,) in 1..K, and ``masks`` (n, 28, 28), probabilities within the
            box; best first.

        Raises:
            MaeBenchError: an image is larger than the canvas; training without targets; a box without area.
        """
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        maps = self.features(images)
        truth = self._truth(targets, maps[0].device) if self.training else None
        proposals, losses = self.rpn(maps, sizes, truth)
        found, more = self.roi_heads(maps[:4], proposals, sizes, truth)
        return {**losses, **more} if self.training else found

    def features(self, images: Sequence[Tensor]) -> list[Tensor]:
        """The five levels (B, C, h, w) of the pyramid."""
        batch = self._padded(images)
        levels: list[Tensor] = self.pyramid(maps_of(self.body, self.blocks, batch))
        return levels

    def _padded(self, images: Sequence[Tensor]) -> Tensor:
        """Normalised images on one canvas each (B, C, H, W); the rest, right and below, is 0."""
        height, width = self.canvas
        batch = torch.zeros(len(images), len(self.mean), height, width, device=images[0].device)
        for place, image in zip(batch, images, strict=True):
            if image.shape[1] > height or image.shape[2] > width:
                raise MaeBenchError(
                    f"an image of {image.shape[1]}x{image.shape[2]} pixels does not fit on the canvas of "
                    f"{height}x{width}; resize it, or enlarge data.image_size"
                )
            place[:, : image.shape[1], : image.shape[2]] = normalise(image[None], self.mean, self.std)[0]
        return batch

    @staticmethod
    def _truth(
        targets: Sequence[Mapping[str, Tensor]] | None, device: torch.device
    ) -> list[dict[str, Tensor]]:
        if targets is None:
            raise MaeBenchError("a detector in training needs targets: boxes, labels and masks of each image")
        truth = [
            {name: target[name].to(device) for name in ("boxes", "labels", "masks")} for target in targets
        ]
        every = torch.cat([target["boxes"] for target in truth])
        if bool((every[:, 2:] <= every[:, :2]).any()):
            raise MaeBenchError("a box of the targets has no area (x1 <= x0 or y1 <= y0); leave it out")
        return truth

    # ------------------------------------------------------------ training

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once: the backbone's embeddings, its blocks in depth order, then the rest.

        The last holds pyramid, heads and what the backbone has behind its blocks, as in detectron2's
        `get_vit_lr_decay_rate`.
        """
        own: list[list[str]] = self.body.layer_names()  # type: ignore[operator]
        layers = [[f"body.{name}" for name in layer] for layer in own]
        layers[-1] += [name for name, _ in self.named_parameters() if not name.startswith("body.")]
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names of the backbone's positions, class token and registers."""
        own: set[str] = self.body.no_weight_decay()  # type: ignore[operator]
        return {f"body.{name}" for name in own}

    def weight_decay_anyway(self) -> set[str]:
        """Names of the gains and biases of pyramid and heads' layer norms.

        detectron2 spares the parameters of norms, but does not count its own LayerNorm over channels among
        them; ViTDet's published numbers were made so.
        """
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, ChannelNorm)
            for name, _ in module.named_parameters()
        }
