"""MMDetection's detector against ours: same weights and images, both engines run here and now."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from downstream.detection.anchors import Anchors
from downstream.detection.dataset import train_dataset, val_dataset
from downstream.detection.detector import Detector, build
from downstream.detection.mmdet import pipelines
from downstream.detection.mmdet import weights as translation
from downstream.detection.mmdet.config import model as native_model
from downstream.detection.predictions import paste
from downstream.detection.settings import DetectionConfig, DetectionData, DetectorSettings
from downstream.detection.source import open_split
from downstream.detection.trunk import plan
from downstream.openmmlab.modules import groups, supplying
from downstream.openmmlab.presence import ready
from mae_bench.backbones import load_backbone
from mae_bench.backbones.weights import digest
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from tests import tiny_coco, tiny_detector

pytestmark = pytest.mark.engine

HIERARCHICAL = "random:convnext_atto"
EVERY_ANCHOR = {"batch": 10**6, "positive": 1.0}
EVERY_REGION = {"batch": 10**5, "positive": 1.0}


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    ready("mmdet")
    from downstream.detection.mmdet import registered  # noqa: F401


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a run does about the warnings of the engines' own code."""
    from downstream.openmmlab.runner import undisturbed

    with undisturbed():
        yield


def config_of(
    settings: DetectorSettings, canvas: tuple[int, int], backbone: str, **optim: Any
) -> DetectionConfig:
    return DetectionConfig(
        task="detection.mmdet",
        recipe="tiny",
        backbone=backbone,
        data=tiny_coco.settings_of(image_size=list(canvas)),
        model=settings,
        train={"steps": 1, "batch": 2},
        optim={"lr": 1e-3, **optim},
    )


def built(
    settings: DetectorSettings,
    canvas: tuple[int, int] = tiny_detector.CANVAS,
    backbone: str = tiny_detector.BACKBONE,
) -> Any:
    """MMDetection's detector with its first weights."""
    from mmengine.config import Config

    from downstream.openmmlab.building import build_model

    loaded, config = load_backbone(backbone), config_of(settings, canvas, backbone)
    outline = plan(loaded, settings, canvas)
    native = native_model(config, loaded, outline, tiny_detector.CLASSES)
    with supplying(loaded):
        return build_model(Config({"model": native, "default_scope": "mmdet"}), seed=0)


def pair(settings: DetectorSettings) -> tuple[Detector, Any]:
    """Ours and MMDetection's with the same weights."""
    ours, theirs = tiny_detector.filled(settings), built(settings)
    theirs.load_state_dict(translation.to_mmdet(ours.state_dict()))
    return ours, theirs


def given(training: bool = False) -> dict[str, Any]:
    """The images and objects of `tiny_detector`, as MMDetection's loaders give them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    samples = []
    for image, target in zip(tiny_detector.images(), tiny_detector.targets(), strict=True):
        size = int(image.shape[1]), int(image.shape[2])
        sample = DetDataSample(
            metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "img_id": 0}
        )
        masks = BitmapMasks(target["masks"].numpy(), *size)
        sample.gt_instances = InstanceData(
            bboxes=target["boxes"].clone(), labels=target["labels"] - 1, masks=masks
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), masks=masks[[]]
        )
        samples.append(sample)
    return {"inputs": [image.flip(0) for image in tiny_detector.images()], "data_samples": samples}


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(a.abs().max().clamp(min=1)))


# ---------------------------------------------------------------- weights

SETTINGS = {
    "plain": tiny_detector.settings(),
    "fpn": tiny_detector.settings(pyramid={"kind": "fpn"}),
    "cascade": tiny_detector.settings(heads={"cascade": True}),
    "batch norm": tiny_detector.settings(pyramid={"norm": "batch"}),
    "one convolution": tiny_detector.settings(proposals={"convs": 1}, heads={"box_fcs": 2, "box_convs": 2}),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_tensor_has_its_place_there_and_back(kind: str) -> None:
    ours, theirs = tiny_detector.filled(SETTINGS[kind]).state_dict(), built(SETTINGS[kind])
    translated = translation.to_mmdet(ours)
    assert translated.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(translated)
    back = translation.from_mmdet(theirs.state_dict())
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())


def test_tensors_without_a_place_are_told() -> None:
    with pytest.raises(MaeBenchError, match=r"extra.weight \(2,\) has no place in MMDetection's detector"):
        translation.to_mmdet({"extra.weight": torch.zeros(2)})
    with pytest.raises(MaeBenchError, match=r"teacher.weight \(2,\) has no place in our detector"):
        translation.from_mmdet({"teacher.weight": torch.zeros(2)})


def test_mask_heads_that_differ_are_told() -> None:
    state = translation.to_mmdet(tiny_detector.filled(SETTINGS["cascade"]).state_dict())
    state["roi_head.mask_head.2.upsample.bias"] = state["roi_head.mask_head.2.upsample.bias"] + 1
    with pytest.raises(MaeBenchError, match="the mask heads of this cascade's stages differ"):
        translation.from_mmdet(state)


@pytest.mark.parametrize("backbone", [tiny_detector.BACKBONE, HIERARCHICAL])
def test_building_leaves_pretrained_weights_alone(backbone: str) -> None:
    before = load_backbone(backbone)
    expected = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    model = built(SETTINGS["plain"], backbone=backbone)  # mmengine's init_weights is part of it
    found = model.backbone.state_dict()
    prefix = "body.backbone." if backbone == tiny_detector.BACKBONE else "body."
    kept = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    # The class token and its position are taken out, and so is a norm behind the blocks.
    shared = {
        name: kept[name] for name in expected if name in kept and kept[name].shape == expected[name].shape
    }
    assert len(shared) >= len(expected) - 4
    assert digest(shared) == digest({name: expected[name] for name in shared})
    assert model.backbone.digest == before.digest


@pytest.mark.parametrize("kind", ["plain", "cascade", "one convolution"])
def test_training_begins_with_weights_of_the_same_spread(kind: str) -> None:
    ours = translation.to_mmdet(tiny_detector.tiny(SETTINGS[kind]).state_dict())
    theirs = built(SETTINGS[kind]).state_dict()
    for name, tensor in theirs.items():
        if name.startswith(("rpn_head", "roi_head")):
            assert bool((tensor == 0).all()) == bool((ours[name] == 0).all()), name
            if tensor.ndim > 1:
                assert float(tensor.std()) == pytest.approx(float(ours[name].std()), rel=0.3), name


# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize("kind", ["plain", "fpn", "one convolution"])
def test_maps_proposals_and_detections_are_the_same(kind: str) -> None:
    ours, theirs = pair(SETTINGS[kind])
    ours.eval(), theirs.eval()
    batch = theirs.data_preprocessor(given(), False)
    with torch.no_grad():
        maps, levels = ours.features(tiny_detector.images()), theirs.extract_feat(batch["inputs"])
        for own, other in zip(maps, levels, strict=True):
            close(own, other, 3e-6)
        for own, other in zip(ours.rpn.head(maps), theirs.rpn_head(levels), strict=True):
            for a, b in zip(own, other, strict=True):
                close(a, b, 5e-6)
        proposals, _ = ours.rpn(maps, tiny_detector.SIZES)
        chosen = theirs.rpn_head.predict(levels, batch["data_samples"], rescale=False)
        for own, other in zip(proposals, chosen, strict=True):
            assert len(own) == 150
            torch.testing.assert_close(own, other.bboxes, rtol=0, atol=2e-4)
        found = ours(tiny_detector.images())
        predicted = theirs.predict(batch["inputs"], batch["data_samples"])
    for own, sample in zip(found, predicted, strict=True):
        other = sample.pred_instances
        assert len(own["boxes"]) > 20
        torch.testing.assert_close(own["boxes"], other.bboxes, rtol=0, atol=3e-4)
        torch.testing.assert_close(own["scores"], other.scores, rtol=0, atol=1e-5)
        assert (own["labels"] - 1).equal(other.labels)
        pasted = paste(own["masks"], own["boxes"], sample.ori_shape)
        assert int((pasted != other.masks.to(torch.uint8)).sum()) <= 2


def test_a_region_is_taken_from_the_same_level() -> None:
    ours, theirs = tiny_detector.tiny(), built(SETTINGS["plain"])
    _, boxes = tiny_detector.pool_inputs()
    every = torch.cat(boxes)
    rois = torch.cat([torch.zeros(len(every), 1), every], dim=1)
    assert theirs.roi_head.bbox_roi_extractor.map_roi_levels(rois, 4).equal(
        ours.roi_heads.box_roi_pool.levels(every)
    )


@pytest.mark.parametrize("ratios", [[0.5, 1.0, 2.0], [1.0]])
def test_anchors_are_the_same(ratios: list[float]) -> None:
    theirs = built(tiny_detector.settings(proposals={"ratios": ratios})).rpn_head.prior_generator
    strides = [4.0, 8.0, 16.0, 32.0, 64.0]
    sizes = [(int(160 / stride) or 1, int(96 / stride) or 1) for stride in strides]
    ours = Anchors([8, 16, 32, 64, 128], ratios, strides)([torch.zeros(1, 1, *size) for size in sizes])
    for own, other in zip(ours, theirs.grid_priors(sizes, device="cpu"), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_images_lie_on_the_recipes_canvas(training: bool) -> None:
    canvas = (128, 192)
    ours = build(load_backbone(tiny_detector.BACKBONE), 3, SETTINGS["plain"], canvas)
    theirs = built(SETTINGS["plain"], canvas)
    batch = theirs.data_preprocessor(given(), training)
    torch.testing.assert_close(batch["inputs"], ours._padded(tiny_detector.images()), rtol=0, atol=1e-5)
    for sample, size in zip(batch["data_samples"], tiny_detector.SIZES, strict=True):
        assert sample.batch_input_shape == sample.pad_shape == canvas
        assert sample.img_shape == size


def test_an_image_larger_than_the_canvas_is_told() -> None:
    theirs = built(SETTINGS["plain"], (64, 64))
    with pytest.raises(
        MaeBenchError, match="an image of 96x128 pixels does not fit on the canvas of 64x64; resize it"
    ):
        theirs.data_preprocessor(given(), True)


# ---------------------------------------------------------------- training


def losses(ours: Detector, theirs: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of one step on the same images and objects, under our names."""
    ours.train(), theirs.train()
    batch = theirs.data_preprocessor(given(), True)
    other = {
        name: sum(value) if isinstance(value, list) else value
        for name, value in theirs.loss(batch["inputs"], batch["data_samples"]).items()
    }
    named = {
        "loss_objectness": other["loss_rpn_cls"],
        "loss_rpn_box": other["loss_rpn_bbox"],
        **{name.replace("loss_cls", "loss_classifier").replace("bbox", "box"): other[name] for name in other},
    }
    return ours(tiny_detector.images(), tiny_detector.targets()), named


def anchors_that_count(ours: Detector) -> int:
    """How many of both images are near enough to an object, or far enough from all."""
    with torch.no_grad():
        every = torch.cat(ours.rpn.anchor_generator(ours.features(tiny_detector.images())))
    labels, _ = ours.rpn.assign_targets_to_anchors([every] * 2, tiny_detector.targets())
    return sum(int((one >= 0).sum()) for one in labels)


@pytest.fixture(scope="module")
def step() -> dict[str, Any]:
    """One step of both, on all anchors and all regions, so that none is drawn at random; and its gradients."""
    settings = tiny_detector.settings(proposals=EVERY_ANCHOR, heads=EVERY_REGION)
    ours, theirs = pair(settings)
    own, other = losses(ours, theirs)
    # Ours is divided by the batch that is asked for, MMDetection's by what there was.
    scale = 2 * EVERY_ANCHOR["batch"] / anchors_that_count(ours)
    own = {
        name: value * (scale if "rpn" in name or "objectness" in name else 1) for name, value in own.items()
    }
    sum(own.values()).backward()  # type: ignore[union-attr]
    sum(other[name] for name in own).backward()  # type: ignore[union-attr]
    return {"ours": ours, "theirs": theirs, "own": own, "other": other}


def test_losses_on_the_same_samples_are_the_same(step: dict[str, Any]) -> None:
    assert step["own"].keys() == {
        "loss_objectness",
        "loss_rpn_box",
        "loss_classifier",
        "loss_box",
        "loss_mask",
    }
    for name, value in step["own"].items():
        assert value.item() > 1e-3
        assert step["other"][name].item() == pytest.approx(value.item(), rel=2e-6)


def test_gradients_are_the_same(step: dict[str, Any]) -> None:
    own = translation.to_mmdet({name: param.grad for name, param in step["ours"].named_parameters()})
    other = {name: param.grad for name, param in step["theirs"].named_parameters()}
    assert own.keys() == other.keys()
    for name, gradient in own.items():
        # Rounding of the input by 3e-7 moves the gradient of the first block by 0.005 of its size.
        assert float((gradient - other[name]).norm() / gradient.norm()) < 0.02, name
    whole = torch.cat([(own[name] - other[name]).flatten() for name in own]).norm()
    assert float(whole / torch.cat([gradient.flatten() for gradient in own.values()]).norm()) < 1e-3


def test_what_a_cascade_differs_in() -> None:
    settings = tiny_detector.settings(proposals=EVERY_ANCHOR, heads={**EVERY_REGION, "cascade": True})
    ours, theirs = pair(settings)
    own, other = losses(ours, theirs)
    for name, theirs_name in (
        ("loss_classifier_stage0", "s0.loss_classifier"),
        ("loss_box_stage0", "s0.loss_box"),
        ("loss_mask", "s0.loss_mask"),
    ):
        assert other[theirs_name].item() == pytest.approx(own[name].item(), rel=2e-6)
    # Later stages count for less there, and each has a mask head.
    assert theirs.roi_head.stage_loss_weights == [1.0, 0.5, 0.25]
    assert "s2.loss_mask" in other
    ours.eval(), theirs.eval()
    with torch.no_grad():
        maps = ours.features(tiny_detector.images())
        proposals, _ = ours.rpn(maps, tiny_detector.SIZES)
        heads = ours.roi_heads
        stages = []
        boxes = proposals
        for stage, coder in enumerate(heads.box_coders):
            logits, deltas = heads._stage(stage, maps[:4], boxes)
            stages.append(logits)
            from downstream.detection.cascade import refined

            boxes = refined(deltas, boxes, coder, tiny_detector.SIZES)
        batch = theirs.data_preprocessor(given(), False)
        levels = theirs.extract_feat(batch["inputs"])
        from mmdet.structures.bbox import bbox2roi

        _, scores, _ = theirs.roi_head._refine_roi(
            levels,
            bbox2roi(proposals),
            [sample.metainfo for sample in batch["data_samples"]],
            [len(one) for one in proposals],
        )
    # It averages logits where we average probabilities, on the same boxes.
    averaged = torch.stack(stages).mean(dim=0)
    torch.testing.assert_close(
        torch.cat(scores), torch.cat([averaged[:, 1:], averaged[:, :1]], dim=1), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(
    "optim",
    [
        {"layer_decay": 0.7, "weight_decay": 0.1},
        {"decay_biases": True, "decay_positions": True, "decay_norms": True},
    ],
)
@pytest.mark.parametrize("backbone", [tiny_detector.BACKBONE, HIERARCHICAL])
def test_parameter_groups_are_ours(backbone: str, optim: dict[str, Any]) -> None:
    settings = SETTINGS["plain"]
    values = config_of(settings, tiny_detector.CANVAS, backbone, **optim).optim
    ours = build(load_backbone(backbone), tiny_detector.CLASSES, settings, tiny_detector.CANVAS)
    theirs = built(settings, backbone=backbone)

    def multiset(found: Any) -> list[Any]:
        return sorted(
            (group["lr_scale"], group["weight_decay"], tuple(param.shape))
            for group in found
            for param in group["params"]
        )

    assert multiset(groups(theirs, values, ["ChannelNorm"])) == multiset(parameter_groups(ours, values))


# ---------------------------------------------------------------- data


def loaded(data: DetectionData, split: str, folder: Path) -> Any:
    from mmdet.registry import DATASETS
    from mmengine.registry import DefaultScope

    classes = open_split(data, "val", folder).classes
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(pipelines.dataset(data, split, folder, classes))


def fixed(**more: Any) -> DetectionData:
    """Jitter that leaves nothing to chance."""
    augment = {"flip": 0.0, "scale": [0.75, 0.75], **more}
    return tiny_coco.settings_of(augment=augment)


def test_the_same_images_and_labels_are_read(tmp_path: Path) -> None:
    content = tiny_coco.dataset()
    for each in content["annotations"]:
        each.pop("area")  # which the format allows
    data = tiny_coco.write(tmp_path, content, content)
    for split in ("train", "val"):
        ours, theirs = open_split(data, split, tmp_path), loaded(data, split, tmp_path)
        infos = {info["img_id"]: info for info in map(theirs.get_data_info, range(len(theirs)))}
        assert sorted(infos) == [ours.image_id(index) for index in range(len(ours))]
        assert theirs.cat_ids == [3, 13, 90]  # the file has them in another order
        for index in range(len(ours)):
            objects = infos[ours.image_id(index)]["instances"]
            kept = [each["bbox_label"] + 1 for each in objects if not each["ignore_flag"]]
            assert kept == ours.annotations.labels[ours.targets(index)].tolist()
    with_empty = tiny_coco.settings_of(filter_empty=False)
    assert len(loaded(with_empty, "train", tmp_path)) == 4


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("flip_first", [True, False])
@pytest.mark.parametrize("canvas", [(64, 64), (64, 96)])
def test_training_samples_are_the_same(
    tmp_path: Path, flip: float, flip_first: bool, canvas: tuple[int, int]
) -> None:
    data = tiny_coco.write(tmp_path)
    data = tiny_coco.settings_of(
        image_size=list(canvas), augment={"flip": flip, "scale": [0.75, 0.75], "flip_first": flip_first}
    )
    ours, theirs = train_dataset(data, tmp_path), loaded(data, "train", tmp_path)
    places = {theirs.get_data_info(place)["img_id"]: place for place in range(len(theirs))}
    for index in range(len(ours)):
        own, other = ours[index], theirs[places[ours.source.image_id(index)]]
        image, sample = other["inputs"].flip(0), other["data_samples"]
        assert image.shape == own["image"].shape == (3, *sample.img_shape)
        assert int((image.int() - own["image"].int()).abs().max()) <= 1
        target, objects = own["target"], sample.gt_instances
        assert (target["labels"] - 1).tolist() == objects.labels.tolist()
        # Outlines are drawn at the new size here; there bitmaps are drawn at the old size and resampled.
        assert float((target["boxes"] - objects.bboxes.tensor).abs().max()) <= 1
        masks = torch.from_numpy(objects.masks.masks)
        overlap = (masks & target["masks"]).sum((1, 2)) / (masks | target["masks"]).sum((1, 2))
        assert float(overlap.min()) > 0.85


def test_crops_and_scales_stay_within_the_recipe(tmp_path: Path) -> None:
    tiny_coco.write(tmp_path)
    data = tiny_coco.settings_of(image_size=[64, 64], augment={"flip": 0.5, "scale": [0.1, 2.0]})
    theirs = loaded(data, "train", tmp_path)
    np.random.seed(0)
    sizes = []
    for _ in range(40):
        sample = theirs[0]["data_samples"]
        height, width = sample.img_shape
        sizes.append(width)
        boxes = sample.gt_instances.bboxes.tensor
        assert sample.gt_instances.masks.masks.shape[1:] == (height, width)
        assert bool((boxes[:, 2:] > boxes[:, :2]).all())
        assert bool((boxes >= 0).all())
        assert bool((boxes <= torch.tensor([width, height] * 2)).all())
    assert min(sizes) < 20
    assert max(sizes) == 64


@pytest.mark.parametrize(
    "evaluation", [{"short_edge": 60, "long_edge": 60}, {"short_edge": 40, "long_edge": 64}]
)
def test_test_images_are_the_same(tmp_path: Path, evaluation: dict[str, int]) -> None:
    tiny_coco.write(tmp_path)
    data = tiny_coco.settings_of(evaluation=evaluation)
    ours, theirs = val_dataset(data, tmp_path), loaded(data, "val", tmp_path)
    assert len(ours) == len(theirs)
    places = {theirs.get_data_info(place)["img_id"]: place for place in range(len(theirs))}
    for index in range(len(ours)):
        other = theirs[places[ours.source.image_id(index)]]
        image = ours[index]["image"]
        assert other["inputs"].shape == image.shape
        assert int((other["inputs"].flip(0).int() - image.int()).abs().max()) <= 1
        assert other["data_samples"].ori_shape == (tiny_coco.HEIGHT, tiny_coco.WIDTH)


def test_bad_images_are_told(tmp_path: Path) -> None:
    content = tiny_coco.dataset()
    data = tiny_coco.write(tmp_path, content, content)
    (tmp_path / "images/000005.png").write_bytes(b"no image")
    theirs = loaded(data, "val", tmp_path)
    places = {theirs.get_data_info(place)["img_id"]: place for place in range(len(theirs))}
    with pytest.raises(MaeBenchError, match=r"unreadable image .*000005.png: .*Mend or remove it"):
        theirs[places[5]]
    from PIL import Image

    Image.fromarray(tiny_coco.picture(20, 30)).save(tmp_path / "images/000070.png")
    with pytest.raises(
        MaeBenchError, match=r"000070.png is 20 pixels high and 30 wide, but the annotations say 48"
    ):
        theirs[places[70]]


def test_the_native_metric_counts_labels_as_we_do(tmp_path: Path) -> None:
    """Perfect detections get an AP of 1 from MMDetection's metric, whatever the order of the categories."""
    from mmdet.registry import METRICS

    content = copy.deepcopy(tiny_coco.dataset())
    for each in content["annotations"]:
        each["area"] = 400.0
    data = tiny_coco.write(tmp_path, content, content)
    source = open_split(data, "val", tmp_path)
    metric = METRICS.build({**pipelines.evaluator(data, tmp_path), "metric": "bbox"})
    metric.dataset_meta = {"classes": tuple(source.classes)}
    for index in range(len(source)):
        truth, kept = source.truth(index), source.targets(index)
        first = source.annotations.objects(index).start
        rows = [which - first for which in kept]
        metric.process(
            {},
            [
                {
                    "img_id": source.image_id(index),
                    "ori_shape": source.size(index),
                    "pred_instances": {
                        "bboxes": truth["boxes"][rows],
                        "scores": torch.ones(len(rows)),
                        "labels": truth["labels"][rows] - 1,
                    },
                }
            ],
        )
    assert metric.evaluate(len(source))["coco/bbox_mAP"] == 1.0
