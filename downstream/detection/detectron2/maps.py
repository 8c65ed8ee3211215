"""Our backbone without a pyramid, for configurations of detectron2 that bring a pyramid of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from downstream.detection.detectron2.model import loaded, plain, supplied, whole
from downstream.detection.settings import DetectorSettings
from downstream.detection.trunk import Trunk, build_trunk, maps_of


def flat(
    *,
    spec: str,
    seed: int,
    drop_path: float,
    canvas: Sequence[int],
    settings: Mapping[str, Any],
    out_feature: str,
) -> nn.Module:
    """The target of ``backbone.net``, as in detectron2's ViTDet: the last map (B, D, h, w) of a plain ViT.

    Args:
        spec: of the backbone, see `mae_bench.backbones.load_backbone`.
        seed: of what is drawn in it at random.
        drop_path: stochastic depth of the last block.
        canvas: height and width that the relative positions are laid out for; other sizes may come.
        settings: ``attention`` and ``checkpointing`` as in a recipe under ``model``.
        out_feature: what the map is called.

    Raises:
        MaeBenchError: the backbone cannot be loaded, or is no plain ViT.
    """
    trunk = supplied() or trunk_of(loaded(spec, seed, drop_path), settings, canvas, "simple")
    made: nn.Module = kind()(trunk, [out_feature])
    return made


def four(
    *,
    spec: str,
    seed: int,
    drop_path: float,
    canvas: Sequence[int],
    settings: Mapping[str, Any],
    out_features: Sequence[str],
) -> nn.Module:
    """The target of ``backbone.bottom_up``: four maps for a feature pyramid network.

    Of a plain ViT those of four blocks, enlarged four times and twice, kept, and halved.

    Args:
        out_features: what the maps are called, from the finest on.

    Other arguments and errors as for `flat`.
    """
    trunk = supplied() or trunk_of(loaded(spec, seed, drop_path), settings, canvas, "fpn")
    made: nn.Module = kind()(trunk, list(out_features))
    return made


def trunk_of(backbone: Any, settings: Mapping[str, Any], canvas: Sequence[int], pyramid: str) -> Trunk:
    """The backbone as it is built for a pyramid of a kind."""
    config = DetectorSettings.model_validate({**plain(settings), "pyramid": {"kind": pyramid}})
    height, width = canvas
    return build_trunk(backbone, config, (height, width))


@cache
def kind() -> Any:
    """The class, which derives from detectron2's and so is made when it is first needed."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import Backbone as Base

    class Maps(Base):
        """Named maps of a backbone.

        Attributes:
            body: the backbone.
            rescale: what changes the size of its maps; empty where nothing does.
        """

        def __init__(self, trunk: Trunk, names: list[str]) -> None:
            super().__init__()
            self.body, self._blocks = trunk.body, trunk.blocks
            self.rescale = getattr(trunk.pyramid, "rescale", nn.ModuleList())
            strides, widths = trunk.strides[:4], getattr(trunk.body, "widths", None)
            if len(names) == 1:
                self.rescale = nn.ModuleList()
                strides = [trunk.strides[2]]
            self._shapes = {
                name: ShapeSpec(
                    channels=trunk.body.width if widths is None else widths[index], stride=whole(stride)
                )
                for index, (name, stride) in enumerate(zip(names, strides, strict=True))
            }

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            """(B, C, h, w) -> the maps by their names."""
            maps = maps_of(self.body, self._blocks, x)
            if self.rescale:
                maps = [rescale(one) for rescale, one in zip(self.rescale, maps, strict=True)]
            return dict(zip(self._shapes, maps, strict=True))

        def output_shape(self) -> dict[str, Any]:
            return self._shapes

    return Maps
