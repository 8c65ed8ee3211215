"""DINO (Caron et al., arXiv:2104.14294) and iBOT (Zhou et al., arXiv:2111.07832) with their projection heads.

Names are those of the networks that facebookresearch/dino and bytedance/ibot keep as ``teacher`` and
``student``: ``backbone.`` and ``head.``. Their published backbones without head have timm's own names; iBOT's
student has a mask token more.
"""

from __future__ import annotations

from functools import partial

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Reasons, take
from mae_bench.backbones.formats.timm_vit import GAMMA, is_vit

_LEAF = r"(weight|bias|weight_g|weight_v|parametrizations\.weight\.original[01])"
_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_DROPPED: Reasons = (
    (rf"head\.(mlp(\.\d+)?|mlp2|last_layer|last_layer2)\.({_LEAF}|{_NORM})", "projection head"),
    (rf"head\.last_norm2?\.{_NORM}", "projection head"),
    (r"(backbone\.)?masked_embed", "mask token"),
)
_BACKBONE = "backbone."


def _prefix(state: State) -> str:
    return _BACKBONE if f"{_BACKBONE}pos_embed" in state else ""


def _has_head(state: State) -> bool:
    return any(name.startswith(("head.mlp.", "head.last_layer.")) for name in state)


def _of_ibot(state: State) -> bool:
    """A token for masked patches, or a second output for patches."""
    starts = ("head.last_layer2.", "head.mlp2.", "head.last_norm.", "head.last_norm2.")
    return f"{_prefix(state)}masked_embed" in state or any(name.startswith(starts) for name in state)


def _is_dino(state: State) -> bool:
    return is_vit(state, _BACKBONE) and _has_head(state) and not _of_ibot(state)


def _is_ibot(state: State) -> bool:
    return is_vit(state, _prefix(state), gamma=True) and _of_ibot(state)


def _read(name: str, state: State, layout: Layout) -> Recognised:
    return take(state, name, prefix=_prefix(state), pairs=GAMMA, dropped=_DROPPED)


_DINO, _IBOT = "DINO network with projection head", "iBOT network"

FORMATS: list[Format] = [
    Format(_DINO, ("vit",), _is_dino, partial(_read, _DINO)),
    Format(_IBOT, ("vit",), _is_ibot, partial(_read, _IBOT)),
]
"""The formats of this module, for the list of all. Neither can be written: a head belongs to both."""
