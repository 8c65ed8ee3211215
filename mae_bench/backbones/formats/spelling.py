"""Encoders that a library spells in its own way: its names to timm's by a table, and back.

A table pairs modules (their ``weight`` and ``bias`` go along) and single tensors. Query, key and value, which
many libraries keep apart, stand in it as ``attn.query``, ``attn.key`` and ``attn.value``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Layout, Recognised, State
from mae_bench.backbones.report import Entry

Reasons = tuple[tuple[str, str], ...]
"""Pattern of a tensor's whole name -> what the tensor belongs to."""


@dataclass(frozen=True)
class Spelling:
    """How a family spells its encoder.

    Attributes:
        name: the family, in words.
        layout: whose names the tensors get.
        kernel: the patch embedding's kernel, by which the word before the encoder's names is found.
        blocks: what stands before the number of a block; the first is written, the others are read as well.
        outside: modules and tensors outside of the blocks, theirs -> timm's.
        inside: those within a block. Where several stand for one of timm's, the first is written.
        dropped: what else a file may hold, by names without the word before the encoder.
        finish: what is left to do once the tensors have timm's names.
        undo: the way back of `finish`.
    """

    name: str
    layout: Layout
    kernel: str
    blocks: tuple[str, ...]
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    dropped: Reasons
    finish: Callable[[Recognised], None] | None = None
    undo: Callable[[dict[str, Tensor]], None] | None = None


# ---------------------------------------------------------------- reading


def prefix_of(spelling: Spelling, state: State) -> str | None:
    """What stands before the encoder's names; None if there is not exactly one encoder."""
    ends = [name for name in state if name == spelling.kernel or name.endswith(f".{spelling.kernel}")]
    return ends[0].removesuffix(spelling.kernel) if len(ends) == 1 else None


def read(spelling: Spelling, state: State, layout: Layout) -> Recognised:
    """The encoder in timm's names of the spelling's one layout."""
    prefix = prefix_of(spelling, state) or ""
    found = Recognised(spelling.name, {})
    for name, tensor in state.items():
        inner = name.removeprefix(prefix)
        own = _own_name(spelling, inner) if name.startswith(prefix) else ""
        reason = "" if own else _why_dropped(spelling, inner)
        if reason:
            found.dropped.append(Entry(name, tuple(tensor.shape), reason))
        elif own and own not in found.encoder:
            found.encoder[own] = tensor
            found.renamed[own] = name
        else:
            found.encoder[name] = tensor
    _join_attention(found, layout)
    if spelling.finish is not None:
        spelling.finish(found)
    found.renamed = {own: name for own, name in found.renamed.items() if own != name}
    return found


def _own_name(spelling: Spelling, name: str) -> str:
    """timm's name of one of the encoder's tensors; "" for any other."""
    for blocks in spelling.blocks:
        match = re.fullmatch(rf"{re.escape(blocks)}\.(\d+)\.(.+)", name)
        if match is not None:
            inner = _looked_up(spelling.inside, match[2])
            return f"blocks.{match[1]}.{inner}" if inner else ""
    return _looked_up(spelling.outside, name)


def _looked_up(table: Mapping[str, str], name: str) -> str:
    if name in table:
        return table[name]
    module, _, leaf = name.rpartition(".")
    return f"{table[module]}.{leaf}" if module in table and leaf in ("weight", "bias") else ""


def _why_dropped(spelling: Spelling, name: str) -> str:
    return next((reason for pattern, reason in spelling.dropped if re.fullmatch(pattern, name)), "")


def _join_attention(found: Recognised, layout: Layout) -> None:
    """Put query, key and value together; what cannot be put together gets its name in the file back."""
    attentions = dict.fromkeys(
        name.partition(".query.")[0] for name in found.encoder if re.search(r"\.attn\.query\.", name)
    )
    for attention in attentions:
        parts = [f"{attention}.{part}" for part in ("query", "key", "value")]
        join(found, [f"{part}.weight" for part in parts], f"{attention}.qkv.weight")
        if layout == "vit":
            join(found, [f"{part}.bias" for part in parts], f"{attention}.qkv.bias")
            continue
        for part, name in (("query", "q_bias"), ("value", "v_bias")):
            join(found, [f"{attention}.{part}.bias"], f"{attention}.{name}")
    for own in [name for name in found.encoder if re.search(r"\.attn\.(query|key|value)\.", name)]:
        name = found.renamed.pop(own, own)
        found.encoder[name] = found.encoder.pop(own)


def join(found: Recognised, parts: list[str], name: str) -> None:
    """Let one tensor take the place of several, one below the other, if all are there and of one shape."""
    tensors = [found.encoder[part] for part in parts if part in found.encoder]
    alike = {(tensor.dtype, tuple(tensor.shape)) for tensor in tensors}
    if len(tensors) != len(parts) or len(alike) != 1 or tensors[0].ndim == 0:
        return
    found.encoder[name] = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    found.renamed[name] = " + ".join(found.renamed.pop(part) for part in parts)
    for part in parts:
        del found.encoder[part]


# ---------------------------------------------------------------- writing


def write(spelling: Spelling, encoder: State) -> dict[str, Tensor]:
    """An encoder in timm's names as a bare model of transformers has it."""
    state = dict(encoder)
    if spelling.undo is not None:
        spelling.undo(state)
    outside, inside = _turned(spelling.outside), _turned(spelling.inside)
    written = {}
    for own, tensor in state.items():
        match = re.fullmatch(r"(blocks\.(\d+))\.(.+)", own)
        if match is None:
            written[_looked_up(outside, own) or own] = tensor
            continue
        for inner, part in _taken_apart(match[3], tensor).items():
            name = _looked_up(inside, inner)
            written[f"{spelling.blocks[0]}.{match[2]}.{name}" if name else f"{match[1]}.{inner}"] = part
    return written


def _turned(table: Mapping[str, str]) -> dict[str, str]:
    turned: dict[str, str] = {}
    for theirs, ours in table.items():
        turned.setdefault(ours, theirs)
    return turned


def _taken_apart(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Query, key and value of a tensor of a block's that holds all three, else the tensor itself."""
    alone = {"attn.q_bias": "attn.query.bias", "attn.v_bias": "attn.value.bias"}
    module, _, leaf = name.rpartition(".")
    if module != "attn.qkv":
        return {alone.get(name, name): tensor}
    parts = (f"attn.{part}.{leaf}" for part in ("query", "key", "value"))
    return {part: piece.clone() for part, piece in zip(parts, tensor.chunk(3), strict=True)}
