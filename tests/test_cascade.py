"""Cascade R-CNN against detectron2's, and what makes it a cascade."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from downstream.detection.cascade import CascadeHeads, matched, refined
from downstream.detection.formats import from_detectron2, to_detectron2
from downstream.detection.regions import RegionHeads, Regions, Target
from downstream.detection.settings import HeadSettings
from tests.closed_form import fill, numbers

SIZES = [(256, 224), (200, 256), (128, 192)]
OBJECTS = [
    [[10.0, 20.0, 110.0, 90.0], [60.0, 40.0, 220.0, 250.0], [150.0, 10.0, 190.0, 60.0]],
    [[30.0, 15.0, 240.0, 180.0]],
    [],
]
LABELS = [[1, 3, 2], [2], []]

# Made with facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833 on torch 2.15: CascadeROIHeads
# (detectron2/modeling/roi_heads/cascade_rcnn.py) with box heads of 4 convolutions of 8 channels (LN) and one fc
# of 12, for 3 classes, as projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_b_100ep.py sets them but for
# these sizes, and no mask head. The weights are `fill(heads.state_dict())` under its names in float32, the
# inputs those below with its labels 0..2; all 46 regions are sampled (512 an image are allowed).
LOSSES = {
    "loss_classifier_stage0": 1.5696898698806763,
    "loss_box_stage0": 2.358656883239746,
    "loss_classifier_stage1": 1.6870384216308594,
    "loss_box_stage1": 2.6227385997772217,
    "loss_classifier_stage2": 1.2145100831985474,
    "loss_box_stage2": 1.5145400762557983,
}
GRADIENTS = {  # of the sum of the losses: L1 norms for the maps, L2 for the weights
    "p2": 9.405871232893185,
    "p3": 11.839652751542452,
    "box_head.0.conv1.weight": 1.1487291639705308,
    "box_head.1.conv1.weight": 1.8919657234105385,
    "box_head.2.conv1.weight": 1.3545753097045226,
    "box_predictor.0.bbox_pred.weight": 2.5135347960974403,
    "box_predictor.1.bbox_pred.weight": 1.6098513475026304,
    "box_predictor.2.cls_score.weight": 0.6835202157068182,
}
DETECTIONS = [  # number, sum of scores, sum of coordinates, sum of labels
    (17, 4.558845803141594, 7164.817939758301, 35),
    (7, 1.8282669931650162, 3415.1396560668945, 14),
    (14, 3.7779374569654465, 4254.282802581787, 29),
]
BEST = [  # score, label, box
    (0.326286, 1, [149.7427, 3.5521, 198.4419, 60.3016]),
    (0.342149, 1, [14.3593, 9.7302, 249.6974, 192.0062]),
    (0.357957, 1, [34.9182, 24.4976, 95.0644, 113.5824]),
]


def heads() -> CascadeHeads:
    settings = HeadSettings(box_width=12, mask_convs=1, cascade=True)
    return CascadeHeads(settings, 3, 8, [4.0, 8.0, 16.0, 32.0], "layer")


def box_part(module: CascadeHeads) -> dict[str, Tensor]:
    return {
        f"roi_heads.{name}": tensor for name, tensor in module.state_dict().items() if name.startswith("box_")
    }


def filled() -> CascadeHeads:
    module = heads()
    theirs = {
        name.removeprefix("roi_heads."): tensor for name, tensor in to_detectron2(box_part(module)).items()
    }
    ours = {from_detectron2(f"roi_heads.{name}"): tensor.float() for name, tensor in fill(theirs).items()}
    state = {name.removeprefix("roi_heads."): tensor for name, tensor in ours.items() if name is not None}
    lacking = module.load_state_dict(state, strict=False)
    assert not lacking.unexpected_keys
    assert all(name.startswith("mask_") for name in lacking.missing_keys)
    return module


def maps() -> list[Tensor]:
    return [numbers((3, 8, 256 // 2**level, 256 // 2**level), 600 + level).float() for level in (2, 3, 4, 5)]


def targets() -> list[dict[str, Tensor]]:
    return [
        {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
        for boxes, labels in zip(OBJECTS, LABELS, strict=True)
    ]


def proposals() -> list[Tensor]:
    """14 an image: the objects' boxes in turn, moved by more and more of their size, cut to the image."""
    found = []
    for place, (height, width) in enumerate(SIZES):
        objects = OBJECTS[place] or [[20.0, 30.0, 90.0, 100.0], [100.0, 10.0, 180.0, 120.0]]
        base = torch.tensor(objects, dtype=torch.float64)[torch.arange(14) % len(objects)]
        side = (base[:, 2:] - base[:, :2]).repeat(1, 2)
        reach = torch.linspace(0.02, 0.4, 14, dtype=torch.float64)[:, None]
        moved = base + numbers((14, 4), 500 + place) * side * reach
        limit = torch.tensor([width, height, width, height], dtype=torch.float64)
        found.append(moved.clamp(min=torch.zeros_like(limit), max=limit).float())
    return found


def test_losses_and_gradients_equal_detectron2s() -> None:
    module, levels, truth = filled(), [one.requires_grad_() for one in maps()], targets()
    regions = module.sample(proposals(), truth)
    assert [len(boxes) for boxes in regions.boxes] == [17, 15, 14]
    losses = module.box_losses(levels, regions, SIZES, truth)
    assert list(losses) == list(LOSSES)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(LOSSES, rel=1e-5)
    sum(losses.values(), start=torch.zeros(())).backward()
    found = {f"p{level}": float(one.grad.abs().sum()) for level, one in zip((2, 3), levels, strict=False)}
    gradients = {f"roi_heads.{name}": param.grad for name, param in module.named_parameters()}
    theirs = to_detectron2({name: grad for name, grad in gradients.items() if grad is not None})
    for name in GRADIENTS.keys() - found.keys():
        found[name] = float(theirs[f"roi_heads.{name}"].norm())
    assert found == pytest.approx(GRADIENTS, rel=1e-4)


def test_boxes_and_scores_equal_detectron2s() -> None:
    with torch.no_grad():
        found = filled().eval().boxes_found(maps(), proposals(), SIZES)
    sums = [
        (len(one["scores"]), float(one["scores"].sum()), float(one["boxes"].sum()), int(one["labels"].sum()))
        for one in found
    ]
    for have, want in zip(sums, DETECTIONS, strict=True):
        assert have == pytest.approx(want, rel=1e-5)
    for one, (score, label, box) in zip(found, BEST, strict=True):
        assert float(one["scores"][0]) == pytest.approx(score, abs=1e-5)
        assert int(one["labels"][0]) == label
        assert one["boxes"][0].tolist() == pytest.approx(box, abs=2e-3)


def test_later_stages_match_anew_at_stricter_overlaps_and_sample_nothing() -> None:
    truth = [{"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "labels": torch.tensor([2])}]
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0], [0.0, 0.0, 10.0, 5.9]])
    regions = matched([boxes], truth, 0.6)
    assert torch.equal(regions.boxes[0], boxes)
    assert regions.labels[0].tolist() == [2, 2, 0]  # an overlap of exactly 0.6 counts
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}]
    assert matched([boxes], nothing, 0.6).labels[0].tolist() == [0, 0, 0]


def test_what_a_stage_hands_on_is_cut_to_the_image_and_has_no_gradient() -> None:
    coder = heads().box_coders[1]
    deltas = torch.tensor([[[20.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]], requires_grad=True)
    boxes = [torch.tensor([[0.0, 0.0, 8.0, 8.0], [1.0, 2.0, 3.0, 4.0]])]
    (out,) = refined(deltas, boxes, coder, [(20, 10)])  # height 20, width 10
    assert not out.requires_grad
    assert torch.allclose(out, torch.tensor([[8.0, 0.0, 10.0, 8.0], [1.0, 2.0, 3.0, 4.0]]))


def test_boxes_that_shrank_to_nothing_are_left_out_of_training() -> None:
    module, truth = filled(), targets()
    with torch.no_grad():  # every box leaves the image to the left
        module.box_predictor[0].deltas.weight.zero_()
        module.box_predictor[0].deltas.bias.copy_(torch.tensor([-100.0, 0.0, 0.0, 0.0]))
        losses = module.box_losses(maps(), module.sample(proposals(), truth), SIZES, truth)
    assert float(losses["loss_box_stage0"]) > 0
    assert [float(losses[f"loss_{kind}_stage2"]) for kind in ("box", "classifier")] == [0, 0]


def test_an_image_without_proposals_has_no_detections() -> None:
    empty = [torch.zeros(0, 4) for _ in SIZES]
    with torch.no_grad():
        found, losses = filled().eval()(maps(), empty, SIZES)
    assert [len(one["boxes"]) for one in found] == [0, 0, 0]
    assert losses == {}


def test_masks_are_trained_on_the_regions_sampled_for_the_first_stage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = filled()
    truth = [
        {**target, "masks": torch.ones(len(target["boxes"]), *size, dtype=torch.uint8)}
        for target, size in zip(targets(), SIZES, strict=True)
    ]
    seen = []

    def watched(maps: Sequence[Tensor], regions: Regions, targets: Sequence[Target]) -> Tensor:
        seen.append(regions)
        return RegionHeads.mask_loss(module, maps, regions, targets)

    monkeypatch.setattr(module, "mask_loss", watched)
    _, losses = module(maps(), proposals(), SIZES, truth)
    assert [len(boxes) for boxes in seen[0].boxes] == [17, 15, 14]
    assert list(losses) == [*LOSSES, "loss_mask"]
