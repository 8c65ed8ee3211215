"""OpenMMLab's VisionTransformer: mmpretrain with its predecessors mmcls and mmselfsup, and mmseg's.

The encoder lies under ``backbone.`` beside what a method or a task has in addition; OpenMMLab's own
converters write it without. mmseg keeps PyTorch's attention, mmpretrain one with a single ``qkv``. Their BEiT
has other keys, and where a target is computed beside the encoder it is MaskFeat: neither is of this format.
"""

from __future__ import annotations

from functools import partial

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, norm_from_fc_norm, put, take

_SWIGLU: Pairs = (
    ("layers.#.ffn.w12.*", "blocks.#.mlp.fc1.*"),
    ("layers.#.ffn.w3.*", "blocks.#.mlp.fc2.*"),
)
PAIRS: Pairs = (
    ("cls_token", "cls_token"),
    ("pos_embed", "pos_embed"),
    ("patch_embed.projection.*", "patch_embed.proj.*"),
    ("pre_norm.*", "norm_pre.*"),
    ("ln1.*", "norm.*"),
    ("ln2.*", "fc_norm.*"),  # after pooling
    ("layers.#.ln1.*", "blocks.#.norm1.*"),
    ("layers.#.ln2.*", "blocks.#.norm2.*"),
    ("layers.#.attn.qkv.*", "blocks.#.attn.qkv.*"),
    ("layers.#.attn.proj.*", "blocks.#.attn.proj.*"),
    ("layers.#.attn.attn.in_proj_*", "blocks.#.attn.qkv.*"),
    ("layers.#.attn.attn.out_proj.*", "blocks.#.attn.proj.*"),
    ("layers.#.attn.gamma1.weight", "blocks.#.ls1.gamma"),
    ("layers.#.ffn.layers.0.0.*", "blocks.#.mlp.fc1.*"),
    ("layers.#.ffn.layers.1.*", "blocks.#.mlp.fc2.*"),
    *_SWIGLU,
    ("layers.#.ffn.gamma2.weight", "blocks.#.ls2.gamma"),
)
"""Names within OpenMMLab's ViTs."""

_DROPPED: Reasons = (
    (r"neck\..+", "neck"),
    (r"(head|decode_head|auxiliary_head)\..+", "head"),
    (r"momentum_encoder\..+", "momentum encoder"),
    (r"data_preprocessor\.(mean|std)", "normalisation of images"),
)
_NAME, _BACKBONE = "OpenMMLab ViT (mmpretrain, mmselfsup, mmseg)", "backbone."


def _prefix(state: State) -> str:
    return _BACKBONE if any(name.startswith(f"{_BACKBONE}layers.0.") for name in state) else ""


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    return (
        f"{prefix}pos_embed" in state
        and f"{prefix}patch_embed.projection.weight" in state
        and f"{prefix}layers.0.ln1.weight" in state
        and not any("relative_position" in name or name.endswith(".q_bias") for name in state)
        and not any(name.startswith("target_generator.") for name in state)
    )


def _read(state: State, layout: Layout) -> Recognised:
    found = take(state, _NAME, prefix=_prefix(state), pairs=PAIRS, dropped=_DROPPED)
    return norm_from_fc_norm(found)


FORMATS: list[Format] = [
    Format(_NAME, ("vit",), _matches, _read, partial(put, prefix=_BACKBONE, pairs=PAIRS, gated=_SWIGLU))
]
"""The formats of this module, for the list of all."""
