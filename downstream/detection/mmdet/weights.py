"""The state of our `Detector` under the names of MMDetection's Mask R-CNN and Cascade R-CNN, and back.

Shapes are the same: both have K classes with the background last, boxes by class (one for all in a cascade),
and regions flattened channel by channel. Only in a cascade MMDetection has a mask head for each stage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError

_NORM = r"(?:ln|bn)"
# Ours, MMDetection's; # is a number, % the number of a stage with a dot before it, where there are stages.
_PAIRS = (
    ("body.", "backbone.body."),
    ("pyramid.", "neck.pyramid."),
    ("rpn.head.convs.#.conv.", "rpn_head.rpn_conv.#.conv."),
    ("rpn.head.objectness.", "rpn_head.rpn_cls."),
    ("rpn.head.deltas.", "rpn_head.rpn_reg."),
    ("roi_heads.box_head%.conv#.conv.", "roi_head.bbox_head%.shared_convs.#.conv."),
    ("roi_heads.box_head%.conv#.norm.", "roi_head.bbox_head%.shared_convs.#.NORM."),
    ("roi_heads.box_head%.fc#.", "roi_head.bbox_head%.shared_fcs.#."),
    ("roi_heads.box_predictor%.classify.", "roi_head.bbox_head%.fc_cls."),
    ("roi_heads.box_predictor%.deltas.", "roi_head.bbox_head%.fc_reg."),
    ("roi_heads.mask_head.conv#.conv.", "roi_head.mask_head.convs.#.conv."),
    ("roi_heads.mask_head.conv#.norm.", "roi_head.mask_head.convs.#.NORM."),
    ("roi_heads.mask_head.enlarge.", "roi_head.mask_head.upsample."),
    ("roi_heads.mask_predictor.masks.", "roi_head.mask_head.conv_logits."),
)
_SOLE_CONV = "rpn_head.rpn_conv.0.conv."
_MASK_STAGE = re.compile(r"^roi_head\.mask_head\.\d+\.")
_STAGES = 3
_BATCH_NORM = re.compile(r"(pyramid|roi_heads)\..*running_mean$")


def to_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `Detector` as MMDetection's loads it; all stages of a cascade get the mask head.

    Raises:
        MaeBenchError: a tensor has no place there.
    """
    norm = "bn" if any(_BATCH_NORM.match(name) for name in state) else "ln"
    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        theirs = _renamed(
            name, _TO_THEIRS, f"{name} {tuple(tensor.shape)} has no place in MMDetection's detector"
        )
        new[theirs.replace(".NORM.", f".{norm}.")] = tensor
    if not any(name.startswith("rpn_head.rpn_conv.1.") for name in new):
        new = {name.replace(_SOLE_CONV, "rpn_head.rpn_conv."): tensor for name, tensor in new.items()}
    if not any(name.startswith("roi_head.bbox_head.0.") for name in new):
        return new
    masks = {name: new.pop(name) for name in list(new) if name.startswith("roi_head.mask_head.")}
    for stage in range(_STAGES):
        new |= {
            name.replace("mask_head.", f"mask_head.{stage}.", 1): tensor for name, tensor in masks.items()
        }
    return new


def from_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of MMDetection's detector, as built from a recipe of ours, under the names of a `Detector`.

    Raises:
        MaeBenchError: a tensor has no place in it; a cascade's mask heads differ, while ours has one.
    """
    new: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = _MASK_STAGE.sub("roi_head.mask_head.", name)
        if name.startswith("rpn_head.rpn_conv.") and not name.removeprefix("rpn_head.rpn_conv.")[0].isdigit():
            plain = name.replace("rpn_head.rpn_conv.", _SOLE_CONV)
        ours = _renamed(plain, _TO_OURS, f"{name} {tuple(tensor.shape)} has no place in our detector")
        if ours in new and not torch.equal(new[ours], tensor):
            raise MaeBenchError(
                f"{name}: the mask heads of this cascade's stages differ, while our detector has one for all"
            )
        new[ours] = tensor
    return new


_Rule = tuple[re.Pattern[str], str]


def _rules(pairs: list[tuple[str, str]]) -> list[_Rule]:
    rules = []
    for source, target in pairs:
        pattern = (
            re.escape(source)
            .replace(r"\#", "#")
            .replace("#", r"(?P<number>\d+)")
            .replace("%", r"(?P<stage>\.\d+)?")
        )
        rules.append((re.compile(pattern.replace("NORM", _NORM)), target))
    return rules


_TO_THEIRS = _rules(list(_PAIRS))
_TO_OURS = _rules([(theirs, ours) for ours, theirs in _PAIRS])


def _renamed(name: str, rules: list[_Rule], otherwise: str) -> str:
    for rule, target in rules:
        match = rule.match(name)
        if match:
            found = match.groupdict()
            front = target.replace("#", found.get("number") or "").replace("%", found.get("stage") or "")
            return front + name[match.end() :]
    raise MaeBenchError(otherwise)
