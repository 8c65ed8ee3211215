"""The model types of Hugging Face transformers that are plain ViTs, and what each makes of its config.

What a ``config.json`` leaves out is what transformers takes: the values of its configuration classes, here
those of transformers 5.24.0 (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mae_bench.backbones.formats import transformers as formats
from mae_bench.backbones.formats.spelling import Spelling
from mae_bench.backbones.huggingface_values import Values


@dataclass
class Facts:
    """What a model type adds to the sizes that all have.

    Attributes:
        archs: timm's names to look for, with ``{size}``, ``{patch}`` and ``{image}``; timm has the last.
        arguments: of timm's architecture.
        activation: of the MLPs.
        notes: what is worth knowing of it, a sentence each.
    """

    archs: list[str]
    arguments: dict[str, Any]
    activation: str
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """A model type of transformers.

    Attributes:
        spelling: how its weights are spelled.
        facts: what it adds to the sizes.
        defaults: what transformers takes where the config leaves it out.
    """

    spelling: Spelling
    facts: Callable[[Values], Facts]
    defaults: Mapping[str, Any]


def ratio_for(hidden: int, width: int) -> float:
    """A ratio that timm, which rounds down, turns into just `hidden`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _vit(values: Values) -> Facts:
    arguments = {
        "mlp_ratio": ratio_for(values.count("intermediate_size"), values.count("hidden_size")),
        "qkv_bias": values.flag("qkv_bias"),
    }
    archs = ["vit_{size}_patch{patch}_{image}", "vit_{size}_patch{patch}_224", "vit_base_patch16_224"]
    return Facts(archs, arguments, str(values.get("hidden_act")))


def _deit(values: Values) -> Facts:
    facts = _vit(values)
    # timm's plain ViT has no distillation token; a register that has a position of its own is the same.
    facts.arguments["reg_tokens"] = 1
    return facts


def _ijepa(values: Values) -> Facts:
    facts = _vit(values)
    facts.arguments["class_token"] = False
    facts.archs.insert(0, "vit_{size}_patch{patch}_gap_{image}")
    return facts


def _dinov2(values: Values) -> Facts:
    """With SwiGLU two thirds of the MLP's width, up to a multiple of 8, twice: values and gates."""
    width = values.count("hidden_size")
    hidden = int(width * values.number("mlp_ratio"))
    registers = values.get("num_register_tokens") is not None
    middle = "reg4_dinov2" if registers else "dinov2"
    archs = [f"vit_{{size}}_patch{{patch}}_{middle}", f"vit_base_patch14_{middle}"]
    activation = str(values.get("hidden_act"))
    if values.flag("use_swiglu_ffn"):
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
        archs, activation = [f"vit_giant_patch14_{middle}"], "silu"
    arguments: dict[str, Any] = {
        "mlp_ratio": ratio_for(hidden, width),
        "qkv_bias": values.flag("qkv_bias"),
        # Its value is overwritten by the weights; 0 would leave LayerScale out.
        "init_values": values.number("layerscale_value") or 1.0,
    }
    if registers:
        arguments |= {"reg_tokens": values.count("num_register_tokens"), "no_embed_class": True}
    return Facts(archs, arguments, activation)


def _dinov3(values: Values) -> Facts:
    biased = values.flag("query_bias")
    values.require(
        {"key_bias": False, "value_bias": biased, "proj_bias": True, "mlp_bias": True}, "the class Eva"
    )
    arguments: dict[str, Any] = {
        "mlp_ratio": ratio_for(values.count("intermediate_size"), values.count("hidden_size")),
        "qkv_bias": biased,
        "init_values": values.number("layerscale_value") or 1.0,
        "num_reg_tokens": values.count("num_register_tokens", least=0),
        "rope_temperature": values.number("rope_theta"),
    }
    gated = values.flag("use_gated_mlp")
    plus = ["vit_{size}_plus_patch{patch}_dinov3"] if gated else []
    archs = [*plus, "vit_{size}_patch{patch}_dinov3", "vit_base_patch16_dinov3"]
    # timm rounds a gated MLP's width up to a multiple; of 1 it is left as it is, and gates stay apart.
    arguments |= {"swiglu_mlp": gated, "swiglu_align_to": 1 if gated else 0}
    return Facts(archs, arguments, str(values.get("hidden_act")))


def _beit(values: Values) -> Facts:
    arguments = {
        "mlp_ratio": ratio_for(values.count("intermediate_size"), values.count("hidden_size")),
        "qkv_bias": True,
        "init_values": values.number("layer_scale_init_value"),  # 0 leaves LayerScale out, as there
        "use_abs_pos_emb": values.flag("use_absolute_position_embeddings"),
        "use_rel_pos_bias": values.flag("use_relative_position_bias"),
        "use_shared_rel_pos_bias": values.flag("use_shared_relative_position_bias"),
    }
    archs = ["beit_{size}_patch{patch}_{image}", "beit_{size}_patch{patch}_224", "beit_base_patch16_224"]
    return Facts(archs, arguments, str(values.get("hidden_act")))


def _clip(values: Values) -> Facts:
    activation = str(values.get("hidden_act"))
    quick = "_quickgelu" if activation == "quick_gelu" else ""
    archs = [f"vit_{{size}}_patch{{patch}}_clip{quick}_{size}" for size in ("{image}", "224")]
    arguments = {
        "mlp_ratio": ratio_for(values.count("intermediate_size"), values.count("hidden_size")),
        "pre_norm": True,
    }
    return Facts([*archs, f"vit_base_patch32_clip{quick}_224"], arguments, activation)


def _siglip(values: Values) -> Facts:
    archs = [f"vit_{{size}}_patch{{patch}}_siglip_{size}" for size in ("{image}", "224", "256")]
    arguments = {
        "mlp_ratio": ratio_for(values.count("intermediate_size"), values.count("hidden_size")),
        "class_token": False,
    }
    return Facts([*archs, "vit_base_patch16_siglip_224"], arguments, str(values.get("hidden_act")))


def _siglip2(values: Values) -> Facts:
    facts = _siglip(values)
    facts.notes.append(
        "the model is made for images of any shape, to which transformers fits its positions linearly; here "
        "that is done bicubically, so the two differ except at the size for which the positions stand"
    )
    return facts


_VIT = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
_DINOV2 = {
    **{key: value for key, value in _VIT.items() if key != "intermediate_size"},
    "layer_norm_eps": 1e-6,
    "patch_size": 14,
    "mlp_ratio": 4,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
}
_DINOV3 = {
    **{key: value for key, value in _VIT.items() if key != "qkv_bias"},
    "hidden_size": 384,
    "num_attention_heads": 6,
    "intermediate_size": 1536,
    "layer_norm_eps": 1e-5,
    "layerscale_value": 1.0,
    "num_register_tokens": 0,
    "rope_theta": 100.0,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
}
_BEIT = {
    **{key: value for key, value in _VIT.items() if key != "qkv_bias"},
    "layer_scale_init_value": 0.1,
    "use_absolute_position_embeddings": False,
    "use_relative_position_bias": False,
    "use_shared_relative_position_bias": False,
}
_CLIP = {
    **{key: value for key, value in _VIT.items() if key != "qkv_bias"},
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "patch_size": 32,
}
_SIGLIP = {**_CLIP, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "patch_size": 16}
_SIGLIP2 = {**{key: value for key, value in _SIGLIP.items() if key != "image_size"}, "num_patches": 256}

KINDS: dict[str, Kind] = {
    "vit": Kind(formats.VIT, _vit, _VIT),
    "deit": Kind(formats.VIT, _deit, _VIT),
    "vit_mae": Kind(formats.VIT, _vit, _VIT),
    "vit_msn": Kind(formats.VIT, _vit, {**_VIT, "layer_norm_eps": 1e-6}),
    "ijepa": Kind(formats.VIT, _ijepa, _VIT),
    "dinov2": Kind(formats.DINOV2, _dinov2, _DINOV2),
    "dinov2_with_registers": Kind(
        formats.DINOV2, _dinov2, {**_DINOV2, "patch_size": 16, "num_register_tokens": 4}
    ),
    "dinov3_vit": Kind(formats.DINOV3, _dinov3, _DINOV3),
    "beit": Kind(formats.BEIT, _beit, _BEIT),
    "data2vec-vision": Kind(formats.BEIT, _beit, _BEIT),
    "clip": Kind(formats.CLIP, _clip, _CLIP),
    "clip_vision_model": Kind(formats.CLIP, _clip, _CLIP),
    "siglip": Kind(formats.SIGLIP, _siglip, _SIGLIP),
    "siglip_vision_model": Kind(formats.SIGLIP, _siglip, _SIGLIP),
    "siglip2": Kind(formats.SIGLIP2, _siglip2, _SIGLIP2),
    "siglip2_vision_model": Kind(formats.SIGLIP2, _siglip2, _SIGLIP2),
}
"""Model type of transformers -> what is known of it."""
