"""The detector: what it takes, what it gives, and what must not go wrong in training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from downstream.detection.anchors import Anchors
from downstream.detection.detector import Detector, build
from downstream.detection.heads import BoxPredictor, MaskPredictor
from downstream.detection.pooling import RegionPool
from downstream.detection.pyramid import SimplePyramid, TopDownPyramid
from downstream.detection.regions import Regions, cut_out
from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.settings import OptimSettings
from tests.tiny_detector import BACKBONE, CANVAS, CLASSES, SIZES, filled, images, settings, targets, tiny

SMALL_PATCHES = "random:vit_tiny_patch16_224?embed_dim=32&depth=4&num_heads=2&img_size=16&patch_size=4&mean=0.5,0.5,0.5&std=0.5,0.5,0.5"
NOTHING = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "masks": torch.zeros(0, *SIZES[0], dtype=torch.uint8),
}


def train_step(model: Detector, pictures: list[Tensor], truth: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    losses: dict[str, Tensor] = model.train()(pictures, truth)
    torch.stack(list(losses.values())).sum().backward()
    return losses


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, param in model.named_parameters() if param.grad is None]


# ---------------------------------------------------------------- evaluation


def test_detections_lie_within_their_image_and_have_a_mask_a_label_and_a_falling_score() -> None:
    with torch.no_grad():
        detections = filled().eval()(images())
    for found, (height, width) in zip(detections, SIZES, strict=True):
        count = len(found["boxes"])
        assert count > 0
        assert found["boxes"].shape == (count, 4)
        assert found["masks"].shape == (count, 28, 28)
        assert found["boxes"].min() >= 0
        assert found["boxes"][:, 2].max() <= width
        assert found["boxes"][:, 3].max() <= height
        assert (found["boxes"][:, 2:] > found["boxes"][:, :2]).all()
        assert set(found["labels"].tolist()) <= set(range(1, CLASSES + 1))
        assert (found["scores"].diff() <= 0).all()
        assert 0 <= found["masks"].min() < found["masks"].max() <= 1


def test_an_image_is_found_the_same_alone_and_beside_another() -> None:
    model = filled().eval()
    with torch.no_grad():
        together = model(images())[1]
        alone = model(images()[1:])[0]
    assert torch.equal(together["labels"], alone["labels"])
    torch.testing.assert_close(together["boxes"], alone["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(together["masks"], alone["masks"], rtol=1e-4, atol=1e-4)


def test_the_padding_is_zero_after_normalisation() -> None:
    batch = tiny()._padded(images())
    assert batch.shape == (2, 3, *CANVAS)
    for image, (height, width) in zip(batch, SIZES, strict=True):
        inside = image[:, :height, :width]
        assert inside.std() > 0.5
        assert image.abs().sum() == inside.abs().sum()


def test_without_a_detection_masks_are_an_empty_tensor() -> None:
    with torch.no_grad():
        detections = filled(settings(heads={"score": 1.0})).eval()(images())
    assert [found["boxes"].shape for found in detections] == [(0, 4)] * 2
    assert [found["masks"].shape for found in detections] == [(0, 28, 28)] * 2


# ---------------------------------------------------------------- training


def test_training_gives_five_finite_losses_and_every_parameter_a_gradient() -> None:
    model = tiny()
    losses = train_step(model, images(), targets())
    assert list(losses) == ["loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box", "loss_mask"]
    assert all(math.isfinite(loss.item()) and loss.item() > 0 for loss in losses.values())
    assert without_gradient(model) == []


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("truth", ["none in one", "none in both"])
def test_images_without_an_object_train_and_leave_no_parameter_without_gradient(
    norm: str, truth: str
) -> None:
    model = tiny(settings(pyramid={"norm": norm}))
    given = [NOTHING, targets()[1] if truth == "none in one" else NOTHING]
    losses = train_step(model, images(), given)
    assert all(loss.isfinite() for loss in losses.values())
    assert without_gradient(model) == []
    assert all(param.grad is not None and param.grad.isfinite().all() for param in model.parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    if truth == "none in both":
        assert losses["loss_mask"] == losses["loss_box"] == losses["loss_rpn_box"] == 0
        assert losses["loss_objectness"] > 0


def test_losses_fall_on_two_images() -> None:
    model = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(10):
        optimizer.zero_grad()
        totals.append(sum(loss.item() for loss in train_step(model, images(), targets()).values()))
        optimizer.step()
    assert totals[-1] < 0.7 * totals[0]


def test_bf16_trains_with_losses_in_float32_close_to_those_of_float32() -> None:
    model = filled(settings(proposals={"batch": 10000}, heads={"batch": 10000})).train()
    exact = model(images(), targets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(images(), targets())
    assert {loss.dtype for loss in rounded.values()} == {torch.float32}
    assert {name: loss.item() for name, loss in rounded.items()} == pytest.approx(
        {name: loss.item() for name, loss in exact.items()}, rel=0.1
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_masks_of_any_type_give_the_same_loss(dtype: torch.dtype) -> None:
    truth = [{**target, "masks": target["masks"].to(dtype)} for target in targets()]
    losses = train_step(filled(), images(), truth)
    wanted = train_step(filled(), images(), targets())
    assert losses["loss_mask"].item() == wanted["loss_mask"].item()


def test_a_batch_of_regions_is_drawn_with_its_share_of_objects_and_their_own_boxes_among_them() -> None:
    heads = tiny(settings(heads={"batch": 20, "positive": 0.25})).roi_heads
    truth = targets()
    near = truth[0]["boxes"][:1].repeat(30, 1) + torch.arange(30)[:, None] * 0.01
    proposals = [torch.cat([near, torch.rand(40, 4).cumsum(1)]), torch.rand(5, 4).cumsum(1)]
    regions = heads.sample(proposals, truth)
    assert [len(one) for one in regions.boxes] == [20, 7]
    assert int((regions.labels[0] > 0).sum()) == 5
    own = [box.tolist() for box, label in zip(regions.boxes[1], regions.labels[1], strict=True) if label > 0]
    assert sorted(own) == sorted(truth[1]["boxes"].tolist())


def test_sampled_anchors_have_their_share_of_positive_ones() -> None:
    model = tiny(settings(proposals={"batch": 4, "positive": 0.25}))
    every = torch.cat(model.rpn.anchor_generator(model.features(images())))
    labels, _ = model.rpn.assign_targets_to_anchors([every] * 2, targets())
    positive, negative = model.rpn.fg_bg_sampler(labels)
    assert min(int((label == 1).sum()) for label in labels) > 1
    assert [int(one.sum()) for one in positive] == [1, 1]
    assert [int(one.sum()) for one in negative] == [3, 3]


def test_the_mask_to_learn_is_the_objects_bitmap_within_the_region() -> None:
    mask = torch.zeros(2, 56, 84, dtype=torch.uint8)
    mask[1, 14:28, 28:56] = 1
    whole, half = cut_out(
        mask, torch.tensor([1, 1]), torch.tensor([[28.0, 14, 56, 28], [28.0, 14, 56, 42]]), 28
    )
    assert whole.min() == 1
    assert half[:14].min() == 1
    assert half[14:].max() == 0
    assert cut_out(mask, torch.tensor([0]), torch.tensor([[28.0, 14, 56, 28]]), 28).max() == 0


def test_foreground_takes_regions_with_an_object_and_their_truth() -> None:
    regions = Regions(
        [torch.eye(4)[:3], torch.eye(4)[3:]],
        [torch.tensor([0, 2, 1]), torch.tensor([0])],
        [torch.tensor([0, 1, 0]), torch.tensor([0])],
    )
    ours = regions.foreground()
    assert [len(one) for one in ours.boxes] == [2, 0]
    truth = [{"boxes": torch.tensor([[1.0] * 4, [2.0] * 4])}, {"boxes": torch.zeros(0, 4)}]
    assert ours.truth(truth, "boxes")[:, 0].tolist() == [2, 1]


# ---------------------------------------------------------------- parts


def test_anchors_are_centred_on_the_grid_and_keep_their_area() -> None:
    anchors = Anchors([32, 64], [0.5, 1.0, 2.0], [4, 3.5])
    first, second = anchors([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])
    assert first.shape == (18, 4)
    centres = (first[:, :2] + first[:, 2:]) / 2
    assert centres[::3].tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4]]
    sides = first[:, 2:] - first[:, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.full((18,), 1024.0))
    torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:3], torch.tensor([0.5, 1.0, 2.0]))
    assert second[4].tolist() == [3.5 - 32, -32, 3.5 + 32, 32]


def test_the_canonical_side_shrinks_with_the_patches() -> None:
    large, small = RegionPool(7, [4, 8, 16, 32]), RegionPool(7, [1, 2, 4, 8])
    boxes = torch.tensor([[0.0, 0, side, side] for side in (50, 112, 223, 224, 448, 1000)])
    assert large.levels(boxes).tolist() == [0, 1, 1, 2, 3, 3]
    assert small.levels(boxes / 4).tolist() == [0, 1, 1, 2, 3, 3]


def test_predictors_keep_the_background_last_and_give_it_first() -> None:
    predictor = BoxPredictor(5, CLASSES, CLASSES)
    with torch.no_grad():
        predictor.classify.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 100.0]))
    logits, deltas = predictor(torch.zeros(2, 5))
    assert logits.tolist() == [[100, 1, 2, 3]] * 2
    assert deltas.shape == (2, CLASSES, 4)
    masks = MaskPredictor(5, CLASSES)
    with torch.no_grad():
        masks.masks.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert masks(torch.zeros(2, 5, 1, 1), torch.tensor([3, 1])).flatten().tolist() == [3, 1]


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_a_convolution_has_no_bias_where_a_norm_follows(norm: Any) -> None:
    model = tiny(settings(pyramid={"norm": norm}))
    biased = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None and not name.startswith("body")
    }
    assert biased == {
        "rpn.head.convs.0.conv",
        "rpn.head.convs.1.conv",
        "rpn.head.objectness",
        "rpn.head.deltas",
        "roi_heads.mask_predictor.masks",
    }


def test_the_layers_are_initialised_as_in_detectron2() -> None:
    torch.manual_seed(0)
    model = tiny(settings(pyramid={"channels": 64}, heads={"box_width": 256}))
    parts: dict[str, Any] = dict(model.named_modules())
    deviations = {
        "rpn.head.convs.1.conv": 0.01,
        "rpn.head.deltas": 0.01,
        "roi_heads.box_predictor.classify": 0.01,
        "roi_heads.box_predictor.deltas": 0.001,
        "roi_heads.mask_predictor.masks": 0.001,
        "roi_heads.box_head.conv0.conv": math.sqrt(2 / (64 * 9)),
        "roi_heads.mask_head.enlarge": math.sqrt(2 / (64 * 4)),
        "roi_heads.box_head.fc0": math.sqrt(1 / (64 * 49)),
    }
    for name, deviation in deviations.items():
        assert parts[name].weight.std().item() == pytest.approx(deviation, rel=0.15), name
        assert parts[name].bias is None or parts[name].bias.abs().max() == 0, name


# ---------------------------------------------------------------- pyramids


def test_the_simple_pyramid_gives_five_levels_of_falling_size() -> None:
    levels = SimplePyramid(16, 8, "layer")([torch.randn(2, 16, 6, 8)])
    assert [tuple(one.shape) for one in levels] == [
        (2, 8, 24, 32), (2, 8, 12, 16), (2, 8, 6, 8), (2, 8, 3, 4), (2, 8, 2, 2)
    ]  # fmt: skip


def test_the_top_down_pyramid_over_blocks_of_a_vit_gives_the_same_levels() -> None:
    levels = TopDownPyramid([16] * 4, 8, "batch", rescaled=True)([torch.randn(2, 16, 6, 8) for _ in range(4)])
    assert [tuple(one.shape) for one in levels] == [
        (2, 8, 24, 32), (2, 8, 12, 16), (2, 8, 6, 8), (2, 8, 3, 4), (2, 8, 2, 2)
    ]  # fmt: skip


def test_a_top_down_level_hears_of_coarser_maps_and_not_of_finer_ones() -> None:
    pyramid = TopDownPyramid([4] * 4, 8, "layer", rescaled=False).eval()
    maps = [torch.randn(1, 4, side, side) for side in (16, 8, 4, 2)]
    before = pyramid(maps)
    maps[1] = torch.randn(1, 4, 8, 8)
    changed = [not torch.equal(a, b) for a, b in zip(before, pyramid(maps), strict=True)]
    assert changed == [True, True, False, False, False]


def test_the_pyramid_over_four_blocks_trains() -> None:
    model = tiny(settings(pyramid={"kind": "fpn", "norm": "batch"}))
    assert model.blocks == [0, 1, 2, 3]
    train_step(model, images(), targets())
    assert without_gradient(model) == []


def test_a_hierarchical_backbone_gets_a_pyramid_over_its_own_maps() -> None:
    backbone: Any = load_backbone("random:resnet18")
    model = build(backbone, CLASSES, settings(), (64, 96))
    pictures = [image[:, :64, :72] for image in images()]
    truth = [
        {
            "boxes": torch.tensor([[5.0, 5, 40, 40]]),
            "labels": torch.tensor([2]),
            "masks": torch.ones(1, 64, 72),
        }
    ]
    train_step(model, pictures, truth * 2)
    assert without_gradient(model) == []
    assert model.rpn.anchor_generator.strides == [4, 8, 16, 32, 64]
    names = [name for layer in model.layer_names() for name in layer]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_small_patches_give_small_strides() -> None:
    config = settings(proposals={"anchor_sizes": [4, 8, 16, 32, 64]})
    model = build(load_backbone(SMALL_PATCHES), CLASSES, config, (64, 64)).eval()
    assert model.rpn.anchor_generator.strides == [1, 2, 4, 8, 16]
    assert model.roi_heads.box_roi_pool.strides == [1, 2, 4, 8]
    with torch.no_grad():
        assert [one.shape[-1] for one in model.features([images()[0][:, :64, :48]])] == [64, 32, 16, 8, 4]


# ---------------------------------------------------------------- names for the optimiser


def test_every_parameter_has_one_place_in_depth() -> None:
    model = tiny()
    layers = model.layer_names()
    assert len(layers) == 6
    assert sorted(name for layer in layers for name in layer) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert all(name.startswith("body.backbone.vit.blocks.2.") for name in layers[3])
    assert {name.partition(".")[0] for name in layers[-1]} == {"pyramid", "rpn", "roi_heads"}


def test_batch_norms_are_spared_weight_decay_but_layer_norms_over_channels_are_not() -> None:
    def spared(norm: str) -> set[str]:
        optim = OptimSettings(lr=1.0, weight_decay=0.1, decay_biases=True)
        groups = parameter_groups(tiny(settings(pyramid={"norm": norm})), optim)
        return {name for group in groups if not group["weight_decay"] for name in group["names"]}

    assert not any(name.startswith(("pyramid", "roi_heads")) for name in spared("layer"))
    assert "roi_heads.box_head.conv0.norm.weight" in spared("batch")
    assert "body.backbone.vit.blocks.0.norm1.bias" in spared("layer") & spared("batch")


# ---------------------------------------------------------------- errors


def test_an_image_larger_than_the_canvas_is_an_error() -> None:
    with pytest.raises(
        MaeBenchError, match="an image of 129x40 pixels does not fit on the canvas of 128x128"
    ):
        tiny().eval()([torch.zeros(3, 129, 40, dtype=torch.uint8)])


def test_a_box_without_area_is_an_error() -> None:
    truth = targets()
    truth[0]["boxes"][1, 2] = truth[0]["boxes"][1, 0]
    with pytest.raises(MaeBenchError, match="a box of the targets has no area"):
        tiny().train()(images(), truth)


def test_training_without_targets_is_an_error() -> None:
    with pytest.raises(MaeBenchError, match="needs targets"):
        tiny().train()(images())


@pytest.mark.parametrize(
    ("config", "canvas", "message"),
    [
        ({}, (128, 112), "128x112 is not divisible by 32"),
        (
            {"pyramid": {"kind": "fpn", "blocks": [0, 1, 2, 4]}},
            CANVAS,
            "should be four blocks of .* the last of them 3",
        ),
        ({"pyramid": {"kind": "fpn", "blocks": [0, 0, 1, 2]}}, CANVAS, "no block may be left without use"),
        ({"pyramid": {"kind": "fpn", "blocks": [1, 3]}}, CANVAS, "should be four blocks"),
        ({"attention": {"global_blocks": [7]}}, CANVAS, "blocks 0 to 3, so none of number 7"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_errors(
    config: dict[str, Any], canvas: tuple[int, int], message: str
) -> None:
    with pytest.raises(MaeBenchError, match=message):
        tiny(settings(**config), canvas)


def test_patches_that_are_not_square_are_an_error() -> None:
    backbone = load_backbone(BACKBONE.replace("img_size=64", "img_size=64&patch_size=16x8"))
    with pytest.raises(MaeBenchError, match="patches of 16x8 pixels; detection needs square ones"):
        build(backbone, CLASSES, settings(), CANVAS)
