"""What each family of backbones can do: the table of `mae-bench list backbones`.

It is written down here, not asked of the models, so that listing imports no torch; a test holds every row
against a backbone of its family.
"""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any, Literal

WIDTH = 110
"""Columns of a terminal that the table fits."""


@dataclass(frozen=True)
class Capability:
    """One row: a family, and what holds for all of it.

    Attributes:
        family: what `Backbone.family` says; "" where that is the name of a class.
        about: in words, which of the family it is, or what there is of it.
        example_arch: timm's name of an architecture of the family; "" for a user's own module.
        layout: whose names its tensors have (``vit``, ``beit``, ``eva``), else ``flat`` or ``hierarchical``.
        positions: how it knows where a patch lies; "": it needs nothing; None: it depends on the model.
        class_token: None: some have one.
        registers: whether it has further prefix tokens; None: some do.
        any_size: whether images may have any size that its patches or strides divide; None: some may.
        windows: whether its blocks can be made to attend in windows, as ViTDet does.
        halves: whether half a block can be tuned (the 0.5 of partial fine-tuning).
        splits: whether the frozen part can be computed once for all epochs.
        patches: whether weights can be taken for another patch size (``patch_size=16``).
        classification, coco, ade20k: the tasks that take it.
        cannot: in words, what it cannot do.
    """

    family: str
    about: str
    example_arch: str
    layout: Literal["vit", "beit", "eva", "flat", "hierarchical"]
    positions: Literal["absolute", "relative", "rotary", ""] | None
    class_token: bool | None
    registers: bool | None = False
    any_size: bool | None = True
    windows: bool = True
    halves: bool = True
    splits: bool = True
    patches: bool = True
    classification: bool = True
    coco: bool = True
    ade20k: bool = True
    cannot: str = ""

    @property
    def hierarchical(self) -> bool:
        """Whether its maps fall in resolution."""
        return self.layout == "hierarchical"

    @property
    def label(self) -> str:
        """What stands in the first column."""
        return f"{self.family} ({self.about})" if self.family and self.about else self.family or self.about


_WHOLE = "tunes whole blocks only, and runs the frozen ones anew in every epoch"
_AS_IT_IS = "in detection and segmentation it attends as ever, without windows or further relative positions"
_SIZES = "whether it takes images of other sizes than its own is timm's matter"


def _hierarchical(
    family: str, about: str, example_arch: str, positions: Literal["absolute", "relative", ""] | None
) -> Capability:
    """A row of a family with maps of several resolutions, whose cells are its tokens."""
    return Capability(
        family,
        about,
        example_arch,
        "hierarchical",
        positions,
        class_token=False,
        windows=False,
        halves=False,
        splits=False,
        patches=False,
        cannot=_WHOLE,
    )


CAPABILITIES: tuple[Capability, ...] = (
    Capability("ViT", "MAE, DINO, MoCo v3, DeiT", "vit_tiny_patch16_224", "vit", "absolute", True),
    Capability("ViT", "I-JEPA", "vit_base_patch16_gap_224", "vit", "absolute", False),
    Capability("DeiT III", "", "deit3_small_patch16_224", "vit", "absolute", True),
    Capability("DINOv2", "", "vit_small_patch14_dinov2", "vit", "absolute", True),
    Capability("DINOv2", "with registers", "vit_small_patch14_reg4_dinov2", "vit", "absolute", True, True),
    Capability("DINOv3", "", "vit_small_patch16_dinov3", "eva", "rotary", True, True),
    Capability("CLIP", "", "vit_base_patch16_clip_224", "vit", "absolute", True),
    Capability("SigLIP", "and SigLIP 2", "vit_base_patch16_siglip_224", "vit", "absolute", False),
    Capability("AIMv2", "", "aimv2_large_patch14_224", "vit", "absolute", False),
    Capability("BEiT", "data2vec, SimMIM", "beit_base_patch16_224", "beit", "relative", True),
    Capability("BEiT v2", "", "beitv2_base_patch16_224", "beit", "relative", True),
    Capability("EVA", "EVA-01", "eva_giant_patch14_224", "eva", "absolute", True),
    Capability("EVA", "EVA-02", "eva02_tiny_patch14_224", "eva", "rotary", True),
    Capability("ViT with rotary positions", "", "vit_small_patch16_rope_224", "eva", "rotary", None, None),
    _hierarchical("Hiera", "", "hiera_tiny_224", "absolute"),
    _hierarchical("Swin", "", "swin_tiny_patch4_window7_224", "relative"),
    _hierarchical("Swin V2", "", "swinv2_tiny_window8_256", "relative"),
    _hierarchical("ConvNeXt", "DINOv3's too", "convnext_atto", ""),
    _hierarchical("ConvNeXt V2", "", "convnextv2_atto", ""),
    _hierarchical("ResNet", "", "resnet18", ""),
    Capability(
        "",
        "other timm, one resolution",
        "xcit_tiny_12_p16_224",
        "flat",
        None,
        class_token=None,
        registers=None,
        any_size=None,
        windows=False,
        halves=False,
        splits=False,
        patches=False,
        cannot=f"{_WHOLE}; {_AS_IT_IS}; {_SIZES}",
    ),
    Capability(
        "",
        "other timm, four resolutions",
        "pvt_v2_b0",
        "hierarchical",
        None,
        class_token=False,
        any_size=None,
        windows=False,
        halves=False,
        splits=False,
        patches=False,
        cannot=f"{_WHOLE}; {_SIZES}",
    ),
    Capability(
        "your own, plain",
        "",
        "",
        "flat",
        None,
        class_token=None,
        registers=None,
        windows=False,
        halves=False,
        patches=False,
        cannot=f"tunes whole blocks only; {_AS_IT_IS}",
    ),
    _hierarchical("your own, hierarchical", "", "", None),
)
"""The rows, in the order in which they are shown."""

_COLUMNS = {
    "positions": "positions",
    "class_token": "cls",
    "registers": "regs",
    "any_size": "sizes",
    "windows": "windows",
    "halves": "halves",
    "splits": "once",
    "patches": "patches",
    "classification": "classify",
    "coco": "COCO",
    "ade20k": "ADE20K",
}
"""Field -> heading of its column."""

_LEGEND = (
    "cls: a class token; regs: registers; sizes: images of any size; windows: attention in windows (ViTDet); "
    "halves: half a block can be tuned (partial fine-tuning, 0.5); once: the frozen part is computed once "
    "for all epochs; patches: weights are resized to other patches (patch_size=16); classify, COCO, ADE20K: "
    "tasks that take it; some: it depends on the model."
)


def rows() -> list[dict[str, Any]]:
    """The table for programs: one dictionary for each family, null where it depends on the model."""
    return [asdict(capability) for capability in CAPABILITIES]


def as_lines() -> list[str]:
    """The table for a person, at most `WIDTH` wide: a heading, rows, and what they cannot do."""
    head = ["family", *_COLUMNS.values()]
    body = [[c.label, *(_cell(getattr(c, name)) for name in _COLUMNS)] for c in CAPABILITIES]
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    lines = [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *body)
    ]
    cannot: dict[str, list[str]] = {}
    for capability in CAPABILITIES:
        if capability.cannot:
            cannot.setdefault(capability.cannot, []).append(capability.label)
    notes = [f"{'; '.join(families)}: {text}." for text, families in cannot.items()]
    return [*lines, *(line for text in (_LEGEND, *notes) for line in _wrapped(text))]


def _cell(value: bool | str | None) -> str:
    if isinstance(value, str):
        return value or "-"
    return "some" if value is None else "yes" if value else "-"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH - 2, subsequent_indent="  ", break_on_hyphens=False)
