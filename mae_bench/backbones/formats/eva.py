"""EVA-01 (arXiv:2211.07636), EVA-02 (arXiv:2303.11331) and EVA-CLIP (arXiv:2303.15389), official names.

EVA-01's blocks are BEiT's, without relative positions. EVA-02 has rotary positions, whose tables its files
hold and timm computes; its larger models have gated MLPs of three layers (``w1``, ``w2``, ``w3``) with a norm
inside and separate projections of queries, keys and values. EVA-CLIP's image towers are either of the two
under ``visual.``. Fine-tuned EVA-01 has the names of timm and is read as that.
"""

from __future__ import annotations

import math
import re
from functools import partial

from mae_bench.backbones.formats.beit import (
    BEIT,
    PRETRAINING,
    has_tables,
    in_vit_names,
    is_beit_style,
    is_pretraining,
)
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, norm_from_fc_norm, put, rename, take

_EVA01 = "EVA-01 or BEiT pretraining checkpoint with absolute positions"
_TOWER = "EVA-CLIP image tower"
_VISUAL = "visual."
_GATED: Pairs = (
    ("blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*"),
    ("blocks.#.mlp.w1.*", "blocks.#.mlp.fc1_g.*"),
    ("blocks.#.mlp.w2.*", "blocks.#.mlp.fc1_x.*"),
    ("blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*"),
)
_PAIRS: Pairs = (
    *BEIT,
    ("blocks.#.attn.inner_attn_ln.*", "blocks.#.attn.norm.*"),
    ("blocks.#.mlp.ffn_ln.*", "blocks.#.mlp.norm.*"),
    *((f"blocks.#.attn.{part}_proj.weight", f"blocks.#.attn.{part}_proj.weight") for part in "qkv"),
    # Written alone: read, the biases are the projections' where there are such.
    *((f"blocks.#.attn.{part}_bias", f"blocks.#.attn.{part}_proj.bias") for part in "qv"),
)
_ROTARY = (r"(visual\.)?(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)", "rotary positions, computed")
_HEAD: Reasons = (_ROTARY, (r"mask_token", "mask token"), (r"(lm_head|head)\.(weight|bias)", "head"))
_BESIDE: Reasons = (
    _ROTARY,
    (r"visual\.head\.(weight|bias)", "projection"),
    (
        r"text\..+|positional_embedding|text_projection|token_embedding\.weight|transformer\.resblocks\..+"
        r"|ln_final\.(weight|bias)",
        "text tower",
    ),
    (r"logit_scale", "temperature of the loss"),
)


def _is_eva02(state: State, prefix: str = "") -> bool:
    block = f"{prefix}blocks.0"
    own = ("attn.q_proj.weight", "attn.rope.freqs_cos", "mlp.w1.weight", "mlp.w12.weight")
    return f"{block}.attn.q_bias" in state and (
        f"{prefix}rope.freqs_cos" in state or any(f"{block}.{name}" in state for name in own)
    )


def _with_projections(found: Recognised) -> Recognised:
    """Where queries and values have projections of their own, let the biases belong to them (in place)."""
    for name in list(found.encoder):
        bias = re.fullmatch(r"(blocks\.\d+\.attn)\.([qv])_bias", name)
        if bias and f"{bias[1]}.{bias[2]}_proj.weight" in found.encoder:
            rename(found, name, f"{bias[1]}.{bias[2]}_proj.bias")
    return found


def _note_rotary(found: Recognised, state: State, prefix: str) -> None:
    """Say which grid the rotary positions count as, which timm takes from the architecture (in place).

    The first frequency is 1, so the patch to the right of the first is turned by its place: one patch of the
    grid of pretraining, in patches of this table's grid.
    """
    cos, sin = (state.get(f"{prefix}rope.freqs_{wave}") for wave in ("cos", "sin"))
    if cos is None or sin is None or cos.is_meta or len(cos) < 4:
        return
    half = cos.shape[1] // 2  # the first half turns with rows, the second with columns
    angle = math.atan2(float(sin[1, half]), float(cos[1, half]))
    side = round(angle * math.sqrt(len(cos)), 1)
    found.notes.append(
        f"its rotary positions count as on a grid of {side:g}x{side:g} patches; the architecture's "
        "ref_feat_shape has to be that"
    )


def _read_absolute(state: State, layout: Layout) -> Recognised:
    found = take(state, _EVA01, dropped=PRETRAINING)
    return in_vit_names(found) if layout == "vit" else found


def _read_official(state: State, layout: Layout, *, prefix: str = "") -> Recognised:
    words = "EVA-02 pretraining checkpoint" if "lm_head.weight" in state else "EVA-02 encoder or classifier"
    found = take(
        state,
        _TOWER if prefix else words,
        prefix=prefix,
        pairs=(*_PAIRS, *_GATED),
        dropped=_BESIDE if prefix else _HEAD,
    )
    norm_from_fc_norm(_with_projections(found))
    _note_rotary(found, state, prefix)
    return found


FORMATS = [
    Format(
        _EVA01,
        ("eva", "beit", "vit"),
        lambda state: is_pretraining(state) and not has_tables(state),
        _read_absolute,
    ),
    Format(
        "EVA-02 checkpoint",
        ("eva",),
        _is_eva02,
        _read_official,
        partial(put, pairs=_PAIRS, gated=_GATED),
    ),
    Format(
        _TOWER,
        ("eva",),
        lambda state: _is_eva02(state, _VISUAL) or is_beit_style(state, _VISUAL),
        partial(_read_official, prefix=_VISUAL),
        partial(put, prefix=_VISUAL, pairs=_PAIRS, gated=_GATED),
    ),
]
