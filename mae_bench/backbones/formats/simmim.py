"""SimMIM (arXiv:2111.09886): its ViT and its Swin, pretraining, both under ``encoder.``.

The ViT is BEiT's. Fine-tuned ones have BEiT's names and are read as those. The Swin is the official one,
whose down-sampling closes a stage; in timm it opens the next. It is no plain ViT, and so no `Format`.
"""

from __future__ import annotations

import re

from torch import Tensor

from mae_bench.backbones.formats.beit import INDEX, has_tables, is_beit_style, note_shared_table
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.renaming import Naming, in_vit_names, rename

_PREFIX = "encoder."
_DECODER = {r"decoder\.0\.(weight|bias)": "decoder", r"encoder\.mask_token": "mask token"}
_NAMING = Naming(_PREFIX, {**INDEX, **_DECODER})
_SWIN_BLOCK = r"(encoder\.)?layers\.\d+\.blocks\.\d+"
_SWIN = Naming(
    _PREFIX,
    {
        **_DECODER,
        rf"{_SWIN_BLOCK}\.attn\.relative_position_index": "index of relative positions, computed",
        rf"{_SWIN_BLOCK}\.attn\.relative_coords_table": "relative positions, computed",
        rf"{_SWIN_BLOCK}\.attn_mask": "mask of shifted windows, computed",
        r"head\.(weight|bias)": "head",
    },
)


def _is_simmim(state: State) -> bool:
    # CAE has a mask token of its own beside the encoder, the tokenizer of BEiT v2 a quantizer.
    others = any(name == "mask_token" or name.startswith("quantize.") for name in state)
    return is_beit_style(state, _PREFIX) and not others


def _read(state: State, layout: Layout) -> Recognised:
    found = note_shared_table(_NAMING.read(state, "SimMIM pretraining checkpoint"))
    return in_vit_names(found) if layout == "vit" else found


def _write(encoder: State) -> dict[str, Tensor]:
    return {_PREFIX + name: tensor for name, tensor in encoder.items()}


FORMATS = [
    Format(
        "SimMIM pretraining checkpoint with relative positions",
        ("beit",),
        lambda state: _is_simmim(state) and has_tables(state, _PREFIX),
        _read,
        _write,
    ),
    Format(
        "SimMIM pretraining checkpoint with absolute positions",
        ("beit", "eva", "vit"),
        lambda state: _is_simmim(state) and not has_tables(state, _PREFIX),
        _read,
        _write,
    ),
]


def is_official_swin(state: State) -> bool:
    """Whether it is the official Swin (or SimMIM's), where the first stage ends in down-sampling."""
    return any(f"{prefix}layers.0.downsample.reduction.weight" in state for prefix in ("", _PREFIX))


def read_official_swin(state: State) -> Recognised:
    """An official Swin, SimMIM's or a classifier, under timm's names; the final norm stays."""
    pretraining = any(name.startswith(_PREFIX) for name in state)
    words = "SimMIM pretraining checkpoint (Swin)" if pretraining else "Swin classifier (official)"
    found = _SWIN.read(state, words)
    # From the last stage on: the new name of one is the old name of the next.
    for name in sorted(found.encoder, key=_stage, reverse=True):
        down = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name)
        if down:
            rename(found, name, f"layers.{int(down[1]) + 1}.downsample.{down[2]}")
    return found


def _stage(name: str) -> int:
    match = re.match(r"layers\.(\d+)\.", name)
    return int(match[1]) if match else -1
