"""BEiT and what is named like it: BEiT v1 (arXiv:2106.08254), v2 (arXiv:2208.06366) and timm's `Beit`.

data2vec, SimMIM, CAE and EVA are forks of BEiT's code. They share its blocks: no bias of the keys
(``q_bias``, ``v_bias`` beside ``qkv.weight``), ``gamma_1`` and ``gamma_2`` for LayerScale, and biases for
relative positions in tables, one shared by all blocks in pretraining and one a block in fine-tuning.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import (
    Pairs,
    Reasons,
    merge,
    norm_from_fc_norm,
    pattern_of,
    rename,
    take,
)

SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
"""The one table of biases that all blocks share."""

_BLOCK = (
    *("gamma_1", "gamma_2", "norm1.*", "norm2.*", "mlp.fc1.*", "mlp.fc2.*", "attn.proj.*"),
    *("attn.q_bias", "attn.v_bias", "attn.qkv.weight", "attn.relative_position_bias_table"),
)
BEIT: Pairs = tuple(
    (name, name)
    for name in (
        *("cls_token", "pos_embed", "patch_embed.proj.*", "norm.*", "fc_norm.*", SHARED_TABLE),
        *(f"blocks.#.{name}" for name in _BLOCK),
    )
)
"""BEiT's own names, which are timm's, for formats that only put something before them."""

BLOCK = pattern_of((*_BLOCK, "attn.relative_position_index"))
"""Pattern of the names within one block."""

HEAD: Reasons = ((r"head\.(weight|bias)", "head"), (r"mask_token", "mask token"))
INDEX: Reasons = (
    (
        r"(encoder\.)?(rel_pos_bias|blocks\.\d+\.attn)\.relative_position_index",
        "index of relative positions, computed",
    ),
)
PRETRAINING: Reasons = (
    *INDEX,
    (r"(encoder\.)?mask_token", "mask token"),
    (r"(cls_pt_)?lm_head\.(weight|bias)", "head"),
    (rf"cls_pt_layers\.\d+\.{BLOCK}|cls_pt_norm\.(weight|bias)", "head of the class token"),
)

_PRETRAINED = "BEiT pretraining checkpoint"
_FINE_TUNED = "BEiT-style encoder or classifier with relative positions"
_TABLE = r"(rel_pos_bias|blocks\.\d+\.attn)\.relative_position_bias_table"


def is_beit_style(state: State, prefix: str = "") -> bool:
    """Whether names after `prefix` are of BEiT's blocks: fused qkv, split bias, plain MLP, nothing rotary."""
    block = f"{prefix}blocks.0"
    first, second = state.get(f"{block}.mlp.fc1.weight"), state.get(f"{block}.mlp.fc2.weight")
    return (
        {f"{block}.attn.q_bias", f"{block}.attn.qkv.weight", f"{prefix}patch_embed.proj.weight"} <= set(state)
        and first is not None
        and second is not None
        and first.shape[0] == second.shape[1]  # a gated MLP has twice the rows
        and not any(name.startswith((f"{prefix}rope.", f"{block}.attn.rope.")) for name in state)
    )


def has_tables(state: State, prefix: str = "") -> bool:
    """Whether there are tables of biases for relative positions."""
    return any(
        name.startswith(prefix) and re.fullmatch(_TABLE, name.removeprefix(prefix)) is not None
        for name in state
    )


def predicts_its_own_width(state: State) -> bool:
    """Whether the head of pretraining gives as many numbers as a token has (features, not words)."""
    head = state["lm_head.weight"]
    return head.shape[0] == head.shape[1]


def is_pretraining(state: State) -> bool:
    """Whether it is BEiT's pretraining model or a fork's: mask token and head on every token."""
    return {"mask_token", "lm_head.weight"} <= set(state) and is_beit_style(state)


def expand_shared(encoder: State, depth: int) -> dict[str, Tensor]:
    """An encoder whose blocks have a table of relative positions each, copied from the shared one.

    This is what the official fine-tuning code does with pretraining weights, and it leaves the function as
    it is. An encoder without a shared table, or with tables of the blocks beside it, is returned as it is.
    """
    per_block = {f"blocks.{index}.attn.relative_position_bias_table" for index in range(depth)}
    if SHARED_TABLE not in encoder or per_block & set(encoder):
        return dict(encoder)
    expanded = {name: tensor for name, tensor in encoder.items() if name != SHARED_TABLE}
    return {**expanded, **{name: encoder[SHARED_TABLE].clone() for name in sorted(per_block)}}


def note_shared_table(found: Recognised) -> Recognised:
    """Say that one table serves all blocks, where it does (in place)."""
    if SHARED_TABLE in found.encoder:
        found.notes.append("one table of relative positions is shared by all blocks, as in pretraining")
    return found


def in_vit_names(found: Recognised) -> Recognised:
    """BEiT's blocks without relative positions as those of timm's VisionTransformer, in place and exactly.

    BEiT gives queries and values a bias and keys none: together they are ``qkv.bias`` with zeros between.
    Its ``gamma_1`` and ``gamma_2`` are timm's ``ls1.gamma`` and ``ls2.gamma``.
    """
    for name in list(found.encoder):
        scale = re.fullmatch(r"(blocks\.\d+)\.gamma_([12])", name)
        if scale:
            rename(found, name, f"{scale[1]}.ls{scale[2]}.gamma")
        block = re.fullmatch(r"(blocks\.\d+\.attn)\.q_bias", name)
        if block and f"{block[1]}.v_bias" in found.encoder:
            queries, values = found.encoder[name], found.encoder[f"{block[1]}.v_bias"]
            bias = torch.cat([queries, torch.zeros_like(values), values])
            merge(found, [name, f"{block[1]}.v_bias"], f"{block[1]}.qkv.bias", bias)
    return found


def _read_pretraining(state: State, layout: Layout) -> Recognised:
    return note_shared_table(take(state, _PRETRAINED, dropped=PRETRAINING))


def _read_fine_tuned(state: State, layout: Layout) -> Recognised:
    return note_shared_table(norm_from_fc_norm(take(state, _FINE_TUNED, dropped=(*HEAD, *INDEX))))


FORMATS = [
    Format(
        _PRETRAINED,
        ("beit",),
        lambda state: is_pretraining(state) and has_tables(state) and not predicts_its_own_width(state),
        _read_pretraining,
    ),
    Format(
        _FINE_TUNED,
        ("beit",),
        lambda state: is_beit_style(state) and has_tables(state) and "lm_head.weight" not in state,
        _read_fine_tuned,
        dict,
    ),
]
