"""The key format of detectron2's ViTDet: its names for the tensors of our detector, and back.

Shapes are the same. The one thing detectron2 has besides is an entry of the class token at the front of the
position table, which its network skips.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError

BACKBONE = "body.backbone.vit"
"""What stands before timm's names in the state of a `Detector` over a plain ViT."""
POSITIONS = f"{BACKBONE}.pos_embed"
RELATIVE = re.compile(rf"{re.escape(BACKBONE)}\.blocks\.(\d+)\.attn\.rel_pos_[hw]")
"""Tables of relative positions, and the block each belongs to."""

# Ours, theirs; # is a number that both have, #+1 the number that is one more. Whatever follows is the same.
_CONV_NORM = ((".conv", ""), (".norm", ".norm"))
_BOX_HEADS = (
    *((f"box_head%.conv#{our}", f"box_head%.conv#+1{their}") for our, their in _CONV_NORM),
    ("box_head%.fc#", "box_head%.fc#+1"),
    ("box_predictor%.classify", "box_predictor%.cls_score"),
    ("box_predictor%.deltas", "box_predictor%.bbox_pred"),
)
_PAIRS = (
    (BACKBONE, "backbone.net"),
    ("pyramid.rescale.0.first", "backbone.simfp_2.0"),
    ("pyramid.rescale.0.norm", "backbone.simfp_2.1"),
    ("pyramid.rescale.0.second", "backbone.simfp_2.3"),
    ("pyramid.rescale.1.0", "backbone.simfp_3.0"),
    *(
        (f"pyramid.project.{level}.{index}{our}", f"backbone.simfp_{level + 2}.{first + index}{their}")
        for level, first in enumerate((4, 1, 0, 1))  # layers that change the size come before
        for index in (0, 1)
        for our, their in _CONV_NORM
    ),
    ("rpn.head.convs.#.conv", "proposal_generator.rpn_head.conv.conv#"),
    ("rpn.head.objectness", "proposal_generator.rpn_head.objectness_logits"),
    ("rpn.head.deltas", "proposal_generator.rpn_head.anchor_deltas"),
    *(
        (f"roi_heads.{our.replace('%', stage)}", f"roi_heads.{their.replace('%', stage)}")
        for our, their in _BOX_HEADS
        for stage in ("", ".#")  # a cascade numbers its heads
    ),
    *(
        (f"roi_heads.mask_head.conv#{our}", f"roi_heads.mask_head.mask_fcn#+1{their}")
        for our, their in _CONV_NORM
    ),
    ("roi_heads.mask_head.enlarge", "roi_heads.mask_head.deconv"),
    ("roi_heads.mask_predictor.masks", "roi_heads.mask_head.predictor"),
)
# timm's ViT and theirs name alike what both have; theirs has this and no more.
_NET = re.compile(
    r"backbone\.net\.(pos_embed|patch_embed\.proj\.(weight|bias)"
    r"|blocks\.\d+\.((norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)|attn\.rel_pos_[hw]))"
)
# Where the proposal head has one convolution, theirs is not numbered.
_SOLE_CONV = re.compile(r"(proposal_generator\.rpn_head\.conv)\.(weight|bias)")


def from_detectron2(name: str) -> str | None:
    """Our name of the tensor that detectron2's ViTDet calls `name`; None where it has no such tensor."""
    if name.startswith("backbone.net.") and not _NET.fullmatch(name):
        return None
    return _translated(_SOLE_CONV.sub(r"\1.conv0.\2", name), _FROM_THEIRS)


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `Detector` over a plain ViT, as detectron2's ViTDet loads it.

    The position of the class token, which detectron2 never reads, is zero.

    Raises:
        MaeBenchError: a tensor has no place in detectron2's ViTDet (LayerScale, a class token that was kept,
            another pyramid, another kind of backbone).
    """
    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = _translated(name, _FROM_OURS)
        if theirs is None or from_detectron2(theirs) != name:
            raise MaeBenchError(
                f"{name} {tuple(tensor.shape)} has no place in detectron2's ViTDet, which is a plain ViT "
                "without LayerScale or class token under the simple pyramid; so this detector cannot be put "
                "into its format"
            )
        if name == POSITIONS:
            tensor = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)
        new[theirs] = tensor
    first = "proposal_generator.rpn_head.conv.conv"
    if any(name.startswith(f"{first}1.") for name in new):
        return new
    return {name.replace(f"{first}0.", first.removesuffix("conv")): tensor for name, tensor in new.items()}


# ---------------------------------------------------------------- translating

_NUMBER = re.compile(r"#(?:\+1)?")
_Rule = tuple[re.Pattern[str], str, list[int]]


def _rules(pairs: Iterable[tuple[str, str]]) -> list[_Rule]:
    """For each pair: what recognises the first, the second to be filled in, and by how much numbers rise."""
    rules = []
    for source, target in pairs:
        pattern = r"(\d+)".join(re.escape(part) for part in _NUMBER.split(source))
        pairs_of_numbers = zip(_NUMBER.findall(source), _NUMBER.findall(target), strict=True)
        rises = [("+1" in to) - ("+1" in of) for of, to in pairs_of_numbers]
        rules.append((re.compile(pattern + r"(?=\.)"), _NUMBER.sub("{}", target), rises))
    return rules


_FROM_OURS = _rules(_PAIRS)
_FROM_THEIRS = _rules((theirs, ours) for ours, theirs in _PAIRS)


def _translated(name: str, rules: Iterable[_Rule]) -> str | None:
    """The other name, by the rule that recognises most of `name`."""
    found = [(match, target, rises) for rule, target, rises in rules if (match := rule.match(name))]
    if not found:
        return None
    match, target, rises = max(found, key=lambda one: one[0].end())
    numbers = [int(number) + rise for number, rise in zip(match.groups(), rises, strict=True)]
    return target.format(*numbers) + name[match.end() :] if min(numbers, default=0) >= 0 else None
