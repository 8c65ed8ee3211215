"""DINOv2 (Oquab et al., arXiv:2304.07193; with registers Darcet et al., arXiv:2309.16588), official names.

Names are those of facebookresearch/dinov2: the published backbones, and the ``teacher`` of its training code,
whose blocks lie in chunks (``blocks.0.5.``) under ``backbone.`` beside the heads ``dino_head.`` and
``ibot_head.``. With registers timm gives the class token no position of its own: it is added to the token.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.pairs import TIMM, Pairs, Reasons, is_vit, put_gated, take

_BACKBONE = "backbone."
_REGISTERS = ("register_tokens", "reg_token")
_SWIGLU: Pairs = (
    ("blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*"),  # SwiGLU, gate and value in one
    ("blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*"),
)
_PAIRS: Pairs = (_REGISTERS, *TIMM, *_SWIGLU)
_DROPPED: Reasons = (
    (r"(backbone\.)?mask_token", "mask token"),
    (
        r"(dino|ibot)_head\.(mlp(\.\d+)?|last_layer)"
        r"\.(weight|bias|weight_g|weight_v|parametrizations\.weight\.original[01])",
        "projection head",
    ),
)
_CHUNK = re.compile(r"^((?:backbone\.)?blocks)\.\d+\.(\d+\.)")
_NAME = "DINOv2 (official names)"


def _unchunked(state: State) -> dict[str, Tensor]:
    """Blocks numbered through: the second number of a chunked name counts all blocks."""
    return {_CHUNK.sub(r"\1.\2", name): tensor for name, tensor in state.items()}


def _prefix(state: State) -> str:
    return _BACKBONE if f"{_BACKBONE}pos_embed" in state else ""


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    mask = state.get(f"{prefix}mask_token")
    scaled = f"{prefix}blocks.0.ls1.gamma" in _unchunked(state)
    return is_vit(state, prefix) and mask is not None and mask.ndim == 2 and scaled


def _read(state: State, layout: Layout) -> Recognised:
    plain = _unchunked(state)
    if len(plain) != len(state):  # two blocks of one number: let all of them be unexpected
        plain = dict(state)
    original = dict(zip(plain, state, strict=True))
    found = take(plain, _NAME, prefix=_prefix(state), pairs=_PAIRS, dropped=_DROPPED)
    for ours in list(found.encoder):
        name = original[found.renamed.get(ours, ours)]
        if name != ours:
            found.renamed[ours] = name
    _position_into_token(found)
    return found


def _position_into_token(found: Recognised) -> None:
    token, table = found.encoder.get("cls_token"), found.encoder.get("pos_embed")
    if "reg_token" not in found.encoder or token is None or table is None:
        return
    if token.ndim != 3 or table.ndim != 3 or token.shape[-1] != table.shape[-1]:
        return
    names = [found.renamed.get(name, name) for name in ("cls_token", "pos_embed")]
    found.encoder["cls_token"] = token + table[:, :1]
    found.encoder["pos_embed"] = table[:, 1:]
    found.renamed["cls_token"] = f"{names[0]} + {names[1]}"
    found.renamed["pos_embed"] = f"{names[1]} without the class token's entry"


def _write(encoder: State) -> dict[str, Tensor]:
    """The published names. Masked patches, which no encoder sees, get a token of zeros.

    With registers the class token's position stays in the token, so its entry in the table is zero.
    """
    state = dict(encoder)
    table = state["pos_embed"]
    if "reg_token" in state:
        state["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    state["mask_token"] = torch.zeros_like(table[0, :1])
    return put_gated(state, pairs=(_REGISTERS, *TIMM), gated=_SWIGLU)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read, _write)]
"""The formats of this module, for the list of all."""
