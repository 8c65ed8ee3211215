"""What MMDetection builds its detectors with besides its own: our backbone, pyramid, norm and canvas."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as nnf

from downstream.detection.layers import ChannelNorm, draw_normal, initialise
from downstream.detection.pyramid import keeping_width
from downstream.detection.settings import DetectorSettings, PyramidSettings
from downstream.detection.trunk import build_body, build_pyramid, maps_of, plan
from downstream.openmmlab.modules import backbone_of
from mae_bench.errors import MaeBenchError

BACKBONE = "MaeBenchBackbone"
MAPS = "MaeBenchFourMaps"
PYRAMID = "MaeBenchPyramid"
NORM = "MaeBenchChannelNorm"
MASK_HEAD = "MaeBenchFCNMaskHead"
PREPROCESSOR = "MaeBenchDetDataPreprocessor"
PREDICTION_STD = 0.001
"""Of the first weights that predict boxes and masks of regions; those of classes have 0.01."""
STRIDES = [4.0, 8.0, 16.0, 32.0]
"""Of the maps that MMDetection's own configs count on."""


# Plain modules without `init_weights`: mmengine calls that of every child that has one before training, and
# so does not get as far as that of the pretrained model inside.
class DetectionBackbone(nn.Module):
    """A backbone of ours as MMDetection builds it from a config file.

    Args:
        spec: of the backbone, as `mae_bench.backbones.load_backbone` takes it.
        canvas: (height, width) in pixels of its input.
        model: attention, pyramid and checkpointing, as in a recipe's ``model``.
        drop_path: stochastic depth of the last block.
        channels: of the images.
        seed: draws the weights of an untrained backbone.

    Attributes:
        body: the backbone, changed for large images.
        blocks: the blocks of a plain ViT whose maps come out; empty for a hierarchical backbone.
        widths, strides: of the maps, as in `downstream.detection.trunk.Plan`.
        departures: what of the settings the backbone does not allow, a sentence each.
        digest: of the backbone's weights as they were loaded.
    """

    def __init__(
        self,
        spec: str,
        canvas: Sequence[int],
        model: Mapping[str, Any],
        drop_path: float = 0.0,
        channels: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        backbone = backbone_of(spec, drop_path=drop_path, channels=channels, seed=seed)
        height, width = canvas
        settings = DetectorSettings.model_validate(plain(model))
        self.blocks, self.widths, self.strides, _ = plan(backbone, settings, (height, width))
        self.digest = backbone.digest
        self.body = build_body(backbone, settings, (height, width))
        self.departures: list[str] = list(getattr(self.body, "departures", ()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (B, C, H, W) -> the maps (B, D, h, w) that the pyramid takes."""
        return tuple(maps_of(self.body, self.blocks, images))

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once: embeddings, blocks in depth order, then the rest."""
        own: list[list[str]] = self.body.layer_names()  # type: ignore[operator]
        return [[f"body.{name}" for name in layer] for layer in own]

    def no_weight_decay(self) -> set[str]:
        """Names of positions, class token and registers."""
        own: set[str] = self.body.no_weight_decay()  # type: ignore[operator]
        return {f"body.{name}" for name in own}


class FourMaps(DetectionBackbone):
    """Maps of strides 4 to 32 for the necks that MMDetection's own configs have.

    Those of a hierarchical backbone are as they come; of a plain ViT those of four blocks are enlarged four
    times and twice, kept, and halved.

    Args:
        out_indices: which of the four maps come out, from the finest on.
        others: of `DetectionBackbone`.

    Raises:
        MaeBenchError: the maps have other strides.
    """

    def __init__(self, spec: str, out_indices: Sequence[int] = (0, 1, 2, 3), **others: Any) -> None:
        model = {**plain(others.pop("model")), "pyramid": {"kind": "fpn"}}
        super().__init__(spec, model=model, **others)
        self.chosen = [int(index) for index in out_indices]
        changes = keeping_width(self.widths[0]) if self.blocks else None
        self.rescale = nn.ModuleList([changes[index] for index in self.chosen] if changes is not None else [])
        self.widths = [self.widths[index] for index in self.chosen]
        if self.strides[:4] != STRIDES:
            shown = ", ".join(f"{stride:g}" for stride in self.strides[:4])
            raise MaeBenchError(
                f"{spec} gives maps of strides {shown}; the heads of MMDetection's own configs count on 4, "
                "8, 16 and 32"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (B, C, H, W) -> maps (B, D, H/4, W/4) and so on, float32."""
        maps = super().forward(images)
        maps = tuple(maps[index] for index in self.chosen)
        if self.rescale:
            maps = tuple(rescale(one) for rescale, one in zip(self.rescale, maps, strict=True))
        return tuple(one.float() for one in maps)

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once, as in `DetectionBackbone`."""
        layers = super().layer_names()
        layers[-1] += [name for name, _ in self.named_parameters() if not name.startswith("body.")]
        return layers


class DetectionPyramid(nn.Module):
    """A feature pyramid of ours as MMDetection's neck: five levels.

    Args:
        widths: channels of the backbone's maps, from the finest on.
        flat: the maps are all of one size.
        kind, channels, norm: as in a recipe's ``model.pyramid``.
    """

    def __init__(self, widths: Sequence[int], flat: bool, kind: str, channels: int, norm: str) -> None:
        super().__init__()
        settings = PyramidSettings.model_validate({"kind": kind, "channels": channels, "norm": norm})
        self.pyramid = build_pyramid(list(widths), settings, flat=flat)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The backbone's maps -> p2 to p6 (B, C, h, w), float32.

        In low precision MMDetection would round the corners of regions as well.
        """
        return tuple(level.float() for level in self.pyramid(maps))


def plain(value: Any) -> Any:
    """Values of a config file as plain dictionaries and lists: mmengine's are classes of its own."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


@functools.cache
def register_models() -> None:
    """Make backbone, pyramid, norm, mask head and preprocessor known to MMDetection, by the names above."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmdet.models.roi_heads.mask_heads import FCNMaskHead
    from mmdet.registry import MODELS

    class MaskHead(FCNMaskHead):
        """MMDetection's own, whose first predictions are as near to nothing as ours."""

        def __init__(self, **values: Any) -> None:
            super().__init__(**values)
            self._begin()  # MMDetection's own beginning does not reach the mask heads of a cascade

        def init_weights(self) -> None:
            """As MMDetection's, but for the last layer."""
            super().init_weights()
            self._begin()

        def _begin(self) -> None:
            initialise(self.upsample, "he")
            draw_normal(self.conv_logits, PREDICTION_STD)

    class CanvasPreprocessor(DetDataPreprocessor):
        """MMDetection's own, with every image on a canvas of one size, in training and in testing.

        Args:
            canvas: (height, width) in pixels; the rest of it, right and below, is `pad_value`.
            others: of MMDetection's class.
        """

        def __init__(self, canvas: Sequence[int], **others: Any) -> None:
            super().__init__(**others)
            self.canvas: tuple[int, int] = (canvas[0], canvas[1])

        def _get_pad_shape(self, data: dict[str, Any]) -> list[tuple[int, int]]:
            for image in data["inputs"]:
                fits_canvas(image, self.canvas)
            return [self.canvas] * len(data["inputs"])

        def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
            """As MMDetection's, and then up to the canvas."""
            ready: dict[str, Any] = super().forward(data, training)
            images = ready["inputs"]
            more = self.canvas[0] - images.shape[-2], self.canvas[1] - images.shape[-1]
            ready["inputs"] = nnf.pad(images, (0, more[1], 0, more[0]), value=self.pad_value)
            for sample in ready["data_samples"] or ():
                sample.set_metainfo({"batch_input_shape": self.canvas})
            return ready

    MODELS.register_module(name=BACKBONE, module=DetectionBackbone)
    MODELS.register_module(name=MAPS, module=FourMaps)
    MODELS.register_module(name=PYRAMID, module=DetectionPyramid)
    MODELS.register_module(name=NORM, module=ChannelNorm)
    MODELS.register_module(name=MASK_HEAD, module=MaskHead)
    MODELS.register_module(name=PREPROCESSOR, module=CanvasPreprocessor)


def fits_canvas(image: Tensor, canvas: tuple[int, int]) -> None:
    """Raise MaeBenchError if an image (C, h, w) is larger than the canvas."""
    if image.shape[-2] > canvas[0] or image.shape[-1] > canvas[1]:
        raise MaeBenchError(
            f"an image of {image.shape[-2]}x{image.shape[-1]} pixels does not fit on the canvas of "
            f"{canvas[0]}x{canvas[1]}; resize it, or enlarge data.image_size"
        )
