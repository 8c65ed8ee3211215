"""EVA-01 (arXiv:2211.07636), EVA-02 (arXiv:2303.11331) and EVA-CLIP (arXiv:2303.15389), official names.

EVA-01's blocks are BEiT's, without relative positions. EVA-02 has rotary positions, whose tables its files
hold and timm computes; its larger models have gated MLPs of three layers (``w1``, ``w2``, ``w3``) with a norm
inside and separate projections of queries, keys and values. EVA-CLIP's image towers are either of the two
under ``visual.``. Fine-tuned EVA-01 has the names of timm and is read as that.
"""

from __future__ import annotations

import math
import re

from torch import Tensor

from mae_bench.backbones.formats.beit import PRETRAINING, has_tables, is_beit_style, is_pretraining
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.renaming import Naming, in_vit_names, norm_from_fc_norm, rename

_EVA01 = "EVA-01 or BEiT pretraining checkpoint with absolute positions"
_TOWER = "EVA-CLIP image tower"
_VISUAL = "visual."
_AFFINE = r"\.(weight|bias)"
_BLOCK = r"(blocks\.\d+)"
_RENAMED = {
    rf"{_BLOCK}\.attn\.inner_attn_ln{_AFFINE}": r"\1.attn.norm.\2",
    rf"{_BLOCK}\.mlp\.ffn_ln{_AFFINE}": r"\1.mlp.norm.\2",
    rf"{_BLOCK}\.mlp\.w12{_AFFINE}": r"\1.mlp.fc1.\2",
    rf"{_BLOCK}\.mlp\.w1{_AFFINE}": r"\1.mlp.fc1_g.\2",
    rf"{_BLOCK}\.mlp\.w2{_AFFINE}": r"\1.mlp.fc1_x.\2",
    rf"{_BLOCK}\.mlp\.w3{_AFFINE}": r"\1.mlp.fc2.\2",
}
_ROTARY = r"(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)"
_TEXT = (
    r"text\..+|positional_embedding|text_projection|token_embedding\.weight|transformer\.resblocks\..+"
    r"|ln_final\.(weight|bias)"
)
_EVA02 = Naming(
    dropped={
        _ROTARY: "rotary positions, computed",
        r"mask_token": "mask token",
        rf"(lm_head|head){_AFFINE}": "head",
    },
    renamed=_RENAMED,
)
_CLIP = Naming(
    prefix=_VISUAL,
    dropped={
        rf"visual\.{_ROTARY}": "rotary positions, computed",
        rf"visual\.head{_AFFINE}": "projection",
        _TEXT: "text tower",
        r"logit_scale": "temperature of the loss",
    },
    renamed=_RENAMED,
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


def _written(encoder: State) -> dict[str, Tensor]:
    """The official names of an encoder in timm's; a gated MLP of two layers is told by its shapes."""
    written = {}
    for name, tensor in encoder.items():
        new = re.sub(r"attn\.([qv])_proj\.bias$", r"attn.\1_bias", name)
        new = re.sub(r"attn\.norm\.", "attn.inner_attn_ln.", new)
        new = re.sub(r"mlp\.norm\.", "mlp.ffn_ln.", new)
        block = re.match(r"blocks\.\d+\.mlp\.", name)
        if block and f"{block[0]}fc1_g.weight" in encoder:
            new = re.sub(r"mlp\.fc(1_g|1_x|2)\.", lambda match: _THREE[match[0]], new)
        elif block and _gated(encoder, block[0]):
            new = new.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3.")
        written[new] = tensor
    return written


_THREE = {"mlp.fc1_g.": "mlp.w1.", "mlp.fc1_x.": "mlp.w2.", "mlp.fc2.": "mlp.w3."}


def _gated(encoder: State, mlp: str) -> bool:
    first, second = encoder.get(f"{mlp}fc1.weight"), encoder.get(f"{mlp}fc2.weight")
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _read_absolute(state: State, layout: Layout) -> Recognised:
    found = Naming(dropped=PRETRAINING).read(state, _EVA01)
    return in_vit_names(found) if layout == "vit" else found


def _read_eva02(state: State, layout: Layout) -> Recognised:
    words = "EVA-02 pretraining checkpoint" if "lm_head.weight" in state else "EVA-02 encoder or classifier"
    found = norm_from_fc_norm(_with_projections(_EVA02.read(state, words)))
    _note_rotary(found, state, "")
    return found


def _read_clip(state: State, layout: Layout) -> Recognised:
    found = norm_from_fc_norm(_with_projections(_CLIP.read(state, _TOWER)))
    _note_rotary(found, state, _VISUAL)
    return found


def _write_clip(encoder: State) -> dict[str, Tensor]:
    return {_VISUAL + name: tensor for name, tensor in _written(encoder).items()}


FORMATS = [
    Format(
        _EVA01,
        ("eva", "beit", "vit"),
        lambda state: is_pretraining(state) and not has_tables(state),
        _read_absolute,
    ),
    Format("EVA-02 checkpoint", ("eva",), _is_eva02, _read_eva02, _written),
    Format(
        _TOWER,
        ("eva",),
        lambda state: _is_eva02(state, _VISUAL) or is_beit_style(state, _VISUAL),
        _read_clip,
        _write_clip,
    ),
]
