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
from mae_bench.backbones.formats.renaming import Naming
from mae_bench.backbones.report import Entry

_BACKBONE = "backbone."
_BASE = 100.0  # of the periods in all released models
_AFFINE = r"\.(weight|bias)"
_BLOCK = r"(blocks\.\d+)"
_DROPPED = {
    r"(backbone\.)?mask_token": "mask token",
    r"(backbone\.)?rope_embed\.periods": "periods of the rotary positions, computed",
    rf"(backbone\.)?local_cls_norm{_AFFINE}": "norm of local crops, for pretraining alone",
    rf"(dino_head|ibot_head)\.(mlp(\.\d+)?{_AFFINE}|last_layer\.weight)": "head",
}
_RENAMED = {
    r"storage_tokens": "reg_token",
    rf"{_BLOCK}\.ls([12])\.gamma": r"\1.gamma_\2",
    rf"{_BLOCK}\.mlp\.w1{_AFFINE}": r"\1.mlp.fc1_g.\2",
    rf"{_BLOCK}\.mlp\.w2{_AFFINE}": r"\1.mlp.fc1_x.\2",
    rf"{_BLOCK}\.mlp\.w3{_AFFINE}": r"\1.mlp.fc2.\2",
}


def _prefix(state: State) -> str:
    return _BACKBONE if f"{_BACKBONE}cls_token" in state else ""


def _matches(state: State) -> bool:
    prefix = _prefix(state)
    own = {f"{prefix}rope_embed.periods", f"{prefix}storage_tokens"}
    return bool(own & set(state)) and f"{prefix}blocks.0.attn.qkv.weight" in state


def _read(state: State, layout: Layout) -> Recognised:
    prefix = _prefix(state)
    found = Naming(prefix, _DROPPED, _RENAMED).read(state, "DINOv3 teacher" if prefix else "DINOv3 backbone")
    for name in [name for name in found.encoder if re.fullmatch(rf"{_BLOCK}\.attn\.qkv\.bias", name)]:
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
    three = {"fc1_g": "w1", "fc1_x": "w2", "fc2": "w3"}
    written: dict[str, Tensor] = {}
    for name, tensor in encoder.items():
        scale = re.fullmatch(rf"{_BLOCK}\.gamma_([12])", name)
        mlp = re.fullmatch(rf"({_BLOCK}\.mlp)\.(fc1_g|fc1_x|fc2){_AFFINE}", name)
        bias = re.fullmatch(rf"({_BLOCK}\.attn)\.q_bias", name)
        if name == "reg_token":
            written["storage_tokens"] = tensor
        elif scale:
            written[f"{scale[1]}.ls{scale[2]}.gamma"] = tensor
        elif mlp and f"{mlp[1]}.fc1_g.weight" in encoder:
            written[f"{mlp[1]}.{three[mlp[3]]}.{mlp[4]}"] = tensor
        elif bias:
            zeros, ones = torch.zeros_like(tensor), torch.ones_like(tensor)
            written[f"{bias[1]}.qkv.bias"] = torch.cat([tensor, zeros, encoder[f"{bias[1]}.v_bias"]])
            written[f"{bias[1]}.qkv.bias_mask"] = torch.cat([ones, zeros, ones])
        elif not re.fullmatch(rf"{_BLOCK}\.attn\.v_bias", name):
            written[name] = tensor
    return written


FORMATS = [Format("DINOv3 backbone or teacher", ("eva",), _matches, _read, _write)]
