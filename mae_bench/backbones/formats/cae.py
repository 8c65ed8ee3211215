"""CAE (arXiv:2202.03026) and CAE v2 (arXiv:2211.09799), pretraining: the encoder under ``encoder.``.

The first release calls the copy of the encoder that gives the targets ``teacher`` and what follows the
encoder ``pretext_neck``; the later one calls them ``alignment_encoder``, ``regresser`` and ``decoder``.
Fine-tuned models have BEiT's names without relative positions and are read as those.
"""

from __future__ import annotations

from mae_bench.backbones.formats.beit import BEIT, BLOCK, in_vit_names, is_beit_style
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Reasons, take

_AFFINE = r"\.(weight|bias)"
_REGRESSOR_BLOCK = (
    rf"(gamma_[12]_cross|(norm1_[qkv]|norm2_cross|mlp_cross\.fc[12]){_AFFINE}"
    rf"|cross_attn\.(q_bias|v_bias|[qkv]\.weight|proj{_AFFINE}))"
)
_NAME = "CAE pretraining checkpoint"
_DROPPED: Reasons = (
    (
        r"(teacher|alignment_encoder)\.(cls_token|pos_embed|patch_embed\.proj\.(weight|bias)"
        rf"|norm\.(weight|bias)|blocks\.\d+\.{BLOCK})",
        "copy of the encoder for the targets",
    ),
    (rf"(regresser|pretext_neck)\.regressor_blocks\.\d+\.{_REGRESSOR_BLOCK}", "regressor"),
    (rf"(regresser|pretext_neck)\.norm{_AFFINE}", "regressor"),
    (rf"encoder_to_(regresser|decoder)(_norm)?{_AFFINE}", "regressor"),
    (rf"(decoder|pretext_neck)\.decoder_blocks\.\d+\.{BLOCK}", "decoder"),
    (rf"(decoder\.norm|pretext_neck\.norm2|(decoder|pretext_neck)\.head){_AFFINE}", "decoder"),
    (r"mask_token|rd_pos_embed", "decoder"),
)


def _read(state: State, layout: Layout) -> Recognised:
    found = take(state, _NAME, prefix="encoder.", pairs=BEIT, dropped=_DROPPED)
    return in_vit_names(found) if layout == "vit" else found


FORMATS = [
    Format(
        _NAME,
        ("beit", "eva", "vit"),
        lambda state: is_beit_style(state, "encoder.") and "mask_token" in state,
        _read,
    )
]
