"""Our engine against detectron2, both run here: the same weights and images, the same numbers.

How far they are apart stands with each comparison, relative to the largest value; float32, on a CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask
from torch import Tensor, nn

from downstream.detection.detector import Detector
from downstream.detection.detectron2 import presence
from downstream.detection.detectron2.weights import our_name
from mae_bench.errors import MaeBenchError
from mae_bench.optim import build_optimizer, parameter_groups, scheduled_lr
from mae_bench.plan import Plan
from mae_bench.settings import OptimSettings
from tests.detectron2_models import (
    LOSSES,
    both,
    facts_of,
    furthest,
    inputs,
    losses_of,
    needs_detectron2,
    recipe,
    without_drawing,
)
from tests.tiny_coco import SQUARE, dataset, settings_of, write
from tests.tiny_detector import CANVAS, SIZES, filled, images, settings, targets

pytestmark = needs_detectron2

CLOSE = 5e-5

KINDS: dict[str, dict[str, Any]] = {
    "mask": {},
    "cascade": {"heads": {"cascade": True}},
    "batch norm over fpn": {"pyramid": {"norm": "batch", "kind": "fpn", "channels": 32}},
}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    presence.ready()


@pytest.fixture(autouse=True)
def _as_in_a_run() -> Iterator[None]:
    with presence.quiet():
        yield


@cache
def pair(kind: str) -> tuple[Detector, nn.Module]:
    return both(settings(**KINDS[kind]))


def evaluated(kind: str) -> tuple[Detector, nn.Module]:
    ours, theirs = pair(kind)
    return ours.eval(), theirs.eval()


def our_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's losses under our names; a cascade has a number at the end."""
    return {
        LOSSES[name.partition("_stage")[0]] + "".join(name.partition("_stage")[1:]): loss
        for name, loss in theirs.items()
    }


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_and_what_the_proposal_head_says_are_the_same(kind: str) -> None:
    ours, theirs = evaluated(kind)
    batch = theirs.preprocess_image(inputs())
    levels: list[Tensor] = list(theirs.backbone(batch.tensor).values())
    mine = ours.features(images())
    assert furthest(mine, levels) < CLOSE
    for part, other in zip(ours.rpn.head(mine), theirs.proposal_generator.rpn_head(levels), strict=True):
        assert furthest(part, other) < CLOSE


@torch.no_grad()
def test_our_backbone_and_pyramid_are_those_of_detectron2s_vitdet() -> None:
    """Not our modules in its model, but its own ViT and pyramid."""
    from functools import partial

    from detectron2.modeling import SimpleFeaturePyramid, ViT
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    from downstream.detection.formats import to_detectron2

    ours = filled().eval()
    net = ViT(
        img_size=CANVAS[0], patch_size=16, embed_dim=32, depth=4, num_heads=2, window_size=3,
        window_block_indexes=[0, 2], use_rel_pos=True, out_feature="last_feat",
        norm_layer=partial(nn.LayerNorm, eps=1e-6), pretrain_img_size=64,
    )  # fmt: skip
    theirs = SimpleFeaturePyramid(
        net, "last_feat", 32, (4.0, 2.0, 1.0, 0.5), LastLevelMaxPool(), "LN", CANVAS[0]
    ).eval()
    state = to_detectron2(ours.state_dict())
    theirs.load_state_dict(
        {
            name.removeprefix("backbone."): value
            for name, value in state.items()
            if name.startswith("backbone.")
        }
    )
    levels = list(theirs(ours._padded(images())).values())
    assert furthest(ours.features(images()), levels) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_proposals_are_the_same_boxes_in_the_same_order(kind: str) -> None:
    ours, theirs = evaluated(kind)
    batch = theirs.preprocess_image(inputs())
    found, _ = theirs.proposal_generator(batch, theirs.backbone(batch.tensor))
    mine, _ = ours.rpn(ours.features(images()), SIZES)
    assert [len(one) for one in mine] == [150, 150]
    assert furthest(mine, [one.proposal_boxes.tensor for one in found]) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_detections_are_the_same(kind: str) -> None:
    from downstream.detection.detectron2.inference import found_in

    ours, theirs = evaluated(kind)
    raw = theirs.inference(inputs(), do_postprocess=False)
    for mine, other in zip(ours(images()), raw, strict=True):
        assert len(mine["boxes"]) >= 2
        assert mine["labels"].tolist() == (other.pred_classes + 1).tolist()
        assert furthest([mine["boxes"]], [other.pred_boxes.tensor]) < CLOSE
        assert furthest([mine["scores"]], [other.scores]) < CLOSE
        # Behind four convolutions and batch norms whose statistics are made up.
        assert furthest([mine["masks"]], [other.pred_masks[:, 0]]) < 1e-3

    class Still:
        """A run that computes in float32."""

        def autocast(self) -> Any:
            return torch.autocast("cpu", enabled=False)

    from downstream.detection.predictions import pasted_records, to_records

    categories = [{"id": 10 * number} for number in range(1, 4)]
    placed = found_in(theirs, inputs(), Still())  # type: ignore[arg-type]
    for mine, other, size in zip(ours(images()), placed, SIZES, strict=True):
        records = to_records(mine, 7, categories, size, size)
        assert len(records) >= 2
        given = pasted_records(other, 7, categories)
        # A pixel whose probability is one half to the last bits may fall to either side.
        covered = [np.stack([mask.decode(one["segmentation"]) for one in each]) for each in (records, given)]
        assert int((covered[0] != covered[1]).sum()) <= 1e-3 * int(covered[0].sum())
        assert [one["category_id"] for one in records] == [one["category_id"] for one in given]
        boxes = [torch.tensor([one["bbox"] for one in each]) for each in (records, given)]
        assert furthest(boxes[:1], boxes[1:]) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_the_same_where_nothing_is_drawn(kind: str) -> None:
    ours, theirs = both(without_drawing(settings(**KINDS[kind])))
    mine = ours.train()(images(), targets())
    assert isinstance(mine, dict)
    losses = our_names(losses_of(theirs))
    assert losses.keys() == mine.keys()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(mine[name].item(), rel=1e-5), name
    named = [(our_name(name), param) for name, param in theirs.named_parameters()]
    ours_by_name = dict(ours.named_parameters())
    for name, loss in losses.items():
        given = gradients(loss, [param for _, param in named])
        wanted = gradients(mine[name], [ours_by_name[each] for each, _ in named])
        largest = max(float(grad.abs().max()) for grad in wanted if grad is not None)
        for (parameter, _), one, other in zip(named, given, wanted, strict=True):
            assert (one is None) == (other is None), (name, parameter)
            if one is None or other is None or float(other.abs().max()) < 1e-4 * largest:
                continue
            # In the box heads, inputs of a ReLU that are 0 to the last bit may fall to either side.
            limit = 3e-2 if name.startswith("loss_classifier") else 1e-4
            assert float((one - other).norm() / other.norm()) < limit, (name, parameter)


def gradients(loss: Tensor, params: list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)


# ---------------------------------------------------------------- optimiser and schedule

OPTIMISERS: dict[str, dict[str, Any]] = {
    "vitdet": {"lr": 1e-4, "weight_decay": 0.1, "layer_decay": 0.7, "decay_biases": True},
    "mae": {"lr": 8e-5, "weight_decay": 0.1, "layer_decay": None},
    "huge": {
        "lr": 1e-4,
        "layer_decay": 0.9,
        "decay_norms": True,
        "decay_biases": True,
        "decay_positions": True,
    },
}


def built(model: nn.Module, optim: dict[str, Any], clip: float | None = None) -> torch.optim.Optimizer:
    from detectron2.config import instantiate

    from downstream.detection.detectron2.schedule import optimizer

    config = recipe(settings(), optim={"lr": None, **optim}, train={"clip_grad": clip})
    lazy = optimizer(config, Plan.of(config, 20, 2, 1))
    lazy.params.model = model
    made: torch.optim.Optimizer = instantiate(lazy)
    return made


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("kind", KINDS)
def test_parameter_groups_are_ours(kind: str, name: str) -> None:
    ours, theirs = pair(kind)
    optim = OptimSettings(**OPTIMISERS[name])
    wanted: Counter[Any] = Counter()
    for group in parameter_groups(ours, optim):
        wanted.update((each, group["weight_decay"], group["lr_scale"]) for each in group["names"])
    given: Counter[Any] = Counter()
    names = {param: our_name(each) for each, param in theirs.named_parameters()}
    for group in built(theirs, OPTIMISERS[name]).param_groups:
        assert group["lr"] == pytest.approx(OPTIMISERS[name]["lr"] * group["lr_scale"])
        given.update((names[each], group["weight_decay"], group["lr_scale"]) for each in group["params"])
    assert given == wanted
    assert len({scale for _, _, scale in given}) == (6 if OPTIMISERS[name]["layer_decay"] else 1)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_step_changes_the_weights_as_ours_does(clip: float | None) -> None:
    ours, theirs = both(without_drawing(settings()))
    optim = OptimSettings(**OPTIMISERS["vitdet"])
    sum(ours.train()(images(), targets()).values()).backward()  # type: ignore[union-attr, arg-type]
    sum(losses_of(theirs).values()).backward()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    stepping = build_optimizer(parameter_groups(ours, optim), optim)
    for group in stepping.param_groups:
        group["lr"] = 1e-4 * group["lr_scale"]
    norm = nn.utils.clip_grad_norm_(ours.parameters(), clip or 1e9)
    stepping.step()
    other = built(theirs, OPTIMISERS["vitdet"], clip)
    other.step()
    if clip is not None:
        assert float(other.grad_norm) == pytest.approx(float(norm), rel=1e-5)  # type: ignore[attr-defined]
    mine = ours.state_dict()
    moved = [(mine[our_name(name)] - value).abs().max() for name, value in theirs.state_dict().items()]
    # AdamW's first step moves every weight by the rate, whatever its gradient, so that signs may differ
    # where the gradient is next to nothing; the decay is seen in all.
    assert float(torch.stack(moved).median()) < 1e-7
    assert any(not torch.equal(mine[name], before[name]) for name in mine)


SCHEDULES: dict[str, dict[str, Any]] = {
    "multistep": {"schedule": "multistep", "milestones": [30, 45], "warmup_steps": 7, "warmup_factor": 0.001},
    "fractional warm-up": {"schedule": "multistep", "milestones": [30], "warmup_steps": 7.5},
    "no warm-up": {"schedule": "multistep", "milestones": [30, 45, 70], "gamma": 0.3},
    "cosine": {"schedule": "cosine", "warmup_steps": 5, "min_lr": 1e-6},
    "constant": {"schedule": "constant", "warmup_steps": 5, "warmup_factor": 0.1},
    "all warm-up": {"schedule": "cosine", "warmup_steps": 80, "warmup_factor": 0.1},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_learning_rates_are_ours_step_by_step(name: str) -> None:
    from detectron2.config import instantiate
    from detectron2.solver import LRMultiplier

    from downstream.detection.detectron2.schedule import lr_multiplier

    config = recipe(settings(), optim={"lr": 1e-3, **SCHEDULES[name]}, train={"steps": 60})
    plan = Plan.of(config, 20, 2, 1)
    param = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [param], "lr": plan.peak_lr}])
    rates = LRMultiplier(optimizer, instantiate(lr_multiplier(config, plan)), plan.total_steps)
    for step in range(plan.total_steps):
        wanted = scheduled_lr(
            config.optim, step, plan.total_steps, peak=plan.peak_lr, warmup_steps=plan.warmup_steps
        )
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted, rel=1e-9), step
        optimizer.step()
        rates.step()


def test_a_rate_that_falls_within_the_warm_up_is_refused() -> None:
    from downstream.detection.detectron2.schedule import lr_multiplier

    config = recipe(
        settings(), optim={"lr": 1e-3, "schedule": "multistep", "milestones": [4], "warmup_steps": 5}
    )
    with pytest.raises(MaeBenchError, match="4 lies within the warm-up of 5 steps"):
        lr_multiplier(config, Plan.of(config, 20, 2, 1))


# ---------------------------------------------------------------- what cannot be done


def test_patches_that_detectron2_cannot_pool_from_are_named() -> None:
    from dataclasses import replace

    from downstream.detection.detectron2.config import model

    odd = replace(facts_of(filled()), strides=[3.5, 7.0, 14.0, 28.0, 56.0])
    with pytest.raises(MaeBenchError, match=r"strides 3.5, 7, 14, 28, .*powers of 2.*--engine torchvision"):
        model(recipe(settings()), odd)


def test_an_image_larger_than_the_canvas_is_named() -> None:
    _, theirs = pair("mask")
    with pytest.raises(MaeBenchError, match="image of 144x128 pixels does not fit on the canvas of 128x128"):
        theirs.backbone(torch.zeros(1, 3, 144, 128))


# ---------------------------------------------------------------- the data


def test_images_and_objects_of_the_loaders(tmp_path: Path) -> None:
    """The same images, resized by Pillow and by torch, and the same objects."""
    from detectron2.config import instantiate

    from downstream.detection.dataset import DetectionDataset
    from downstream.detection.detectron2.data import test_loader, train_loader
    from downstream.detection.jitter import View
    from downstream.detection.source import open_split

    write(tmp_path)
    still = {"flip": 1.0, "scale": [1.0, 1.0]}
    data = settings_of(augment=still, image_size=[96, 96], evaluation={"short_edge": 96, "long_edge": 96})
    train, val = open_split(data, "train", tmp_path), open_split(data, "val", tmp_path)
    lazy = train_loader(data, train, tmp_path, batch=1, seed=0, workers=0)
    assert lazy.mapper.instance_mask_format == "bitmask", "one object is given as run lengths"
    records = instantiate(lazy.dataset)
    assert [each["image_id"] for each in records] == [train.image_id(index) for index in range(len(train))]
    tested = instantiate(test_loader(data, val, tmp_path, 0).dataset)
    assert [each["image_id"] for each in tested] == [val.image_id(index) for index in range(len(val))]
    ours, mapper = DetectionDataset(train, data, training=True), instantiate(lazy.mapper)
    view = View((48, 64), (72, 96), 0, 0, (72, 96), flip=True)
    for index, record in enumerate(records):
        given, target = mapper(record), ours.target(index, view)
        assert torch.equal(given["image"], view.of_image(train.read(index)))
        objects = given["instances"]
        assert (objects.gt_classes + 1).tolist() == target["labels"].tolist()
        assert int((objects.gt_masks.tensor != target["masks"].bool()).flatten(1).sum(1).max()) <= 1
        assert torch.equal(objects.gt_boxes.tensor, target["boxes"])


def test_outlines_alone_stay_outlines(tmp_path: Path) -> None:
    """As detectron2's ViTDet has them; boxes are those of the outlines, ours those of the pixels."""
    from detectron2.config import instantiate
    from detectron2.structures import PolygonMasks

    from downstream.detection.dataset import DetectionDataset
    from downstream.detection.detectron2.data import train_loader
    from downstream.detection.jitter import View
    from downstream.detection.source import open_split

    content = dataset()
    content["annotations"] = [
        each for each in content["annotations"] if each["iscrowd"] or isinstance(each["segmentation"], list)
    ]
    write(tmp_path, train=content)
    still = {"flip": 0.0, "scale": [1.5, 1.5]}
    data = settings_of(augment=still, image_size=[96, 96], evaluation={"short_edge": 96, "long_edge": 96})
    train = open_split(data, "train", tmp_path)
    lazy = train_loader(data, train, tmp_path, batch=1, seed=0, workers=0)
    assert lazy.mapper.instance_mask_format == "polygon"
    np.random.seed(1)
    given = instantiate(lazy.mapper)(instantiate(lazy.dataset)[0])
    assert given["image"].shape == (3, 96, 96)
    objects = given["instances"]
    assert isinstance(objects.gt_masks, PolygonMasks)
    left = np.random.RandomState(1)
    offset = [left.uniform() for _ in range(3)][2]  # behind those of flip and scale
    view = View((48, 64), (108, 144), round(12 * offset), round(48 * offset), (96, 96))
    target = DetectionDataset(train, data, training=True).target(0, view)
    assert (objects.gt_classes + 1).tolist() == target["labels"].tolist()
    assert float((objects.gt_boxes.tensor - target["boxes"]).abs().max()) <= 1


def test_detectron2_cuts_off_the_decimals_of_outlines_in_whole_numbers() -> None:
    """So our records give it numbers with a point, as COCO's own files mostly have them."""
    from detectron2.data.transforms import ResizeTransform

    double = ResizeTransform(48, 64, 72, 96)
    corners = np.array(SQUARE).reshape(-1, 2)
    assert double.apply_coords(corners.astype(float)).tolist() == [[15, 15], [45, 15], [45, 37.5], [15, 37.5]]
    assert double.apply_coords(corners.copy()).tolist() == [[15, 15], [45, 15], [45, 37], [15, 37]]


def test_the_order_of_images_goes_on_where_it_was_left() -> None:
    from itertools import islice

    from downstream.detection.detectron2.data import sampler

    whole = list(islice(sampler(size=7, seed=3, start=0), 30))
    assert list(islice(sampler(size=7, seed=3, start=18), 12)) == whole[18:]
    assert sorted(whole[:7]) == list(range(7))
    assert whole[:7] != list(islice(sampler(size=7, seed=4, start=0), 7))


def test_an_image_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path) -> None:
    from detectron2.config import instantiate
    from PIL import Image

    from downstream.detection.detectron2.data import Readable, test_loader
    from downstream.detection.source import open_split

    write(tmp_path)
    data = settings_of()
    loader = test_loader(data, open_split(data, "val", tmp_path), tmp_path, 0)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "images/000005.png")
    with pytest.raises(MaeBenchError, match=r"an image cannot be used: .*000005.png"):
        list(Readable(instantiate(loader)))
    (tmp_path / "images/000005.png").write_bytes(b"no image")
    with pytest.raises(MaeBenchError, match=r"an image cannot be used: .*000005.png"):
        list(Readable(instantiate(loader)))


def test_batches_that_detectron2_cannot_take() -> None:
    from downstream.detection.detectron2.training import whole_batch

    assert whole_batch(8, "auto", 2) == whole_batch(8, 4, 2) == 4
    with pytest.raises(MaeBenchError, match="accumulates no gradients, so the 4 images of each process"):
        whole_batch(8, 2, 2)
    with pytest.raises(MaeBenchError, match="8 is not divisible by the 3 processes"):
        whole_batch(8, "auto", 3)
