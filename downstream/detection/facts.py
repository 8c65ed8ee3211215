"""What the names and shapes of a detector's tensors tell of the settings it was made with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from downstream.detection.formats import BACKBONE, RELATIVE

State = Mapping[str, Tensor]


def facts(state: State) -> dict[str, Any]:
    """What the tensors of a detector tell, under our names; None where they do not.

    Returns:
        ``classes``, ``backbone`` in words, the blocks with the ``longer_tables`` of relative positions, and
        settings by their keys.
    """

    def count(pattern: str) -> int:
        return len({match[1] for name in state if (match := re.match(pattern, name))})

    def size(pattern: str, axis: int) -> int | None:
        return next(
            (tensor.shape[axis] for name, tensor in state.items() if re.fullmatch(pattern, name)), None
        )

    def some(pattern: str) -> bool:
        return any(re.match(pattern, name) for name in state)

    classify = size(r"roi_heads\.box_predictor(\.0)?\.classify\.weight", 0)
    kinds = [
        kind for kind, part in (("simple", "project"), ("fpn", "lateral")) if some(rf"pyramid\.{part}\.")
    ]
    return {
        "classes": None if classify is None else classify - 1,
        "backbone": _backbone_in_words(state),
        "model.attention.relative_positions": some(RELATIVE.pattern),
        "model.attention.prefix_tokens": "keep" if some(rf"{re.escape(BACKBONE)}\.cls_token") else "drop",
        "longer_tables": _longer_tables(state),
        "model.pyramid.kind": kinds[0] if kinds else None,
        "model.pyramid.norm": "batch" if some(r"pyramid\..*running_mean") else "layer",
        "model.pyramid.channels": size(r"rpn\.head\.objectness\.weight", 1),
        "model.proposals.convs": count(r"rpn\.head\.convs\.(\d+)\."),
        "model.heads.cascade": some(r"roi_heads\.box_head\.0\."),
        "model.heads.box_convs": count(r"roi_heads\.box_head(?:\.0)?\.conv(\d+)\."),
        "model.heads.box_fcs": count(r"roi_heads\.box_head(?:\.0)?\.fc(\d+)\."),
        "model.heads.box_width": size(r"roi_heads\.box_head(\.0)?\.fc0\.weight", 0),
        "model.heads.mask_convs": count(r"roi_heads\.mask_head\.conv(\d+)\."),
    }


def _backbone_in_words(state: State) -> str | None:
    """Its size where it is a plain ViT, as the shapes tell it."""
    kernel = state.get(f"{BACKBONE}.patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return None
    blocks = {name.removeprefix(f"{BACKBONE}.blocks.").split(".")[0] for name in state if ".blocks." in name}
    return (
        f"{kernel.shape[0]} wide and {len(blocks)} deep with {kernel.shape[2]}x{kernel.shape[3]} patches of "
        f"{kernel.shape[1]} channels"
    )


def _longer_tables(state: State) -> list[int] | None:
    """Blocks whose relative positions reach further, usually the global ones; None where all do alike."""
    lengths = {
        int(match[1]): len(tensor)
        for name, tensor in state.items()
        if (match := RELATIVE.fullmatch(name)) and name.endswith("_h")
    }
    if len(set(lengths.values())) != 2:
        return None
    return sorted(block for block, length in lengths.items() if length == max(lengths.values()))
