"""SimMIM (arXiv:2111.09886): its ViT, pretraining, under ``encoder.``.

It is BEiT's, and fine-tuned ones have BEiT's names and are read as those. SimMIM's Swin is no plain ViT: see
`mae_bench.backbones.formats.hierarchical`.
"""

from __future__ import annotations

from functools import partial

from mae_bench.backbones.formats.beit import (
    BEIT,
    INDEX,
    has_tables,
    in_vit_names,
    is_beit_style,
    note_shared_table,
)
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Reasons, put, take

_PREFIX = "encoder."
_DROPPED: Reasons = (
    *INDEX,
    (r"decoder\.0\.(weight|bias)", "decoder"),
    (r"encoder\.mask_token", "mask token"),
)


def _is_simmim(state: State) -> bool:
    # CAE has a mask token of its own beside the encoder, the tokenizer of BEiT v2 a quantizer.
    others = any(name == "mask_token" or name.startswith("quantize.") for name in state)
    return is_beit_style(state, _PREFIX) and not others


def _read(state: State, layout: Layout) -> Recognised:
    found = take(state, "SimMIM pretraining checkpoint", prefix=_PREFIX, pairs=BEIT, dropped=_DROPPED)
    note_shared_table(found)
    return in_vit_names(found) if layout == "vit" else found


_write = partial(put, prefix=_PREFIX, pairs=BEIT)

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
