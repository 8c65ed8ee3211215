"""From a network to the backbone of its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mae_bench.backbones import others
from mae_bench.backbones.architecture import is_plain
from mae_bench.backbones.plain import KINDS, ViTBackbone
from mae_bench.backbones.report import LoadReport
from mae_bench.backbones.surface import Backbone

# In the words of the architecture's name -> family, for classes that several families share.
_BY_NAME: dict[type[nn.Module], list[tuple[str, str]]] = {
    VisionTransformer: [
        ("dinov2", "DINOv2"),
        ("deit3", "DeiT III"),
        ("siglip", "SigLIP"),
        ("clip", "CLIP"),
        ("aimv2", "AIMv2"),
    ],
    Eva: [("dinov3", "DINOv3"), ("eva", "EVA")],
    Beit: [("beitv2", "BEiT v2")],
    ConvNeXt: [("convnextv2", "ConvNeXt V2")],
}
_BY_CLASS: dict[type[nn.Module], str] = {
    VisionTransformer: "ViT",
    Beit: "BEiT",
    Eva: "ViT with rotary positions",
    Hiera: "Hiera",
    SwinTransformer: "Swin",
    SwinTransformerV2: "Swin V2",
    ConvNeXt: "ConvNeXt",
    ResNet: "ResNet",
}


def family_of(net: nn.Module, arch: str) -> str:
    """The name of a network's family, as `mae-bench list backbones` has it."""
    for part, family in _BY_NAME.get(type(net), []):
        if part in arch:
            return family
    return _BY_CLASS.get(type(net), type(net).__name__)


def wrap(
    net: nn.Module,
    *,
    spec: str,
    arch: str,
    report: LoadReport,
    model_args: Mapping[str, Any] | None = None,
    pretraining: Mapping[str, Any] | None = None,
) -> Backbone:
    """One of timm's networks as a backbone.

    Args:
        net: an encoder of `architecture.build`, or a network of `others.build`, with its weights.
        report: of loading them, with normalisation and image size.
    """
    family = family_of(net, arch)
    if is_plain(net):
        kind = KINDS.get(type(net), ViTBackbone)
        return kind(
            cast(Any, net),
            spec=spec,
            arch=arch,
            family=family,
            report=report,
            model_args=model_args,
            pretraining=pretraining,
        )
    return others.wrap(net, spec=spec, arch=arch, family=family, report=report)
