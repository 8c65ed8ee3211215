"""Encoders that a library spells in one way, whatever stands before their names, in timm's and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mae_bench.backbones.formats.contract import Layout, Recognised, State
from mae_bench.backbones.formats.names import Pairs, Reasons, put, take


@dataclass(frozen=True)
class Spelling:
    """How a family spells its encoder.

    Attributes:
        name: the family, in words.
        layout: whose names the tensors get.
        kernel: the patch embedding's kernel, by which the word before the encoder's names is found.
        pairs: what the encoder's tensors are called.
        dropped: what else a file may hold, by names without the word before the encoder.
        gated: what its MLPs with a gate are called, where that differs.
        finish: what is left to do once the tensors have timm's names, in place.
        undo: the way back of `finish`.
    """

    name: str
    layout: Layout
    kernel: str
    pairs: Pairs
    dropped: Reasons
    gated: Pairs = ()
    finish: Callable[[Recognised], None] = lambda found: None
    undo: Callable[[State], State] = lambda encoder: encoder


def prefix_of(spelling: Spelling, state: State) -> str | None:
    """What stands before the encoder's names; None if there is not exactly one encoder."""
    ends = [name for name in state if name == spelling.kernel or name.endswith(f".{spelling.kernel}")]
    return ends[0].removesuffix(spelling.kernel) if len(ends) == 1 else None


def read(spelling: Spelling, state: State, layout: Layout) -> Recognised:
    """The encoder in timm's names of the spelling's one layout."""
    prefix = prefix_of(spelling, state) or ""
    dropped = tuple((f"({re.escape(prefix)})?({pattern})", why) for pattern, why in spelling.dropped)
    pairs = (*spelling.pairs, *spelling.gated)
    found = take(state, spelling.name, prefix=prefix, pairs=pairs, dropped=dropped)
    spelling.finish(found)
    return found


def write(spelling: Spelling, encoder: State) -> dict[str, Tensor]:
    """An encoder in timm's names as a bare model of the library has it."""
    return put(spelling.undo(encoder), pairs=spelling.pairs, gated=spelling.gated)
