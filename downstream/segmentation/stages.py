"""The maps of a hierarchical backbone, taken by number as the blocks of a plain ViT are.

Shapes: B images, map i of D_i channels and h_i x w_i cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mae_bench.backbones import HierarchicalBackbone


class Stages(nn.Module):
    """A hierarchical backbone under a head. It takes `backbone` over.

    Args:
        final_norm: send the last map through the final norm, which is taken out otherwise.

    Attributes:
        backbone, patch_size, mean, std: as in `Backbone`.
        departures: none; a `DenseViT` says there what its backbone does not allow.
    """

    def __init__(self, backbone: HierarchicalBackbone, *, final_norm: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.patch_size, self.mean, self.std = backbone.patch_size, backbone.mean, backbone.std
        self.departures: list[str] = []
        self.final_norm = final_norm
        if not final_norm:
            backbone.remove_norm()

    def forward(self, images: Tensor, stages: Sequence[int]) -> list[Tensor]:
        """Maps (B, D_i, h_i, w_i) of `stages` (0 is the finest) of normalised images (B, C, H, W)."""
        maps = self.backbone.pyramid(images)
        if self.final_norm:
            maps[-1] = self.backbone.normed(maps[-1].movedim(1, -1)).movedim(-1, 1)
        return [maps[stage] for stage in stages]

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once, in depth order; see `Backbone.layer_names`."""
        return [[f"backbone.{name}" for name in layer] for layer in self.backbone.layer_names()]

    def no_weight_decay(self) -> set[str]:
        """Names that the backbone exempts from weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}
