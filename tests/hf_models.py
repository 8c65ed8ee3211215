"""Tiny models of Hugging Face transformers with lively weights, in a folder and in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError

# Progress bars and advice go to the screen of every test otherwise.
logging.set_verbosity_error()
logging.disable_progress_bar()

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
# A norm's epsilon and an MLP's width as no architecture of timm has them, so that a wrong one is seen.
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 52,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 0.02,
}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}


@dataclass(frozen=True)
class Case:
    """A model of transformers.

    Attributes:
        model, config: their classes' names.
        changes: of the config, against `SIZES`.
        tower: the attribute that is the encoder; "" for the model itself.
        bare: the class of an encoder without head, for the way back.
        resampled: the class's resampling of positions is without antialiasing (`plain`), with it as ours
            (`antialiased`), of its own (`own`), or there is nothing to resample (`rotary`).
    """

    model: str
    config: str
    changes: dict[str, Any]
    tower: str = ""
    bare: str = ""
    resampled: str = "plain"


_SHARED = {"use_shared_relative_position_bias": True, "use_mask_token": True, "use_mean_pooling": False}
_OWN = {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}
CASES: dict[str, Case] = {
    "vit": Case("ViTForImageClassification", "ViTConfig", {}, "vit", "ViTModel"),
    "vit-pooler": Case("ViTModel", "ViTConfig", {"qkv_bias": False, "hidden_act": "relu"}, "", "ViTModel"),
    "vit-mim": Case("ViTForMaskedImageModeling", "ViTConfig", {"encoder_stride": 8}, "vit", "ViTModel"),
    "deit": Case("DeiTForImageClassificationWithTeacher", "DeiTConfig", {}, "deit", "DeiTModel"),
    "vit_mae": Case(
        "ViTMAEForPreTraining", "ViTMAEConfig", {**_DECODER, "mask_ratio": 0.0}, "vit", "ViTMAEModel"
    ),
    "vit_msn": Case("ViTMSNModel", "ViTMSNConfig", {"hidden_act": "gelu_new"}, "", "ViTMSNModel"),
    "ijepa": Case("IJepaModel", "IJepaConfig", {}, "", "IJepaModel"),
    "dinov2": Case("Dinov2ForImageClassification", "Dinov2Config", {"mlp_ratio": 3}, "dinov2", "Dinov2Model"),
    "dinov2-swiglu": Case("Dinov2Model", "Dinov2Config", {"use_swiglu_ffn": True}, "", "Dinov2Model"),
    "dinov2_with_registers": Case(
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"num_register_tokens": 3},
        "",
        "Dinov2WithRegistersModel",
        "antialiased",
    ),
    "dinov3_vit": Case(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {"num_register_tokens": 4, "rope_theta": 50.0},
        "",
        "DINOv3ViTModel",
        "rotary",
    ),
    "dinov3_vit-gated": Case(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {"use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
        "",
        "DINOv3ViTModel",
        "rotary",
    ),
    "beit": Case(
        "BeitForMaskedImageModeling", "BeitConfig", {**_SHARED, "vocab_size": 10}, "beit", "BeitModel", "own"
    ),
    "beit-classifier": Case("BeitForImageClassification", "BeitConfig", _OWN, "beit", "", "own"),
    "beit-absolute": Case(
        "BeitModel",
        "BeitConfig",
        {"use_absolute_position_embeddings": True, "use_mean_pooling": False, "layer_scale_init_value": 0.0},
        "",
        "BeitModel",
    ),
    "data2vec-vision": Case(
        "Data2VecVisionModel", "Data2VecVisionConfig", _OWN, "", "Data2VecVisionModel", "own"
    ),
    "clip": Case("CLIPModel", "CLIPConfig", {"hidden_act": "quick_gelu"}, "vision_model", "CLIPVisionModel"),
    "clip_vision_model": Case(
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        {"hidden_act": "gelu"},
        "vision_model",
        "CLIPVisionModel",
    ),
    "siglip": Case("SiglipModel", "SiglipConfig", {}, "vision_model", "SiglipVisionModel"),
    "siglip_vision_model": Case("SiglipVisionModel", "SiglipVisionConfig", {}, "", "SiglipVisionModel"),
    "siglip2": Case(
        "Siglip2Model", "Siglip2Config", {"num_patches": 16}, "vision_model", "Siglip2VisionModel", "own"
    ),
    "siglip2_vision_model": Case(
        "Siglip2VisionModel", "Siglip2VisionConfig", {"num_patches": 16}, "", "Siglip2VisionModel", "own"
    ),
}


def config_of(case: Case, **changes: Any) -> Any:
    """The case's config, with the towers' parts where it has two."""
    kind = getattr(transformers, case.config)
    values = {**SIZES, **case.changes, **changes}
    if "num_patches" in values:
        del values["image_size"]
    if case.config.startswith("Dinov2"):
        del values["intermediate_size"]
    if case.config in ("CLIPConfig", "SiglipConfig", "Siglip2Config"):
        text = {**_TEXT, "projection_size": 16} if case.config != "CLIPConfig" else _TEXT
        return kind(vision_config=values, text_config=text)
    return kind(**values)


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights drawn so that every tensor matters, class tokens, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.ndim > 1 else 0.5
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def made(case: Case, folder: Path, **changes: Any) -> nn.Module:
    """A lively model of the case, saved in the folder together with its image processor."""
    model: Any = lively(getattr(transformers, case.model)(config_of(case, **changes)))
    model.save_pretrained(folder)
    write_processor(folder)
    return model


def write_processor(folder: Path, **changes: Any) -> None:
    values = {
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, **changes}))


@torch.no_grad()
def features(
    case: Case, model: Any, images: Tensor, *, other_size: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Tokens (B, P+N, D) of an encoder of transformers after its final norm, and after each block before it."""
    tower: Any = model
    for part in case.tower.split(".") if case.tower else ():
        tower = getattr(tower, part, tower)
    options: dict[str, Any] = {"output_hidden_states": True}
    if "Siglip2" in case.model:
        rows = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).flatten(3)  # (B, h, w, 8*8*3)
        options |= {
            "pixel_attention_mask": torch.ones(rows.shape[:3]).flatten(1),
            "spatial_shapes": torch.tensor([rows.shape[1:3]] * len(rows)),
        }
        images = rows.flatten(1, 2)
    elif other_size and not case.config.startswith(("Dinov2", "DINOv3", "Beit", "Data2Vec")):
        options["interpolate_pos_encoding"] = True
    if case.config == "ViTMAEConfig":
        # Masking none, it shuffles the patches all the same, by noise that is given in order here.
        count = images.shape[2] * images.shape[3] // 64
        options["noise"] = torch.arange(float(count)).expand(len(images), -1)
    out = tower(images, **options)
    last = out.last_hidden_state
    if hasattr(tower, "post_layernorm") and case.config.startswith("CLIP"):
        last = tower.post_layernorm(last)  # which transformers applies to the class token alone
    if case.model == "BeitForImageClassification":
        last = tower.pooler.layernorm(last)  # which it applies after pooling
    return last, list(out.hidden_states[1 : SIZES["num_hidden_layers"] + 1])


def antialiased(interpolate: Callable[..., Tensor] = F.interpolate) -> Callable[..., Tensor]:
    """`torch.nn.functional.interpolate`, which antialiases whatever it interpolates bicubically."""

    def wrapped(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("mode") == "bicubic":
            kwargs["antialias"] = True
        return interpolate(*args, **kwargs)

    return wrapped


def refused(spec: str, message: str) -> None:
    """Loading the backbone fails with one sentence that holds these words."""
    with pytest.raises(MaeBenchError) as caught:
        load_backbone(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
