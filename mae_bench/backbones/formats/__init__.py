"""Checkpoint formats, recognised from their keys, as the encoder's tensors in timm's names."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mae_bench.backbones.formats import (
    aimv2,
    beit,
    cae,
    clip,
    data2vec,
    dino,
    dinov2,
    dinov3,
    eva,
    maskfeat,
    moco,
    msn,
    openmmlab,
    simmim,
    timm_eva,
    timm_vit,
    torchvision,
    transformers,
    vitdet,
)
from mae_bench.backbones.formats.contract import Format, Layout, Recognised, State
from mae_bench.backbones.formats.hierarchical import recognise_hierarchical
from mae_bench.backbones.formats.suggestion import CLASSES, EXAMPLES, arch_of
from mae_bench.backbones.report import Entry
from mae_bench.errors import MaeBenchError

__all__ = ["FORMATS", "Format", "Layout", "Recognised", "recognise", "recognise_hierarchical", "suggest"]

_MODULES = (
    *(timm_vit, moco, msn, dino, dinov2, clip, aimv2, torchvision, openmmlab, vitdet),
    *(beit, data2vec, simmim, cae, maskfeat, eva, timm_eva, dinov3, transformers),
)
FORMATS: list[Format] = [one for module in _MODULES for one in module.FORMATS]
"""All formats; a checkpoint is of one of them at most."""


def recognise(state: State, where: str, layout: Layout = "vit") -> Recognised:
    """Take the encoder out of a checkpoint.

    What has a ViT's blocks or patch embedding but is of no format is read as a bare encoder, so that fitting
    it says name by name what is amiss.

    Args:
        where: the file's name, for messages.
        layout: whose names the encoder's tensors get.

    Raises:
        MaeBenchError: the checkpoint holds no ViT encoder (a classification head alone, another network), or
            one that a network of this layout cannot hold.
    """
    inner = clip.trunk(state)
    if inner is not None:
        return _within_trunk(*inner, where, layout)
    one = _format_of(state, where)
    if layout not in one.layouts:
        wanted = " or ".join(CLASSES[name] for name in one.layouts)
        arch = _suggested(one, state) or EXAMPLES[one.layouts[0]]
        raise MaeBenchError(
            f"{where} is {_article(one.name)} {one.name}; give it an arch of timm's {wanted}, for example "
            f"arch={arch}"
        )
    return one.read(state, layout)


def suggest(state: State) -> str | None:
    """timm's name of the architecture that a checkpoint's tensors have, None where there is none.

    What tensors do not show (the number of heads, the activation) is not looked at.
    """
    inner = clip.trunk(state)
    state = inner[0] if inner is not None else state
    matching = [one for one in FORMATS if one.matches(state)]
    return _suggested(matching[0], state) if len(matching) == 1 else None


def _suggested(one: Format, state: State) -> str | None:
    layout = one.layouts[0]
    arch = arch_of(one.read(state, layout), layout)
    return clip.with_quickgelu(arch, state) if arch else None


def _format_of(state: State, where: str) -> Format:
    matching = [one for one in FORMATS if one.matches(state)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = "' and '".join(one.name for one in matching)
        raise MaeBenchError(f"{where} has keys of more than one format ('{names}'); save its encoder alone")
    if any(name.startswith(("patch_embed.", "blocks.")) for name in state):
        return timm_vit.UNKNOWN
    only_head = all(timm_vit.is_head(name) for name in state)
    raise MaeBenchError(
        f"{where} holds {'only a classification head' if only_head else 'no ViT encoder'}: "
        f"its {len(state)} tensors are {', '.join(list(state)[:5])}{' ...' if len(state) > 5 else ''}"
        f"{'' if only_head else _where_else(state)}"
    )


def _where_else(state: State) -> str:
    """By which key an encoder is found that lies under a name of its own."""
    ends = [name.removesuffix(".patch_embed.proj.weight") for name in state]
    inner = [name for name, whole in zip(ends, state, strict=True) if name != whole]
    options = " or ".join(f"key={name}" for name in inner[:3])
    return f"; there may be one by {options}" if inner else ""


def _within_trunk(
    state: dict[str, Tensor], dropped: list[Entry], names: dict[str, str], where: str, layout: Layout
) -> Recognised:
    """timm's model within one of open_clip, in whatever format it is."""
    found = recognise(state, where, layout)
    renamed = {ours: names.get(found.renamed.get(ours, ours), ours) for ours in found.encoder}
    return replace(
        found,
        format=f"open_clip's trunk: {found.format}",
        renamed={ours: theirs for ours, theirs in renamed.items() if ours != theirs},
        dropped=[*(replace(entry, name=names[entry.name]) for entry in found.dropped), *dropped],
    )


def _article(words: str) -> str:
    return "an" if words.startswith(("A", "E", "I", "O", "a", "e", "i", "o", "MA")) else "a"
