"""One small backbone of every family, for tests that go over all of them."""

from __future__ import annotations

import warnings
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.hiera import Hiera
from torch import Tensor, nn

from mae_bench.backbones import Backbone, load_backbone

SIZE = {"embed_dim": 24, "depth": 4, "num_heads": 2, "patch_size": 4, "img_size": 16}

PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_tiny_patch16_224", {}),
    "ViT with norms of queries and keys": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "DeiT III": ("deit3_small_patch16_224", {}),
    "I-JEPA": ("vit_huge_patch14_gap_224", {}),
    "DINOv2": ("vit_small_patch14_dinov2", {}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {}),
    "DINOv2 giant": ("vit_giant_patch14_reg4_dinov2", {}),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", {}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "AIMv2": ("aimv2_large_patch14_224", {}),
    "BEiT": ("beit_base_patch16_224", {}),
    "BEiT v2": ("beitv2_base_patch16_224", {}),
    "BEiT in pretraining": (
        "beit_base_patch16_224",
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
    ),
    "BEiT with both tables": ("beit_base_patch16_224", {"use_shared_rel_pos_bias": True}),
    "CAE": ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_abs_pos_emb": True}),
    "EVA-01": ("eva_giant_patch14_224", {}),
    "EVA-02": ("eva02_tiny_patch14_224", {}),
    "EVA-02 base": ("eva02_base_patch14_224", {}),
    "DINOv3": ("vit_small_patch16_dinov3_qkvb", {}),
    "DINOv3 huge": ("vit_huge_plus_patch16_dinov3", {}),
    "PE": ("vit_pe_core_base_patch16_224", {}),
    "RoPE-ViT": ("vit_small_patch16_rope_mixed_224", {}),
    "post-norm": ("vit_base_patch16_rpn_224", {}),
}
"""Family -> timm's architecture and arguments that vary it; all have four blocks and patches of 4 pixels."""

HIERARCHICAL = {
    "ResNet": "test_resnet",
    "ConvNeXt": "test_convnext",
    "ConvNeXt V2": "test_convnext2",
    "Swin": "swin_tiny_patch4_window7_224",
    "Swin V2": "swinv2_tiny_window8_256",
    "Hiera": "hiera_tiny_224",
    "Hiera with window positions": "hiera_small_abswin_256",
    "PVT v2": "pvt_v2_b0",
}

FLAT = {"DeiT with a distillation token": "deit_tiny_distilled_patch16_224", "XCiT": "xcit_nano_12_p16_224"}


def plain(family: str, **options: Any) -> Backbone:
    """A small plain backbone with weights off timm's initial zeros and ones."""
    arch, more = PLAIN[family]
    return lively(load_backbone(f"random:{arch}", model_args={**SIZE, **more}, **options))


def other(arch: str, **options: Any) -> Backbone:
    """A hierarchical or flat backbone, likewise."""
    return lively(load_backbone(f"random:{arch}", **options))


def any_backbone(family: str, **options: Any) -> Backbone:
    """The backbone of a family, whatever its kind."""
    if family in PLAIN:
        return plain(family, **options)
    return other({**HIERARCHICAL, **FLAT}[family], **options)


ALL = [*PLAIN, *HIERARCHICAL, *FLAT]


def lively(backbone: Backbone) -> Backbone:
    """Move the weights off zeros and ones, so that each of them matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in backbone.parameters():
            param.add_(torch.randn(param.shape, generator=generator) * (0.2 if backbone.width < 64 else 0.02))
    return backbone.eval()


def timms(backbone: Backbone, family: str, size: tuple[int, int]) -> nn.Module:
    """timm's own model with the weights of `backbone`, at an image size, resized by timm's own means."""
    if family in PLAIN:
        return _timms_plain(backbone, family, size)
    arch = backbone.arch
    options: dict[str, Any] = {"num_classes": 0}
    if arch.startswith("swin"):
        options |= {"strict_img_size": False, "always_partition": True}
    elif arch.startswith("hiera"):
        options["img_size"] = size
    elif arch.startswith("deit"):
        options["dynamic_img_size"] = True
    model: Any = timm.create_model(arch, **options)
    own = model.state_dict()
    state = {}
    for name, tensor in backbone.net.state_dict().items():
        spelt = name
        if name.startswith("final_norm."):
            spelt = name.replace("final_norm", "norm" if "norm.weight" in own else "head.norm")
        state[spelt] = tensor
    if isinstance(model, Hiera) and model.pos_embed_win is None:
        grid = [side // 4 for side in size]
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"], new_size=grid, old_size=[56, 56], num_prefix_tokens=0
        )
    model.load_state_dict(state, strict=True)
    return model.eval()


def _timms_plain(backbone: Backbone, family: str, size: tuple[int, int]) -> nn.Module:
    arch, more = PLAIN[family]
    options: dict[str, Any] = {**SIZE, **more, "num_classes": 0}
    model: Any = timm.create_model(arch, **options)
    # timm keeps the norm of averaged classifiers behind the pooling.
    if isinstance(model.norm, nn.Identity):
        model.norm, model.fc_norm = model.fc_norm, nn.Identity()
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool = None
    model.load_state_dict(backbone.vit.state_dict(), strict=True)
    with warnings.catch_warnings():
        # timm's interpolation of a BEiT's tables makes torch warn.
        warnings.filterwarnings("ignore", message=r"torch\.searchsorted\(\)|Using a non-tuple sequence")
        model.set_input_size(img_size=size)
    return model.eval()


def pictures(*size: int, channels: int = 3) -> Tensor:
    """Two normalised images."""
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
