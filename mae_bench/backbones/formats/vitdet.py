"""The backbone of detectron2's ViTDet (Li et al., arXiv:2203.16527), taken out of a whole detector.

Names are those of facebookresearch/detectron2, detectron2/modeling/backbone/vit.py, which its model zoo keeps
beside the pyramid and the heads. Its ViT has neither class token nor final norm. It never reads the class
token's entry of its position table, which is cut off here. Its tables of relative positions are added to
attention within the detector alone and began at zero when it was trained, so the encoder stands without them;
since what was learned in them is lost, a note says so.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import TIMM, Pairs, Reasons, put, take

_NAME = "ViTDet's backbone (detectron2)"
_DROPPED: Reasons = (
    (r"(backbone\.)?simfp_\d\..+", "feature pyramid"),
    (r"(proposal_generator|roi_heads)\..+", "detection head"),
    (r"pixel_(mean|std)", "normalisation of images"),
    (r"(backbone\.)?net\.blocks\.\d+\.attn\.rel_pos_[hw]", "relative positions of the detector"),
)
_TOKENLESS: Pairs = tuple(pair for pair in TIMM if pair[0] not in ("cls_token", "reg_token"))


def _prefix(state: State) -> str:
    return "net." if any(name.startswith("net.") for name in state) else "backbone.net."


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    return f"{prefix}patch_embed.proj.weight" in state and any(
        name.startswith(f"{prefix}blocks.0.") for name in state
    )


def _read(state: State, layout: Layout) -> Recognised:
    found = take(state, _NAME, prefix=_prefix(state), pairs=_TOKENLESS, dropped=_DROPPED)
    table = found.encoder.get("pos_embed")
    if table is not None and table.ndim == 3 and math.isqrt(table.shape[1] - 1) ** 2 == table.shape[1] - 1:
        found.encoder["pos_embed"] = table[:, 1:]
        found.renamed["pos_embed"] += " without the class token's entry"
    found.notes.append(
        "ViTDet's encoder has neither class token nor final norm: give class_token=false, and allow "
        "norm.weight and norm.bias to be missing where the task takes no norm"
    )
    if any(re.search(r"rel_pos_[hw]$", entry.name) for entry in found.dropped):
        found.notes.append(
            "the detector adds relative positions to attention, which a plain ViT does not have: its "
            "features differ from those inside the detector"
        )
    return found


def _write(encoder: State) -> dict[str, Tensor]:
    """The network of a detector's backbone; the class token's position, which it never reads, is zero."""
    table = encoder["pos_embed"]
    inside = {name: tensor for name, tensor in encoder.items() if not name.startswith("norm.")}
    inside["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    return put(inside, prefix="backbone.net.", pairs=_TOKENLESS)


FORMATS: list[Format] = [Format(_NAME, ("vit",), _matches, _read, _write)]
"""The formats of this module, for the list of all."""
