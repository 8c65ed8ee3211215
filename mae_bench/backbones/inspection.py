"""What `mae-bench check --backbone` tells: the load report, what the backbone can do, one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from mae_bench.backbones.hierarchical import HierarchicalBackbone
from mae_bench.backbones.loading import load_backbone
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.surface import Backbone
from mae_bench.errors import MaeBenchError


def inspect(spec: str) -> tuple[list[str], LoadReport]:
    """Load a backbone, send one image of its own size through it, and tell of both.

    Returns:
        Lines for a person, and the load report.

    Raises:
        MaeBenchError: it cannot be loaded, or gives values that are not finite.
    """
    backbone = load_backbone(spec).eval()
    told = [("family", _build(backbone)), ("can", _abilities(backbone)), ("forward", _forward(backbone))]
    return backbone.report.lines(*told), backbone.report


def _build(backbone: Backbone) -> str:
    family = f"{backbone.family}: {backbone.depth} blocks"
    if isinstance(backbone, HierarchicalBackbone):
        widths, strides = (" ".join(map(str, values)) for values in (backbone.widths, backbone.strides))
        return f"{family}, maps {widths} wide at strides {strides}"
    own = int(backbone.has_class_token)
    others = backbone.prefix_tokens - own
    tokens = ["a class token"] * own + ([f"{others} other prefix tokens"] if others else [])
    patch = "x".join(map(str, backbone.patch_size))
    return (
        f"{family}, {backbone.width} wide, patches of {patch}, {' and '.join(tokens) or 'no prefix tokens'}"
    )


def _abilities(backbone: Backbone) -> str:
    sorts = ["maps of four resolutions"] if backbone.hierarchical else ["tokens", "maps of one resolution"]
    asked = {"attention in windows": backbone.windows, "freezing of half a block": backbone.halves}
    without = [name for name, able in asked.items() if not able]
    told = ", ".join([*sorts, *(name for name, able in asked.items() if able)])
    return f"{told}; without {', '.join(without)}" if without else told


def _forward(backbone: Backbone) -> str:
    """Shapes of what comes of one image."""
    # timm's own sizes are not always divided by the coarsest stride.
    sides = zip(backbone.image_size, backbone.patch_size, strict=True)
    height, width = (-(-side // cell) * cell for side, cell in sides)
    shape = (1, backbone.channels, height, width)
    images = torch.linspace(-2, 2, torch.Size(shape).numel()).reshape(shape)
    with torch.no_grad():
        prefix, patches = backbone.tokens(images)
        maps = backbone.pyramid(images) if isinstance(backbone, HierarchicalBackbone) else []
    if not all(bool(torch.isfinite(out).all()) for out in (prefix, patches, *maps)):
        raise MaeBenchError(f"{backbone.spec}: its output is not finite; the weights are damaged")
    parts = [f"prefix {_shape(prefix)}", f"patches {_shape(patches)}"]
    parts += [f"maps {', '.join(_shape(level) for level in maps)}"] if maps else []
    return f"{_shape(images)} -> {', '.join(parts)}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
