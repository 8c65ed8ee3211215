"""Sizes of backbones by the names that vision transformers go by, to put like beside like."""

from __future__ import annotations

import re

from mae_bench.results import BackboneRecord

SIZES = ("Tiny", "Small", "Base", "Large", "Huge", "Giant")

# Weights from which a backbone is of the next size: ViT-S has 22 million, -B 86, -L 304, -H 632, -g 1,000.
_BOUNDS = (12e6, 45e6, 180e6, 450e6, 900e6)
_WORDS = {
    "t": "Tiny", "ti": "Tiny", "tiny": "Tiny",
    "s": "Small", "small": "Small",
    "b": "Base", "base": "Base",
    "l": "Large", "large": "Large",
    "h": "Huge", "huge": "Huge",
    "g": "Giant", "giant": "Giant", "gigantic": "Giant",
}  # fmt: skip
# A separator, the word of a size, and no more of that word; a number may follow, as in "ViT-H448".
_SIZE = re.compile(r"[-_.](" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")(?![a-z])")


def size_of(backbone: BackboneRecord) -> str | None:
    """What its architecture is called, else by the number of its weights; None if neither is known."""
    named = named_size(backbone.arch)
    if named is None and backbone.params is not None:
        return SIZES[sum(backbone.params >= bound for bound in _BOUNDS)]
    return named


def named_size(text: str) -> str | None:
    """The size that a name tells, if it tells one: ``ViT-L/16`` and ``vit_large_patch16`` are Large."""
    found = {_WORDS[word] for word in _SIZE.findall(text.lower())}
    return found.pop() if len(found) == 1 else None
