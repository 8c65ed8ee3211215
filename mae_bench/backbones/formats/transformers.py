"""Checkpoints of Hugging Face transformers' plain ViTs, recognised from their keys.

transformers spells a family's encoder in one way, whichever task's head stands on it; the task's model puts
one word before it (``vit.``, ``beit.``, ``vision_model.``). Its fifth version calls some modules otherwise
in memory, so both spellings are read; files keep the older one, which is what `Format.write` gives.

Names are those of transformers 5.24.0, whose models wrote the files that were looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from mae_bench.backbones.formats.contract import Format, State
from mae_bench.backbones.formats.spelling import Reasons, Spelling, prefix_of, read, write
from mae_bench.backbones.formats.transformers_tensors import (
    as_rows,
    as_tables,
    gates,
    kernel_of_rows,
    one_norm,
    packed,
    rows_of_kernel,
    undivided,
    unpacked,
)

_HEAD: Reasons = ((r"(cls_|distillation_)?classifier\.(weight|bias)", "head"),)
_MASK: Reasons = ((r"embeddings\.mask_token", "mask token"),)
_POOLER: Reasons = ((r"pooler\.dense\.(weight|bias)", "pooler"),)
_DECODER: Reasons = (
    (r"decoder\.0\.(weight|bias)", "decoder"),  # SimMIM's
    (r"decoder\.(mask_token|decoder_pos_embed|decoder_(embed|norm|pred)\.(weight|bias))", "decoder"),  # MAE's
    # transformers 5 writes `decoder_encoder.layer` for what MAE's decoder calls `decoder_layers`.
    (
        r"decoder\.decoder_(layers|encoder\.layer)\.\d+"
        r"\.(attention|intermediate|output|mlp|layernorm_before|layernorm_after)\..*(weight|bias)",
        "decoder",
    ),
)
_SEGMENTATION: Reasons = ((r"(decode_head|auxiliary_head|fpn[1-4]?)\..+", "segmentation head"),)
_TEXT: Reasons = (
    (r"text_model\..+", "text tower"),
    (r"(visual|text)_projection\.(weight|bias)", "projection"),
    (r"logit_(scale|bias)", "temperature of the loss"),
    (r"(vision_model\.)?embeddings\.position_ids", "buffer"),
)
_MAP_POOLING: Reasons = (
    (
        r"head\.(probe|attention\.in_proj_(weight|bias)|attention\.out_proj\.(weight|bias)"
        r"|layernorm\.(weight|bias)|mlp\.fc[12]\.(weight|bias))",
        "attention pooling",
    ),
)

_PATCHES = "embeddings.patch_embeddings.projection"
_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    _PATCHES: "patch_embed.proj",
    "layernorm": "norm",
}
_ATTENTION = {
    **{f"attention.attention.{part}": f"attn.{part}" for part in ("query", "key", "value")},
    **{f"attention.{part[0]}_proj": f"attn.{part}" for part in ("query", "key", "value")},
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
}
_VIT_BLOCK = {
    **_ATTENTION,
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
}


_TABLE = "relative_position_bias_table"
_SHARED = ("encoder.relative_position_bias", "shared_position_bias")
_OWN = ("attention.attention.relative_position_bias", "relative_position_bias")

VIT = Spelling(
    name="Hugging Face ViT (transformers)",
    layout="vit",
    kernel=f"{_PATCHES}.weight",
    blocks=("encoder.layer", "layers"),
    # timm's plain ViT has no distillation token; as a register with a position of its own it is the same.
    outside={**_EMBEDDINGS, "embeddings.distillation_token": "reg_token"},
    inside=_VIT_BLOCK,
    dropped=(*_HEAD, *_MASK, *_POOLER, *_DECODER),
)
BEIT = Spelling(
    name="Hugging Face BEiT (transformers)",
    layout="beit",
    kernel=f"{_PATCHES}.weight",
    blocks=("encoder.layer", "layers"),
    outside={
        **_EMBEDDINGS,
        "pooler.layernorm": "fc_norm",
        **{f"{place}.{_TABLE}": f"rel_pos_bias.{_TABLE}" for place in _SHARED},
    },
    inside={
        **_VIT_BLOCK,
        "lambda_1": "gamma_1",
        "lambda_2": "gamma_2",
        **{f"{place}.{_TABLE}": f"attn.{_TABLE}" for place in _OWN},
    },
    dropped=(
        *_HEAD,
        *_MASK,
        *_SEGMENTATION,
        (r"lm_head\.(weight|bias)", "head"),
        (r"(.+\.)?relative_position_index", "buffer"),
    ),
    finish=one_norm,
)
DINOV2 = Spelling(
    name="Hugging Face DINOv2 (transformers)",
    layout="vit",
    kernel=f"{_PATCHES}.weight",
    blocks=("encoder.layer",),
    outside={**_EMBEDDINGS, "embeddings.register_tokens": "reg_token"},
    inside={
        **_ATTENTION,
        "norm1": "norm1",
        "norm2": "norm2",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
        "mlp.weights_in": "mlp.packed",
        "mlp.weights_out": "mlp.unpacked",
        "mlp.gate_proj": "mlp.gate",
        "mlp.up_proj": "mlp.up",
        "mlp.down_proj": "mlp.unpacked",
    },
    dropped=(*_HEAD, *_MASK),
    finish=unpacked,
    undo=packed,
)
DINOV3 = Spelling(
    name="Hugging Face DINOv3 ViT (transformers)",
    layout="eva",
    kernel="embeddings.patch_embeddings.weight",
    blocks=("layer", "model.layer"),
    outside={
        "embeddings.cls_token": "cls_token",
        "embeddings.register_tokens": "reg_token",
        "embeddings.patch_embeddings": "patch_embed.proj",
        "norm": "norm",
    },
    inside={
        **{f"attention.{part[0]}_proj": f"attn.{part}" for part in ("query", "key", "value")},
        "attention.o_proj": "attn.proj",
        "norm1": "norm1",
        "norm2": "norm2",
        "layer_scale1.lambda1": "gamma_1",
        "layer_scale2.lambda1": "gamma_2",
        "mlp.up_proj": "mlp.fc1",
        "mlp.gate_proj": "mlp.fc1_g",
        "mlp.down_proj": "mlp.fc2",
    },
    dropped=_MASK,
    finish=gates,
    undo=undivided,
)
_TOWER_OUTSIDE = {
    "embeddings.patch_embedding": "patch_embed.proj",
    "embeddings.position_embedding.weight": "pos_embed",
    "post_layernorm": "norm",
}
_TOWER_BLOCK = {
    **{f"self_attn.{part[0]}_proj": f"attn.{part}" for part in ("query", "key", "value")},
    "self_attn.out_proj": "attn.proj",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
CLIP = Spelling(
    name="Hugging Face CLIP vision tower (transformers)",
    layout="vit",
    kernel="embeddings.patch_embedding.weight",
    blocks=("encoder.layers",),
    # transformers has it so: pre_layrnorm.
    outside={**_TOWER_OUTSIDE, "embeddings.class_embedding": "cls_token", "pre_layrnorm": "norm_pre"},
    inside=_TOWER_BLOCK,
    dropped=(*_HEAD, *_TEXT),
    finish=as_tables,
    undo=as_rows,
)
SIGLIP = Spelling(
    name="Hugging Face SigLIP vision tower (transformers)",
    layout="vit",
    kernel="embeddings.patch_embedding.weight",
    blocks=("encoder.layers",),
    outside=_TOWER_OUTSIDE,
    inside=_TOWER_BLOCK,
    dropped=(*_HEAD, *_TEXT, *_MAP_POOLING),
    finish=as_tables,
    undo=as_rows,
)
SIGLIP2 = Spelling(
    name="Hugging Face SigLIP 2 vision tower (transformers)",
    layout="vit",
    kernel="embeddings.patch_embedding.weight",
    blocks=("encoder.layers",),
    outside=_TOWER_OUTSIDE,
    inside=_TOWER_BLOCK,
    dropped=(*_HEAD, *_TEXT, *_MAP_POOLING),
    finish=kernel_of_rows,
    undo=rows_of_kernel,
)


# ---------------------------------------------------------------- telling them apart


def _matches(spelling: Spelling, kind: Callable[[State], bool], state: State) -> bool:
    """One encoder, with at least one block, of the right kind among those with such a kernel."""
    prefix = prefix_of(spelling, state)
    if prefix is None:
        return False
    inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    first = re.compile(rf"({'|'.join(map(re.escape, spelling.blocks))})\.\d+\.(.+)\.weight")
    found = (first.fullmatch(name) for name in inside)
    return any(match and match[2] in spelling.inside for match in found) and kind(state)


def _is_beit(state: State) -> bool:
    """BEiT's keys have no bias where its queries have one."""
    names = "\n".join(state)
    if re.search(r"\.lambda_1$|relative_position_bias_table$", names, re.MULTILINE):
        return True
    return bool(re.search(r"(query|q_proj)\.bias$", names, re.MULTILINE)) and not re.search(
        r"(key|k_proj)\.bias$", names, re.MULTILINE
    )


def _is_dinov2(state: State) -> bool:
    return any(name.endswith("layer_scale1.lambda1") for name in state)


def _is_clip(state: State) -> bool:
    return any(name.endswith("embeddings.class_embedding") for name in state)


def _has_kernel_of(dimensions: int, state: State) -> bool:
    kernels = [state[name] for name in state if name.endswith(SIGLIP.kernel)]
    return all(kernel.ndim == dimensions for kernel in kernels)


_KINDS: tuple[tuple[Spelling, Callable[[State], bool]], ...] = (
    (VIT, lambda state: not _is_dinov2(state) and not _is_beit(state)),
    (BEIT, lambda state: not _is_dinov2(state) and _is_beit(state)),
    (DINOV2, _is_dinov2),
    (DINOV3, lambda state: True),
    (CLIP, _is_clip),
    (SIGLIP, lambda state: not _is_clip(state) and _has_kernel_of(4, state)),
    (SIGLIP2, lambda state: not _is_clip(state) and _has_kernel_of(2, state)),
)

FORMATS: list[Format] = [
    Format(
        name=spelling.name,
        layouts=(spelling.layout,),
        matches=partial(_matches, spelling, kind),
        read=partial(read, spelling),
        write=partial(write, spelling),
    )
    for spelling, kind in _KINDS
]
"""The formats of this module, for the list of all."""
