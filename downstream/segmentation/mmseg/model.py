"""Our backbone as mmsegmentation builds it from a config file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from downstream.openmmlab.modules import backbone_of
from downstream.segmentation.pyramid import Rescaling
from downstream.segmentation.segmenter import build_body
from downstream.segmentation.settings import SegmenterSettings

BACKBONE = "MaeBenchSegBackbone"


# A plain module without `init_weights`: mmengine calls that of every child that has one before training, and
# so does not get as far as that of the pretrained model inside.
class SegmentationBackbone(nn.Module):
    """Four maps of a backbone of ours for mmsegmentation's necks and heads.

    Args:
        spec: of the backbone, as `mae_bench.backbones.load_backbone` takes it.
        crop: height and width in pixels of a training crop, for which positions are made.
        drop_path: stochastic depth of the last block.
        seed: draws the weights of an untrained backbone.
        rescaled: bring the maps of a plain backbone to strides 4, 8, 16 and 32 (for patches of 16), where no
            neck does.
        model: `blocks`, `relative_positions`, `layer_scale`, `final_norm`, `freeze` and `checkpointing` of a
            recipe's ``model``.

    Attributes:
        widths: channels of the maps.
        hierarchical: whether the maps are of four sizes by themselves.
        departures: what of the settings the backbone does not allow, a sentence each.
        digest: of the backbone's weights as they were loaded.
    """

    def __init__(
        self,
        spec: str,
        crop: Sequence[int],
        drop_path: float = 0.0,
        seed: int = 0,
        rescaled: bool = False,
        **model: Any,
    ) -> None:
        super().__init__()
        settings = SegmenterSettings(head="uper", **_plain(model))
        own = backbone_of(spec, drop_path=drop_path, channels=3, seed=seed)
        self.hierarchical, self.digest = own.hierarchical, own.digest
        self.dense, self.blocks, self.widths = build_body(own, settings, (int(crop[0]), int(crop[1])))
        self.departures = list(self.dense.departures)
        self.frozen = settings.freeze
        wanted = rescaled and not own.hierarchical
        self.rescaling = Rescaling(own.width) if wanted else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (B, 3, H, W) -> four maps (B, D_i, h_i, w_i)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = self.dense(images, self.blocks)
        return tuple(maps if self.rescaling is None else self.rescaling(maps))

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once: embeddings, blocks in depth order, then the rest."""
        layers = [[f"dense.{name}" for name in layer] for layer in self.dense.layer_names()]
        layers[-1] += [name for name, _ in self.named_parameters() if not name.startswith("dense.")]
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names of positions, class token and registers."""
        return {f"dense.{name}" for name in self.dense.no_weight_decay()}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Without mmengine's own kinds of list, which strict settings refuse."""
    return {key: list(value) if isinstance(value, list | tuple) else value for key, value in values.items()}


@cache
def register_models() -> None:
    """Make the backbone known to mmsegmentation."""
    from mmseg.registry import MODELS

    MODELS.register_module(name=BACKBONE, module=SegmentationBackbone)
