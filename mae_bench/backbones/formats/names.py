"""Names of an encoder's tensors by a table: what a format calls them and what timm does, both ways.

A table is of pairs, their name and timm's. In a pair

* ``#`` stands for a number that both names have, ``?`` for one that theirs alone has (another pair of the
  same name has to go before, to be written);
* ``*`` stands for ``weight`` or ``bias``;
* ``@1/3`` behind timm's name says that theirs is the first of three parts of it, one below the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch import Tensor

from mae_bench.backbones.formats.contract import Recognised, State
from mae_bench.backbones.report import Entry
from mae_bench.errors import MaeBenchError

Pairs = tuple[tuple[str, str], ...]
"""Their name, timm's name. The first pair of a name of theirs is read, the first of one of timm's written."""

Reasons = tuple[tuple[str, str], ...]
"""Pattern of a tensor's whole name -> what the tensor belongs to, which is why it is left out."""

_OWN = (
    *("cls_token", "reg_token", "pos_embed", "patch_embed.proj.*", "norm_pre.*", "norm.*", "fc_norm.*"),
    *(f"blocks.#.{module}.*" for module in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    *("blocks.#.attn.q_norm.*", "blocks.#.attn.k_norm.*", "blocks.#.ls1.gamma", "blocks.#.ls2.gamma"),
)
TIMM: Pairs = tuple((name, name) for name in _OWN)
"""timm's own names, for formats that only put something before them."""


# ---------------------------------------------------------------- both ways


def take(
    state: State, words: str, *, prefix: str = "", pairs: Pairs = TIMM, dropped: Reasons = ()
) -> Recognised:
    """The encoder in timm's names; what neither a pair nor a reason knows keeps its own name.

    So does the second tensor for one name, and a part of several that are not all there and of one shape.

    Args:
        words: what the format is.
        prefix: what stands before the encoder's names, in addition to the pairs.
        dropped: why tensors are left out, by their names in `state`.

    Raises:
        MaeBenchError: the name that a tensor would keep is that of another one now.
    """
    found = Recognised(words, {})
    kept: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        reason = next((why for pattern, why in dropped if re.fullmatch(pattern, theirs)), "")
        ours = translated(theirs.removeprefix(prefix), pairs) if theirs.startswith(prefix) else ""
        if reason:
            found.dropped.append(Entry(theirs, tuple(tensor.shape), reason))
        elif ours and ours not in found.encoder:
            found.encoder[ours], found.renamed[ours] = tensor, theirs
        else:
            kept[theirs] = tensor
    kept |= _joined(found)
    found.renamed = {ours: theirs for ours, theirs in found.renamed.items() if ours != theirs}
    for theirs, tensor in kept.items():
        _place(found, theirs, tensor, theirs)
    return found


def put(encoder: State, *, prefix: str = "", pairs: Pairs = TIMM, gated: Pairs = ()) -> dict[str, Tensor]:
    """The way back of `take`: their names for an encoder's tensors.

    Args:
        gated: what goes before the pairs within an MLP that has a gate.
    """
    written: dict[str, Tensor] = {}
    for ours, tensor in encoder.items():
        names = _theirs(ours, (*gated, *pairs) if gated and _has_gate(encoder, ours) else pairs)
        # Parts are copies, since a file may not hold tensors that share memory.
        pieces = [piece.clone() for piece in tensor.chunk(len(names))] if len(names) > 1 else [tensor]
        written |= {prefix + name: piece for name, piece in zip(names, pieces, strict=True)}
    return written


def translated(name: str, pairs: Pairs) -> str:
    """timm's name for one of theirs, maybe of a part; "" where no pair knows it."""
    for pattern, target in _compiled(pairs):
        match = pattern.fullmatch(name)
        if match is not None:
            return target.format(*match.groups())
    return ""


def pattern_of(names: Iterable[str]) -> str:
    """A pattern of any of their names in a table, for a reason."""
    return f"({'|'.join(_pattern(name) for name in names)})"


# ---------------------------------------------------------------- one tensor after another


def rename(found: Recognised, old: str, new: str) -> None:
    """Let a tensor of the encoder be called `new`, and remember what the file calls it."""
    merge(found, [old], new, found.encoder[old])


def merge(found: Recognised, parts: Sequence[str], whole: str, tensor: Tensor) -> None:
    """Let `tensor` take the place of several of the encoder, and remember what the file calls these.

    Raises:
        MaeBenchError: another one is called `whole`.
    """
    origin = " + ".join(found.renamed.pop(part, part) for part in parts)
    for part in parts:
        del found.encoder[part]
    _place(found, whole, tensor, origin)


def norm_from_fc_norm(found: Recognised) -> Recognised:
    """Where the norm was trained after pooling, let it be the final norm of the tokens (in place)."""
    if not any(name.startswith("norm.") for name in found.encoder):
        for name in [name for name in found.encoder if name.startswith("fc_norm.")]:
            rename(found, name, name.removeprefix("fc_"))
    return found


def _place(found: Recognised, ours: str, tensor: Tensor, theirs: str) -> None:
    if ours in found.encoder:
        raise MaeBenchError(
            f"the checkpoint ({found.format}) holds two tensors for {ours}: "
            f"{found.renamed.get(ours, ours)} and {theirs}; keep one of them"
        )
    found.encoder[ours] = tensor
    if ours != theirs:
        found.renamed[ours] = theirs


def _joined(found: Recognised) -> dict[str, Tensor]:
    """Put parts together (in place); those that cannot be are returned under their names in the file."""
    apart: dict[str, Tensor] = {}
    for whole in {name.partition("@")[0]: None for name in found.encoder if "@" in name}:
        parts = sorted(name for name in found.encoder if name.startswith(f"{whole}@"))
        tensors = [found.encoder[part] for part in parts]
        alike = len({(tensor.dtype, tensor.shape) for tensor in tensors}) == 1 and tensors[0].ndim > 0
        if alike and parts[0].endswith(f"/{len(parts)}") and whole not in found.encoder:
            merge(found, parts, whole, torch.cat(tensors))
        else:
            apart |= {found.renamed.pop(part): found.encoder.pop(part) for part in parts}
    return apart


# ---------------------------------------------------------------- tables


def _theirs(name: str, pairs: Pairs) -> list[str]:
    """Their name for one of timm's, or the names of its parts; the name itself where no pair knows it."""
    for pattern, targets in _turned(pairs):
        match = pattern.fullmatch(name)
        if match is not None:
            return [target.format(*match.groups()) for target in targets]
    return [name]


def _has_gate(encoder: State, name: str) -> bool:
    """Whether a tensor is of an MLP with a gate, beside its first layer or in one with it."""
    mlp = name.partition(".mlp.")[0] + ".mlp."
    first, second = encoder.get(f"{mlp}fc1.weight"), encoder.get(f"{mlp}fc2.weight")
    in_one = first is not None and second is not None and first.shape[0] == 2 * second.shape[1]
    return in_one or f"{mlp}fc1_g.weight" in encoder


@cache
def _compiled(pairs: Pairs) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(_pattern(theirs)), re.sub(r"[#*]", "{}", ours)) for theirs, ours in pairs]


@cache
def _turned(pairs: Pairs) -> list[tuple[re.Pattern[str], list[str]]]:
    """Pattern of timm's name -> the name of theirs that is written, or those of all parts."""
    turned: dict[str, list[str]] = {}
    counts: dict[str, str] = {}
    for theirs, ours in pairs:
        whole, _, part = ours.partition("@")
        number, _, count = part.partition("/")
        names = turned.setdefault(whole, [])
        if counts.setdefault(whole, count) == count and int(number or 1) == len(names) + 1:
            names.append(re.sub(r"[#*]", "{}", theirs))
    return [(re.compile(_pattern(ours)), names) for ours, names in turned.items()]


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\#", r"(\d+)").replace(r"\?", r"\d+").replace(r"\*", "(weight|bias)")
