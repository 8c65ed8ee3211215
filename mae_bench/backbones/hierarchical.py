"""Hierarchical backbones: four maps of falling resolution, over timm's models or a user's own module.

Shapes: B images, C channels, H x W pixels; map i has D_i channels and h_i x w_i cells; L blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mae_bench.backbones.network import NetworkBackbone
from mae_bench.errors import MaeBenchError

STAGES = 4


class HierarchicalBackbone(NetworkBackbone):
    """A network of four stages, at any image size that its coarsest stride divides.

    Its tokens are the cells of the last map after the final norm; there are no prefix tokens.

    Attributes:
        widths: D_i, from the finest map to the coarsest.
        strides: of the maps, in pixels of the image.
    """

    hierarchical: ClassVar[bool] = True

    def __init__(
        self, net: nn.Module, *, widths: Sequence[int], strides: Sequence[int], norm: str | None, **facts: Any
    ) -> None:
        super().__init__(net, norm=norm, width=int(widths[-1]), **facts)
        self.widths = tuple(int(width) for width in widths)
        self.strides = tuple(int(stride) for stride in strides)
        self.patch_size = (self.strides[-1], self.strides[-1])
        self._fixed_statistics = False

    # ------------------------------------------------------------ features

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The maps (B, D_i, h_i, w_i) of normalised images (B, C, H, W), from the finest to the coarsest.

        Raises:
            MaeBenchError: C is not the backbone's, or its coarsest stride does not divide H and W.
        """
        self.check_images(images)
        height, width, coarsest = images.shape[2], images.shape[3], self.strides[-1]
        if height % coarsest or width % coarsest:
            raise MaeBenchError(
                f"{self.spec}: an image of {height}x{width} pixels cannot be divided into cells of "
                f"{coarsest}x{coarsest}; pad it to multiples of {coarsest}"
            )
        return self._maps(images)

    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """No prefix tokens (B, 0, D), and the last map's cells (B, h, w, D) after the final norm.

        Networks that normalise after pooling have that norm here, as plain ViTs have theirs.
        """
        last = self.normed(self.pyramid(images)[-1].permute(0, 2, 3, 1))
        return last.new_zeros(len(last), 0, last.shape[-1]), last

    def maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """One map for each of `blocks`, which here number the stages: 0 to 3, negative from the end.

        Raises:
            MaeBenchError: there is no such stage; as for `pyramid`.
        """
        wrong = [stage for stage in blocks if not -STAGES <= stage < STAGES]
        if wrong:
            raise MaeBenchError(f"{self.spec} has maps 0 to {STAGES - 1}, so none of number {wrong[0]}")
        found = self.pyramid(images)
        return [found[stage] for stage in blocks]

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net.forward_intermediates(
            images, indices=STAGES, intermediates_only=True, output_fmt="NCHW"
        )
        return maps

    # ------------------------------------------------------------ training

    def fix_statistics(self) -> None:
        """Let batch norms keep the statistics that were pretrained, in training too.

        For tasks that train on few images at once. Those of untrained weights go on learning theirs.
        """
        self._fixed_statistics = self.report.format != "random"
        self.train(self.training)

    def train(self, mode: bool = True) -> HierarchicalBackbone:
        """Set training mode on what is neither frozen nor a batch norm of fixed statistics."""
        super().train(mode)
        if mode and self._fixed_statistics:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
