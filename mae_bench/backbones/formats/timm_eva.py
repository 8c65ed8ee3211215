"""timm's own names of its `Eva` models, and of BEiT's blocks where there are no relative positions.

The latter are also what fine-tuned EVA-01, CAE and SimMIM with absolute positions are called; their function
is that of a `VisionTransformer` whose keys have no bias.
"""

from __future__ import annotations

from mae_bench.backbones.formats.beit import HEAD, has_tables, in_vit_names, is_beit_style
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import Reasons, norm_from_fc_norm, take

_ABSOLUTE = "BEiT-style encoder or classifier with absolute positions"
_EVA = "Eva encoder or classifier (timm)"
_DROPPED: Reasons = (*HEAD, (r"attn_pool\..+", "attention pooling"))
_ATTENTION = "blocks.0.attn."
# By these a checkpoint is known to be of the official code of EVA or DINOv3.
_OFFICIAL = {
    *("storage_tokens", "rope_embed.periods", "rope.freqs_cos", f"{_ATTENTION}rope.freqs_cos"),
    *("lm_head.weight", "blocks.0.mlp.w1.weight", "blocks.0.mlp.w12.weight"),
}


def _is_absolute(state: State) -> bool:
    plain = "pos_embed" in state and not {"lm_head.weight", f"{_ATTENTION}norm.weight"} & set(state)
    return plain and is_beit_style(state) and not has_tables(state)


def _is_eva(state: State) -> bool:
    """Names of timm's `Eva` alone: separate projections, or split bias or LayerScale not as in BEiT."""
    if "patch_embed.proj.weight" not in state or _OFFICIAL & set(state) or has_tables(state):
        return False
    split_bias, fused = f"{_ATTENTION}q_bias" in state, f"{_ATTENTION}qkv.weight" in state
    if f"{_ATTENTION}q_proj.weight" in state:
        return not split_bias
    if split_bias:
        return fused and not _is_absolute(state)
    return fused and "blocks.0.gamma_1" in state and not _is_deit3(state)


def _is_deit3(state: State) -> bool:
    """DeiT III calls LayerScale as BEiT does; it has positions in a table and no rotary ones learnt."""
    return f"{_ATTENTION}qkv.bias" in state and "pos_embed" in state and "rope.freqs" not in state


def _read_absolute(state: State, layout: Layout) -> Recognised:
    found = norm_from_fc_norm(take(state, _ABSOLUTE, dropped=_DROPPED))
    return in_vit_names(found) if layout == "vit" else found


def _read_eva(state: State, layout: Layout) -> Recognised:
    return norm_from_fc_norm(take(state, _EVA, dropped=_DROPPED))


FORMATS = [
    Format(
        _ABSOLUTE,
        ("eva", "beit", "vit"),
        _is_absolute,
        _read_absolute,
        dict,
    ),
    Format(_EVA, ("eva",), _is_eva, _read_eva, dict),
]
