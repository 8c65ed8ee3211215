"""A Hugging Face ``config.json`` as one of timm's plain ViTs: architecture, arguments, norms, activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from timm.layers import QuickGELU
from torch import nn

from mae_bench.backbones.architecture import Plain
from mae_bench.backbones.formats.spelling import Spelling
from mae_bench.backbones.huggingface_kinds import KINDS, Kind
from mae_bench.backbones.huggingface_values import Values
from mae_bench.errors import MaeBenchError, near

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": lambda: nn.GELU(approximate="tanh"),
    "gelu_pytorch_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
# Width, depth and heads of the sizes that have a name in timm.
_SIZES = {
    (192, 12, 3): "tiny",
    (384, 12, 6): "small",
    (768, 12, 12): "base",
    (1024, 24, 16): "large",
    (1280, 32, 16): "huge",
    (1280, 32, 20): "huge",
    (1152, 27, 16): "so400m",
    (1408, 40, 16): "giant",
    (1536, 40, 16): "giantopt",
    (1536, 40, 24): "giant",
    (1664, 48, 16): "gigantic",
    (4096, 40, 32): "7b",
}
# Model types that are no plain ViTs -> what timm has of them.
_ELSEWHERE = {
    "convnext": "timm:convnext_base.fb_in22k",
    "convnextv2": "timm:convnextv2_base.fcmae",
    "dinov3_convnext": "timm:convnext_base.dinov3_lvd1689m",
    "hiera": "timm:hiera_base_224.mae",
    "resnet": "timm:resnet50.a1_in1k",
    "swin": "timm:swin_base_patch4_window7_224.ms_in22k",
    "swinv2": "timm:swinv2_base_window12_192.ms_in22k",
}


@dataclass(frozen=True)
class Described:
    """What a ``config.json`` describes.

    Attributes:
        spelling: how the weights are spelled.
        arch: timm's architecture, of which `arguments` settle every size.
        arguments: of `architecture.build`.
        channels: image channels.
        epsilon: of every LayerNorm.
        activation: of every MLP, as transformers calls it.
        notes: what is worth knowing of it, a sentence each.
    """

    spelling: Spelling
    arch: str
    arguments: dict[str, Any]
    channels: int
    epsilon: float
    activation: str
    notes: list[str] = field(default_factory=list)

    def settle(self, net: Plain) -> None:
        """Give a network the epsilon of its norms and the activation of its MLPs, which timm's names fix."""
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.epsilon
        blocks: Any = net.blocks
        for block in blocks:
            block.mlp.act = _ACTIVATIONS[self.activation]()


def describe(config: Mapping[str, Any], where: str) -> Described:
    """What a ``config.json`` describes.

    Args:
        where: the file, for messages.

    Raises:
        MaeBenchError: it is of a model type that is no plain ViT or not known, or has values that timm's
            architectures cannot have.
    """
    kind = _kind_of(config, where)
    given = config
    if any(isinstance(config.get(key), Mapping) for key in ("vision_config", "vision_config_dict")):
        # Where a file still has the older `vision_config_dict`, transformers lets it win.
        given = {**(config.get("vision_config") or {}), **(config.get("vision_config_dict") or {})}
    values = Values(given, kind.defaults, where)
    shapes, notes = _shapes(values)
    facts = kind.facts(values)
    if facts.activation not in _ACTIVATIONS:
        raise MaeBenchError(
            f"{where}: the activation '{facts.activation}' is not known here, only {', '.join(_ACTIVATIONS)}"
        )
    arguments = {**shapes, **facts.arguments}
    notes += facts.notes
    described = Described(
        spelling=kind.spelling,
        arch=_arch(facts.archs, arguments),
        arguments=arguments,
        channels=values.count("num_channels"),
        epsilon=values.number("layer_norm_eps"),
        activation=facts.activation,
        notes=notes,
    )
    if values.left_out:
        notes.append(f"config.json leaves out {', '.join(values.left_out)}; transformers' defaults are taken")
    return described


def _kind_of(config: Mapping[str, Any], where: str) -> Kind:
    name = config.get("model_type")
    if isinstance(config.get("architecture"), str):
        raise MaeBenchError(f"{where} describes a model of timm; load it with timm:hf-hub:OWNER/NAME")
    if not isinstance(name, str):
        raise MaeBenchError(f"{where} has no model_type, so it does not describe a model of transformers")
    if name in _ELSEWHERE:
        raise MaeBenchError(
            f"{where}: '{name}' is no plain ViT, and hf: loads those alone; timm has such networks, for "
            f"example {_ELSEWHERE[name]}"
        )
    if name not in KINDS:
        own = " (code that comes with a model is never run)" if config.get("auto_map") else ""
        hint = near(name, KINDS).removesuffix("?")
        raise MaeBenchError(
            f"{where}: the model type '{name}' is not known{own}{hint}; known are {', '.join(KINDS)}; any "
            "other can be loaded with python:PACKAGE.MODULE:FACTORY"
        )
    return KINDS[name]


def _shapes(values: Values) -> tuple[dict[str, Any], list[str]]:
    """The sizes that all types have, and what there is to say of them."""
    patch = values.pair("patch_size")
    if values.get("num_patches") is not None:
        side = round(values.count("num_patches") ** 0.5)
        image = (side * patch[0], side * patch[1])
    else:
        image = values.pair("image_size")
    width, heads = values.count("hidden_size"), values.count("num_attention_heads")
    if width % heads or values.get("head_dim") not in (None, width // heads):
        raise MaeBenchError(
            f"{values.where}: timm's heads share hidden_size evenly, which {heads} heads"
            f"{' of ' + str(values.get('head_dim')) if values.get('head_dim') else ''} of {width} do not"
        )
    # transformers' patch embedding leaves out what a last patch would not fill.
    height, breadth = (max(side // cell, 1) * cell for side, cell in zip(image, patch, strict=True))
    notes = []
    if (height, breadth) != image:
        notes.append(
            f"the patches do not fill its images of {image[0]}x{image[1]} pixels; here they are "
            f"{height}x{breadth}, which the model sees of them"
        )
    sizes = {
        "img_size": (height, breadth),
        "patch_size": patch[0] if patch[0] == patch[1] else patch,
        "embed_dim": width,
        "depth": values.count("num_hidden_layers"),
        "num_heads": heads,
    }
    return sizes, notes


def _arch(names: list[str], arguments: Mapping[str, Any]) -> str:
    """The first of the names that timm has. It tells the size to people; the arguments settle it."""
    size = _SIZES.get((arguments["embed_dim"], arguments["depth"], arguments["num_heads"]), "")
    options = {"size": size, "patch": arguments["patch_size"], "image": arguments["img_size"][0]}
    return next(arch for arch in (name.format(**options) for name in names) if timm.is_model(arch))
