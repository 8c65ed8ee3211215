"""Keys and shapes of published checkpoints of BEiT, its forks, MaskFeat, EVA and DINOv3, at a tiny size, and
timm's models that hold them.

All are of a ViT 16 wide and two blocks of two heads deep on images of 32 pixels; patches are of 8 pixels
(MaskFeat's of 16). They were written down from running the repositories' own classes at that size: the key
sets and shapes of their `state_dict()` are exactly these. The values are those of `closed_form.fill`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.closed_form import fill, numbers

Shapes = dict[str, tuple[int, ...]]

WIDTH, HEADS, TOKENS = 16, 2, 17
TABLE, INDEX = (52, HEADS), (TOKENS, TOKENS)  # 7 x 7 relative positions, and 3 with the class token
FREQUENCIES = (16, 8)  # patches x width of a head


def affine(name: str, *shape: int) -> Shapes:
    """Weight of `shape` and a bias of its first dimension."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def beit_block(
    name: str, width: int = WIDTH, hidden: int = 64, *, table: bool = False, gamma: bool = True
) -> Shapes:
    """A block of BEiT's code, as of EVA-01's (whose is without gamma)."""
    shapes: Shapes = {f"{name}.gamma_{number}": (width,) for number in (1, 2) if gamma}
    shapes |= {f"{name}.attn.q_bias": (width,), f"{name}.attn.v_bias": (width,)}
    shapes |= {f"{name}.attn.qkv.weight": (3 * width, width), **affine(f"{name}.attn.proj", width, width)}
    if table:
        shapes |= {f"{name}.attn.relative_position_bias_table": TABLE}
        shapes |= {f"{name}.attn.relative_position_index": INDEX}
    shapes |= {**affine(f"{name}.norm1", width), **affine(f"{name}.norm2", width)}
    return {**shapes, **affine(f"{name}.mlp.fc1", hidden, width), **affine(f"{name}.mlp.fc2", width, hidden)}


def beit_blocks(name: str = "blocks", **options: int | bool) -> Shapes:
    return {**beit_block(f"{name}.0", **options), **beit_block(f"{name}.1", **options)}  # type: ignore[arg-type]


EMBEDDING: Shapes = {"cls_token": (1, 1, WIDTH), **affine("patch_embed.proj", WIDTH, 3, 8, 8)}
POSITIONS: Shapes = {"pos_embed": (1, TOKENS, WIDTH)}
MASK: Shapes = {"mask_token": (1, 1, WIDTH)}
NORM, FC_NORM = affine("norm", WIDTH), affine("fc_norm", WIDTH)
HEAD = affine("head", 5, WIDTH)
SHARED: Shapes = {
    "rel_pos_bias.relative_position_bias_table": TABLE,
    "rel_pos_bias.relative_position_index": INDEX,
}


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


# ---------------------------------------------------------------- CAE


def regressor_block(name: str) -> Shapes:
    shapes: Shapes = {f"{name}.gamma_{number}_cross": (8,) for number in (1, 2)}
    for norm in ("norm1_q", "norm1_k", "norm1_v", "norm2_cross"):
        shapes |= affine(f"{name}.{norm}", 8)
    shapes |= {f"{name}.cross_attn.{bias}_bias": (8,) for bias in "qv"}
    shapes |= {f"{name}.cross_attn.{part}.weight": (8, 8) for part in "qkv"}
    shapes |= affine(f"{name}.cross_attn.proj", 8, 8)
    return {**shapes, **affine(f"{name}.mlp_cross.fc1", 32, 8), **affine(f"{name}.mlp_cross.fc2", 8, 32)}


ABSOLUTE: Shapes = {**EMBEDDING, **POSITIONS, **beit_blocks(), **NORM}
_REGRESSER: Shapes = {
    "rd_pos_embed": (1, TOKENS, 8),
    "mask_token": (1, 1, 8),
    **affine("encoder_to_regresser", 8, WIDTH),
    **affine("encoder_to_regresser_norm", 8),
    **regressor_block("regresser.regressor_blocks.0"),
    **affine("regresser.norm", 8),
    **affine("decoder.norm", 8),
}
CAE_FIRST: Shapes = {
    **under("encoder.", ABSOLUTE),
    **under("teacher.", ABSOLUTE),
    "mask_token": (1, 1, 8),
    **affine("encoder_to_decoder", 8, WIDTH),
    **affine("encoder_to_decoder_norm", 8),
    **regressor_block("pretext_neck.regressor_blocks.0"),
    **beit_block("pretext_neck.decoder_blocks.0", 8, 32),
    **affine("pretext_neck.norm", 8),
    **affine("pretext_neck.norm2", 8),
    **affine("pretext_neck.head", 7, 8),
}
CAE: Shapes = {
    **under("encoder.", ABSOLUTE),
    **under("alignment_encoder.", ABSOLUTE),
    **_REGRESSER,
    **beit_block("decoder.decoder_blocks.0", 8, 32),
    **affine("decoder.head", 7, 8),
}
CAE_V2: Shapes = {**under("encoder.", ABSOLUTE), **_REGRESSER, **affine("decoder.head", 6, 8)}


# ---------------------------------------------------------------- MaskFeat


def plain_block(name: str) -> Shapes:
    """A block of PySlowFast's without pooling, named as timm's."""
    shapes = {**affine(f"{name}.norm1", WIDTH), **affine(f"{name}.norm2", WIDTH)}
    shapes |= {**affine(f"{name}.attn.qkv", 48, WIDTH), **affine(f"{name}.attn.proj", WIDTH, WIDTH)}
    return {**shapes, **affine(f"{name}.mlp.fc1", 64, WIDTH), **affine(f"{name}.mlp.fc2", WIDTH, 64)}


def openmmlab_block(name: str) -> Shapes:
    shapes = {**affine(f"{name}.ln1", WIDTH), **affine(f"{name}.ln2", WIDTH)}
    shapes |= {**affine(f"{name}.attn.qkv", 48, WIDTH), **affine(f"{name}.attn.proj", WIDTH, WIDTH)}
    return {
        **shapes,
        **affine(f"{name}.ffn.layers.0.0", 64, WIDTH),
        **affine(f"{name}.ffn.layers.1", WIDTH, 64),
    }


_PYSLOWFAST: Shapes = {
    "cls_token": (1, 1, WIDTH),
    "pos_embed": (1, 5, WIDTH),
    **affine("patch_embed.proj", WIDTH, 3, 16, 16),
    **plain_block("blocks.0"),
    **plain_block("blocks.1"),
}
MASKFEAT: Shapes = {
    **_PYSLOWFAST,
    **MASK,
    "hogs.0.weight_x": (3, 1, 3, 3),
    "hogs.0.weight_y": (3, 1, 3, 3),
    **affine("pred_head.transforms.0.0", WIDTH),
    **affine("pred_head.projections.0", 108, WIDTH),
}
MASKFEAT_CLASSIFIER: Shapes = {**_PYSLOWFAST, **NORM, **affine("head.projection", 5, WIDTH)}
MASKFEAT_OPENMMLAB: Shapes = {
    "backbone.cls_token": (1, 1, WIDTH),
    "backbone.pos_embed": (1, TOKENS, WIDTH),
    "backbone.mask_token": (1, 1, WIDTH),
    **affine("backbone.patch_embed.projection", WIDTH, 3, 8, 8),
    **openmmlab_block("backbone.layers.0"),
    **openmmlab_block("backbone.layers.1"),
    **affine("backbone.ln1", WIDTH),
    **affine("neck.fc", 12, WIDTH),
    "target_generator.weight_x": (3, 1, 3, 3),
    "target_generator.weight_y": (3, 1, 3, 3),
    "target_generator.gaussian_kernel": (4, 4),
}


# ---------------------------------------------------------------- EVA


def eva02_block(name: str, *, large: bool, inner_norm: bool = False) -> Shapes:
    """A block of EVA-02: of its larger models, or of the smaller ones."""
    shapes: Shapes = {f"{name}.attn.{bias}_bias": (WIDTH,) for bias in "qv"}
    shapes |= {**affine(f"{name}.norm1", WIDTH), **affine(f"{name}.norm2", WIDTH)}
    shapes |= affine(f"{name}.attn.proj", WIDTH, WIDTH)
    shapes |= {f"{name}.attn.rope.freqs_{wave}": FREQUENCIES for wave in ("cos", "sin")}
    shapes |= affine(f"{name}.mlp.w3", WIDTH, 42)
    if inner_norm:
        shapes |= affine(f"{name}.attn.inner_attn_ln", WIDTH)
    if not large:
        return {**shapes, f"{name}.attn.qkv.weight": (48, WIDTH), **affine(f"{name}.mlp.w12", 84, WIDTH)}
    shapes |= {f"{name}.attn.{part}_proj.weight": (WIDTH, WIDTH) for part in "qkv"}
    shapes |= {**affine(f"{name}.mlp.w1", 42, WIDTH), **affine(f"{name}.mlp.w2", 42, WIDTH)}
    return {**shapes, **affine(f"{name}.mlp.ffn_ln", 42)}


def eva02(*, large: bool, inner_norm: bool = False) -> Shapes:
    return {
        **EMBEDDING,
        **POSITIONS,
        **{f"rope.freqs_{wave}": FREQUENCIES for wave in ("cos", "sin")},
        **eva02_block("blocks.0", large=large, inner_norm=inner_norm),
        **eva02_block("blocks.1", large=large, inner_norm=inner_norm),
    }


_EVA01: Shapes = {**EMBEDDING, **POSITIONS, **beit_blocks(hidden=48, gamma=False)}
_TEXT: Shapes = {
    "positional_embedding": (4, 8),
    "text_projection": (8, 6),
    "token_embedding.weight": (9, 8),
    **affine("transformer.resblocks.0.ln_1", 8),
    **affine("transformer.resblocks.0.ln_2", 8),
    "transformer.resblocks.0.attn.in_proj_weight": (24, 8),
    "transformer.resblocks.0.attn.in_proj_bias": (24,),
    **affine("transformer.resblocks.0.attn.out_proj", 8, 8),
    **affine("transformer.resblocks.0.mlp.c_fc", 32, 8),
    **affine("transformer.resblocks.0.mlp.c_proj", 8, 32),
    **affine("ln_final", 8),
}
_CLIP: Shapes = {"logit_scale": (), **under("text.", _TEXT), **affine("visual.head", 6, WIDTH)}


# ---------------------------------------------------------------- DINOv3


def dinov3_block(name: str, hidden: int, *, gated: bool, bias: bool) -> Shapes:
    shapes: Shapes = {f"{name}.ls1.gamma": (WIDTH,), f"{name}.ls2.gamma": (WIDTH,)}
    shapes |= {**affine(f"{name}.norm1", WIDTH), **affine(f"{name}.norm2", WIDTH)}
    shapes |= {f"{name}.attn.qkv.weight": (48, WIDTH), **affine(f"{name}.attn.proj", WIDTH, WIDTH)}
    if bias:
        shapes |= {f"{name}.attn.qkv.bias": (48,), f"{name}.attn.qkv.bias_mask": (48,)}
    if not gated:
        return {
            **shapes,
            **affine(f"{name}.mlp.fc1", hidden, WIDTH),
            **affine(f"{name}.mlp.fc2", WIDTH, hidden),
        }
    shapes |= {**affine(f"{name}.mlp.w1", hidden, WIDTH), **affine(f"{name}.mlp.w2", hidden, WIDTH)}
    return {**shapes, **affine(f"{name}.mlp.w3", WIDTH, hidden)}


def dinov3(hidden: int = 64, *, gated: bool = False, bias: bool = True) -> Shapes:
    return {
        **EMBEDDING,
        "mask_token": (1, WIDTH),
        "storage_tokens": (1, 2, WIDTH),
        "rope_embed.periods": (2,),
        **dinov3_block("blocks.0", hidden, gated=gated, bias=bias),
        **dinov3_block("blocks.1", hidden, gated=gated, bias=bias),
        **NORM,
    }


def _dino_head(name: str) -> Shapes:
    shapes = {**affine(f"{name}.mlp.0", 12, WIDTH), **affine(f"{name}.mlp.2", 12, 12)}
    return {**shapes, **affine(f"{name}.mlp.4", 6, 12), f"{name}.last_layer.weight": (9, 6)}


# ---------------------------------------------------------------- all of them

CHECKPOINTS: dict[str, Shapes] = {
    "beit pretraining": {**EMBEDDING, **MASK, **SHARED, **beit_blocks(), **NORM, **affine("lm_head", 7, WIDTH)},
    "beit v2 pretraining": {
        **EMBEDDING, **MASK, **SHARED, **beit_blocks(), **NORM, **affine("lm_head", 7, WIDTH),
        **beit_block("cls_pt_layers.0"), **affine("cls_pt_norm", WIDTH), **affine("cls_pt_lm_head", 7, WIDTH),
    },
    "beit fine-tuned": {**EMBEDDING, **beit_blocks(table=True), **FC_NORM, **HEAD},
    "beit absolute": {**ABSOLUTE, **HEAD},
    "data2vec pretraining": {
        **EMBEDDING, **MASK, **SHARED, **beit_blocks(), **NORM, **affine("lm_head", WIDTH, WIDTH),
    },
    "data2vec fine-tuned": {**EMBEDDING, **MASK, **beit_blocks(table=True), **FC_NORM, **HEAD},
    "simmim shared": {
        **under("encoder.", {**EMBEDDING, **MASK, **SHARED, **beit_blocks(), **NORM}),
        **affine("decoder.0", 192, WIDTH, 1, 1),
    },
    "simmim absolute": {
        **under("encoder.", {**ABSOLUTE, **MASK}),
        **affine("decoder.0", 192, WIDTH, 1, 1),
    },
    "cae, first release": CAE_FIRST,
    "cae": CAE,
    "cae v2": CAE_V2,
    "maskfeat": MASKFEAT,
    "maskfeat classifier": MASKFEAT_CLASSIFIER,
    "eva-01 pretraining": {**_EVA01, **MASK, **NORM, **affine("lm_head", 6, WIDTH)},
    "eva-01 fine-tuned": {**_EVA01, **FC_NORM, **HEAD},
    "eva-02 base pretraining": {**eva02(large=True), **MASK, **NORM, **affine("lm_head", 6, WIDTH)},
    "eva-02 small pretraining": {**eva02(large=False), **MASK, **NORM, **affine("lm_head", 6, WIDTH)},
    "eva-02 base fine-tuned": {**eva02(large=True), **FC_NORM, **HEAD},
    "eva-02 clip": {**_CLIP, **under("visual.", {**eva02(large=True, inner_norm=True), **NORM})},
    "eva-01 clip": {**_CLIP, **under("visual.", {**_EVA01, **NORM})},
    "dinov3": dinov3(),
    "dinov3 plus": dinov3(64, gated=True),
    "dinov3 7b": {**dinov3(64, gated=True, bias=False), **affine("local_cls_norm", WIDTH)},
    "dinov3 teacher": {
        **under("backbone.", dinov3()), **_dino_head("dino_head"), **_dino_head("ibot_head"),
    },
}  # fmt: skip
"""Name -> keys and shapes."""

_BUFFERS = ("relative_position_index", "rope", "bias_mask", "hogs.", "target_generator.", "attn_mask")


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """float64 values of `closed_form.fill`; buffers are zeros, and masks of biases as DINOv3 has them."""
    zeros = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    state = fill(zeros, [name for name in zeros if any(part in name for part in _BUFFERS)])
    for name in state:
        if name.endswith("bias_mask"):
            third = len(state[name]) // 3
            state[name] = torch.cat([torch.ones(third), torch.zeros(third), torch.ones(third)]).double()
    return state


# ---------------------------------------------------------------- timm's models of this size


def images() -> Tensor:
    return 2 * numbers((2, 3, 32, 32), 999)


def bare(arch: str, patch: int = 8, **options: Any) -> Any:
    """timm's model in float64 as an encoder: no head, and the norm after pooling as the norm of the tokens."""
    size = {"img_size": 32, "patch_size": patch, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS}
    model: Any = timm.create_model(arch, num_classes=0, **{**size, **options})
    if isinstance(model.norm, nn.Identity):
        model.norm, model.fc_norm = model.fc_norm, nn.Identity()
    return model.double().eval().requires_grad_(False)


def pooled(model: Any) -> Tensor:
    """Norm of the mean over the patches: what fine-tuned models hand to their head, (2, D)."""
    norm, model.norm = model.norm, nn.Identity()
    tokens = model.forward_features(images())
    model.norm = norm
    return norm(tokens[:, model.num_prefix_tokens :].mean(1))


def check(values: Tensor, first: Iterable[float], last: Iterable[float], total: float) -> None:
    """The first six and last three numbers, and the sum of magnitudes, as the reference printed them."""
    flat = values.double().flatten()
    torch.testing.assert_close(flat[:6], torch.tensor(list(first)).double(), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(flat[-3:], torch.tensor(list(last)).double(), rtol=1e-5, atol=2e-6)
    assert float(flat.abs().sum()) == pytest.approx(total, rel=2e-6)
