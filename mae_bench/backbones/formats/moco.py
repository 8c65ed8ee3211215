"""MoCo v3 (Chen, Xie & He, arXiv:2104.02057): two encoders with projectors, and a predictor.

Names are those of facebookresearch/moco-v3, whose linear probe takes ``base_encoder`` (its main_lincls.py)
and so do we. ``key=momentum_encoder`` chooses the other. The checkpoints of that probe are ordinary
classifiers, and what its convert_to_deit.py writes are encoders under timm's names.
"""

from __future__ import annotations

from functools import partial

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import TIMM, Reasons, pattern_of, put, take
from mae_bench.backbones.formats.timm_vit import is_vit

_BASE, _MOMENTUM = "base_encoder.", "momentum_encoder."
_MLP = r"\d+\.(weight|bias|running_mean|running_var|num_batches_tracked)"
_DROPPED: Reasons = (
    (rf"(base_encoder\.)?head\.{_MLP}", "projector"),
    (rf"predictor\.{_MLP}", "predictor"),
    (rf"momentum_encoder\.({pattern_of(name for name, _ in TIMM)}|head\.{_MLP})", "momentum encoder"),
)


def _has_both(state: State) -> bool:
    return is_vit(state, _BASE)


def _is_one(state: State) -> bool:
    """One of the encoders alone, known by its projector: linear layers where a linear probe has BatchNorm."""
    first = state.get("head.0.weight")
    return first is not None and first.ndim == 2 and is_vit(state)


def _read(prefix: str, name: str, state: State, layout: Layout) -> Recognised:
    found = take(state, name, prefix=prefix, dropped=_DROPPED)
    if any(key.startswith(_MOMENTUM) for key in state):
        found.notes.append(
            "of MoCo v3's encoders 'base_encoder' was taken, as its authors evaluate it; "
            "key=momentum_encoder takes the other"
        )
    if found.encoder["pos_embed"].shape[-1] == 384:
        found.notes.append(
            "MoCo v3's ViT-S has 12 heads, which its weights do not show, and timm's has 6: give "
            "num_heads=12 unless this one was made otherwise"
        )
    return found


_PAIR, _ONE = "MoCo v3 pretraining checkpoint", "MoCo v3 encoder with projector"

FORMATS: list[Format] = [
    Format(_PAIR, ("vit",), _has_both, partial(_read, _BASE, _PAIR), partial(put, prefix=_BASE)),
    Format(_ONE, ("vit",), _is_one, partial(_read, "", _ONE)),
]
"""The formats of this module, for the list of all."""
