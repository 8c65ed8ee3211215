"""Our backbone and pyramid as a backbone of detectron2, which configurations name as their target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as nnf

from downstream.detection.layers import ChannelNorm
from downstream.detection.settings import DetectorSettings
from downstream.detection.trunk import Trunk, build_trunk, maps_of
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from mae_bench.backbones import Backbone

LEVELS = ("p2", "p3", "p4", "p5", "p6")

_supplied: ContextVar[Trunk | None] = ContextVar("_supplied", default=None)


@contextmanager
def supplying(trunk: Trunk) -> Iterator[None]:
    """Let `pyramid` take `trunk`, which a run of ours has loaded and reported on, instead of loading one."""
    token = _supplied.set(trunk)
    try:
        yield
    finally:
        _supplied.reset(token)


def supplied() -> Trunk | None:
    """What `supplying` offers; None: a backbone has to be loaded."""
    return _supplied.get()


def pyramid(
    *,
    spec: str,
    seed: int,
    drop_path: float,
    canvas: Sequence[int],
    settings: Mapping[str, Any],
) -> nn.Module:
    """The target of ``model.backbone``: from normalised images (B, 3, h, w) to the maps p2 to p6, float32.

    Args:
        spec: of the backbone, see `mae_bench.backbones.load_backbone`.
        seed: of what is drawn in it at random.
        drop_path: stochastic depth of the last block.
        canvas: height and width to which images are padded, right and below.
        settings: ``attention``, ``pyramid`` and ``checkpointing`` as in a recipe under ``model``.

    Raises:
        MaeBenchError: the backbone cannot be loaded, or does not fit the settings.
    """
    config = DetectorSettings.model_validate(plain(settings))
    height, width = canvas
    trunk = supplied() or build_trunk(loaded(spec, seed, drop_path), config, (height, width))
    made: nn.Module = _kind()(trunk, config.pyramid.channels, (height, width))
    return made


def plain(values: Any) -> Any:
    """Values of a configuration without detectron2's own types of dictionaries and lists."""
    if isinstance(values, Mapping):
        return {str(key): plain(value) for key, value in values.items()}
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [plain(value) for value in values]
    return values


def loaded(spec: str, seed: int, drop_path: float) -> Backbone:
    """The backbone that a configuration names, for detectron2's own tools."""
    from mae_bench.backbones import load_backbone

    return load_backbone(spec, seed=seed, drop_path=drop_path, channels=3)


class Grouped:
    """A model of detectron2 as `mae_bench.optim.parameter_groups` wants it: it names layers and exceptions.

    Args:
        model: with a backbone made here.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.named_parameters = model.named_parameters
        self.named_modules = model.named_modules
        self._prefix = "backbone.body."
        self._body: Any = model.get_submodule("backbone.body")

    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once: by the backbone's layers, and in the last all others as well."""
        own: list[list[str]] = self._body.layer_names()
        layers = [[f"{self._prefix}{name}" for name in layer] for layer in own]
        others = (name for name, _ in self._model.named_parameters() if not name.startswith(self._prefix))
        layers[-1] += others
        return layers

    def no_weight_decay(self) -> set[str]:
        """Names of the backbone's positions, class token and registers."""
        own: set[str] = self._body.no_weight_decay()
        return {f"{self._prefix}{name}" for name in own}

    def weight_decay_anyway(self) -> set[str]:
        """Names of the gains and biases of layer norms over channels, which detectron2 takes for no norms."""
        from detectron2.layers.batch_norm import LayerNorm

        return {
            f"{prefix}.{name}"
            for prefix, module in self._model.named_modules()
            if isinstance(module, ChannelNorm | LayerNorm)
            for name, _ in module.named_parameters()
        }


@cache
def _kind() -> Any:
    """The class, which derives from detectron2's and so is made when it is first needed."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import Backbone as Base

    class Pyramid(Base):
        """Backbone and pyramid over one canvas.

        Attributes:
            body: the backbone.
            pyramid: from its maps to p2 to p6.
        """

        def __init__(self, trunk: Trunk, channels: int, canvas: tuple[int, int]) -> None:
            super().__init__()
            self.body, self.pyramid, self._blocks = trunk.body, trunk.pyramid, trunk.blocks
            self._canvas = canvas
            self._shapes = {
                name: ShapeSpec(channels=channels, stride=whole(stride))
                for name, stride in zip(LEVELS, trunk.strides, strict=True)
            }

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            """(B, C, h, w) no larger than the canvas -> five maps of the canvas.

            They are float32 under autocast too: detectron2's pooling gives boxes the type of the maps, and
            in bf16 a box of 300 pixels is placed to the nearest two.
            """
            (height, width), (h, w) = self._canvas, x.shape[-2:]
            if h > height or w > width:
                raise MaeBenchError(
                    f"an image of {h}x{w} pixels does not fit on the canvas of {height}x{width}; resize it, "
                    "or enlarge data.image_size"
                )
            x = nnf.pad(x, (0, width - w, 0, height - h))
            levels = self.pyramid(maps_of(self.body, self._blocks, x))
            return {name: level.float() for name, level in zip(LEVELS, levels, strict=True)}

        def output_shape(self) -> dict[str, Any]:
            return self._shapes

    return Pyramid


def whole(number: float) -> int | float:
    """The same as an integer where it is one."""
    return int(number) if float(number).is_integer() else number
