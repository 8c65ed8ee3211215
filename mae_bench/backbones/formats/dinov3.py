"""DINOv3 (arXiv:2508.10104), official names: released backbones and teachers of its training code.

``qkv.bias`` comes with ``bias_mask``, which makes the bias of the keys zero; timm's `Eva` has ``q_bias`` and
``v_bias`` instead, or, in the architectures without ``_qkvb``, none, as the released models that were
distilled have zeros there. Rotary positions have nothing to learn: their ``periods`` timm computes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.names import TIMM, Pairs, Reasons, put, take
from mae_bench.backbones.report import Entry

_BACKBONE = "backbone."
_BASE = 100.0  # of the periods in all released models
_DROPPED: Reasons = (
    (r"(backbone\.)?mask_token", "mask token"),
    (r"(backbone\.)?rope_embed\.periods", "periods of the rotary positions, computed"),
    (r"(backbone\.)?local_cls_norm\.(weight|bias)", "norm of local crops, for pretraining alone"),
    (r"(dino_head|ibot_head)\.(mlp(\.\d+)?\.(weight|bias)|last_layer\.weight)", "head"),
)
_PAIRS: Pairs = (
    ("storage_tokens", "reg_token"),
    ("blocks.#.ls1.gamma", "blocks.#.gamma_1"),
    ("blocks.#.ls2.gamma", "blocks.#.gamma_2"),
    *TIMM,
    ("blocks.#.attn.qkv.bias_mask", "blocks.#.attn.qkv.bias_mask"),
)
_GATED: Pairs = (
    ("blocks.#.mlp.w1.*", "blocks.#.mlp.fc1_g.*"),
    ("blocks.#.mlp.w2.*", "blocks.#.mlp.fc1_x.*"),
    ("blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*"),
)


def _prefix(state: State) -> str:
    return _BACKBONE if f"{_BACKBONE}cls_token" in state else ""


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    own = {f"{prefix}rope_embed.periods", f"{prefix}storage_tokens"}
    return bool(own & set(state)) and f"{prefix}blocks.0.attn.qkv.weight" in state


def _read(state: State, layout: Layout) -> Recognised:
    prefix = _prefix(state)
    words = "DINOv3 teacher" if prefix else "DINOv3 backbone"
    found = take(state, words, prefix=prefix, pairs=(*_PAIRS, *_GATED), dropped=_DROPPED)
    for name in [name for name in found.encoder if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.bias", name)]:
        _split_bias(found, name.removesuffix("qkv.bias"))
    _note_periods(found, state.get(f"{prefix}rope_embed.periods"))
    return found


def _note_periods(found: Recognised, periods: Tensor | None) -> None:
    """Say where the rotary positions are not those that timm computes (in place)."""
    if periods is None or periods.is_meta or len(periods) < 2:
        return
    first, second, last = (float(periods[place]) for place in (0, 1, -1))
    # A period is base ** (place / number of periods); training may keep them in bfloat16.
    if abs(first - 1) > 0.01 or abs(second ** len(periods) / _BASE - 1) > 0.05:
        found.notes.append(
            f"its rotary positions have periods from {first:g} to {last:g}; timm's DINOv3 architectures have "
            f"those of base {_BASE:g}"
        )


def _split_bias(found: Recognised, attention: str) -> None:
    """``qkv.bias`` times its mask as ``q_bias`` and ``v_bias``, in place; a bias of the keys stays."""
    names = [f"{attention}qkv.bias", f"{attention}qkv.bias_mask"]
    parts = {name: found.encoder.pop(name) for name in names if name in found.encoder}
    origin = " + ".join(found.renamed.pop(name, name) for name in parts)
    bias = parts[names[0]]
    if names[1] in parts:
        bias = bias * parts[names[1]].to(bias.dtype)
    queries, keys, values = bias.chunk(3)
    # Keys turn with their positions, so a bias of theirs would matter; timm's model cannot have one.
    surely_zero = names[1] in parts if keys.is_meta else not bool(torch.count_nonzero(keys))
    kept = {"q_bias": queries, "v_bias": values, **({} if surely_zero else {"k_bias": keys})}
    for short, tensor in kept.items():
        found.encoder[attention + short] = tensor
        found.renamed[attention + short] = origin


def without_zero_biases(found: Recognised, own: Mapping[str, Tensor]) -> Recognised:
    """Leave out biases of zeros that a network has no place for: the released DINOv3 models hold such.

    Args:
        own: the network's tensors.
    """
    result = Recognised(found.format, {}, dict(found.renamed), list(found.dropped), list(found.notes))
    for name, tensor in found.encoder.items():
        bias = re.fullmatch(r"blocks\.\d+\.attn\.[qv]_bias", name)
        if bias and name not in own and not tensor.is_meta and not bool(torch.count_nonzero(tensor)):
            reason = "bias of zeros, and the architecture has none"
            result.dropped.append(Entry(result.renamed.pop(name, name), tuple(tensor.shape), reason))
        else:
            result.encoder[name] = tensor
    return result


def _write(encoder: State) -> dict[str, Tensor]:
    state = {name: tensor for name, tensor in encoder.items() if not name.endswith((".q_bias", ".v_bias"))}
    for name, queries in encoder.items():
        if name.endswith(".attn.q_bias"):
            attention = name.removesuffix("q_bias")
            zeros, ones = torch.zeros_like(queries), torch.ones_like(queries)
            state[f"{attention}qkv.bias"] = torch.cat([queries, zeros, encoder[f"{attention}v_bias"]])
            state[f"{attention}qkv.bias_mask"] = torch.cat([ones, zeros, ones])
    return put(state, pairs=_PAIRS, gated=_GATED)


FORMATS = [Format("DINOv3 backbone or teacher", ("eva",), _matches, _read, _write)]
