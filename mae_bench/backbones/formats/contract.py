"""What a checkpoint format is: how it is recognised from its keys, and how it becomes timm's names.

Each published format is one `Format` in a module of this package; `mae_bench.backbones.formats` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mae_bench.backbones.report import Entry

Layout = Literal["vit", "beit", "eva"]
"""Whose names a plain ViT's tensors have in timm: `VisionTransformer`, `Beit` or `Eva`."""

State = Mapping[str, Tensor]


@dataclass
class Recognised:
    """A checkpoint's encoder under timm's names.

    Attributes:
        format: what the checkpoint is, in words.
        encoder: tensors of the encoder, and whatever is not known.
        renamed: name now -> name in the file (several, joined by " + ", where they were put together).
        dropped: tensors that the format may hold besides the encoder, each with the reason.
        notes: anything else worth knowing, a sentence each.
    """

    format: str
    encoder: dict[str, Tensor]
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """One published format of checkpoints.

    Attributes:
        name: what it is, in words.
        layouts: the layouts that `read` can give, the natural one first.
        matches: whether a checkpoint is of this format, by its names and shapes alone; at most one format of
            the list may say so.
        read: the encoder in timm's names of a layout. Whatever the format does not know stays in `encoder`
            under its own name, so that it is found to be unexpected.
        write: an encoder's tensors in timm's names of the natural layout as the format has them (the way
            back of `read`); None where that loses something.
    """

    name: str
    layouts: tuple[Layout, ...]
    matches: Callable[[State], bool]
    read: Callable[[State, Layout], Recognised]
    write: Callable[[State], dict[str, Tensor]] | None = None
