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
from mae_bench.backbones.formats.names import TIMM, Pairs, Reasons, put, take
from mae_bench.backbones.formats.timm_vit import is_vit

_BACKBONE = "backbone."
_REGISTERS = ("register_tokens", "reg_token")
_SWIGLU: Pairs = (
    ("blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*"),  # SwiGLU, gate and value in one
    ("blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*"),
)
_PAIRS: Pairs = (_REGISTERS, *TIMM)
_READ: Pairs = (
    *(*_PAIRS, *_SWIGLU),
    *((theirs.replace("blocks.", "blocks.?."), ours) for theirs, ours in (*TIMM, *_SWIGLU)),
)
_DROPPED: Reasons = (
    (r"(backbone\.)?mask_token", "mask token"),
    (
        r"(dino|ibot)_head\.(mlp(\.\d+)?|last_layer)"
        r"\.(weight|bias|weight_g|weight_v|parametrizations\.weight\.original[01])",
        "projection head",
    ),
)
_NAME = "DINOv2 (official names)"


def _prefix(state: State) -> str:
    return _BACKBONE if f"{_BACKBONE}pos_embed" in state else ""


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    mask = state.get(f"{prefix}mask_token")
    scaled = any(re.fullmatch(rf"{prefix}blocks\.(\d+\.)?0\.ls1\.gamma", name) for name in state)
    return is_vit(state, prefix) and mask is not None and mask.ndim == 2 and scaled


def position_into_token(found: Recognised) -> None:
    """With registers, add the class token's position to the token, as timm has it (in place)."""
    token, table = found.encoder.get("cls_token"), found.encoder.get("pos_embed")
    if "reg_token" not in found.encoder or token is None or table is None:
        return
    if token.ndim != 3 or table.ndim != 3 or token.shape[-1] != table.shape[-1]:
        return
    exact = torch.promote_types(token.dtype, torch.float32)
    found.encoder["cls_token"] = token.to(exact) + table[:, :1].to(exact)
    found.encoder["pos_embed"] = table[:, 1:]
    names = [found.renamed.get(name, name) for name in ("cls_token", "pos_embed")]
    found.renamed["cls_token"] = " + ".join(names)


def position_apart(encoder: State) -> dict[str, Tensor]:
    """The way back of `position_into_token`: the position stays in the token, and the table has zeros."""
    table = encoder["pos_embed"]
    whole = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return {**encoder, **({"pos_embed": whole} if "reg_token" in encoder else {})}


def _read(state: State, layout: Layout) -> Recognised:
    found = take(state, _NAME, prefix=_prefix(state), pairs=_READ, dropped=_DROPPED)
    position_into_token(found)
    return found


def _write(encoder: State) -> dict[str, Tensor]:
    """The published names. Masked patches, which no encoder sees, get a token of zeros."""
    mask = torch.zeros_like(encoder["pos_embed"][0, :1])
    return put({**position_apart(encoder), "mask_token": mask}, pairs=_PAIRS, gated=_SWIGLU)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read, _write)]
"""The formats of this module, for the list of all."""
