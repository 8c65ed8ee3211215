"""The segmenter: what its parts compute, what is trained, what its loss counts, and what it refuses."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from downstream.segmentation.heads import Classify, ConvNorm, LinearHead
from downstream.segmentation.pyramid import Rescaling
from downstream.segmentation.segmenter import Logits, Segmenter, build, loss, pixel_loss
from downstream.segmentation.settings import SegmenterSettings
from downstream.segmentation.uper import FusingConv, UperNet, resized
from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.settings import OptimSettings
from tests.closed_form import numbers

BACKBONE = "random:vit_tiny_patch16_224?embed_dim=24&depth=4&num_heads=3&patch_size=8&img_size=32"
CLASSES = 5


def segmenter(canvas: tuple[int, int] = (32, 48), **settings: Any) -> Segmenter:
    config = SegmenterSettings(channels=12, auxiliary_channels=6, **settings)
    return build(load_backbone(BACKBONE), CLASSES, config, canvas)


def linear(**settings: Any) -> Segmenter:
    return segmenter(head="linear", relative_positions=False, **settings)


def images(count: int = 2, canvas: tuple[int, int] = (32, 48)) -> Tensor:
    return 2 * numbers((count, 3, *canvas), 3001).float()


def labels(*shape: int) -> Tensor:
    return ((numbers(shape, 3002) + 1) / 2 * CLASSES).long()


# ---------------------------------------------------------------- parts


def test_rescaling_gives_four_sizes() -> None:
    maps = Rescaling(6)([torch.randn(2, 6, 5, 7) for _ in range(4)])
    assert [tuple(x.shape) for x in maps] == [(2, 6, 20, 28), (2, 6, 10, 14), (2, 6, 5, 7), (2, 6, 2, 3)]


@pytest.mark.parametrize("sizes", [[(12, 16), (6, 8), (3, 4), (1, 2)], [(5, 3), (2, 7), (6, 6), (1, 1)]])
def test_fusing_equals_resizing_joining_and_convolving(sizes: list[tuple[int, int]]) -> None:
    widths = [4, 3, 3, 2]
    fusing = FusingConv(widths, 5).double()
    maps = [
        numbers((2, width, *size), 3100 + place).requires_grad_()
        for place, (width, size) in enumerate(zip(widths, sizes, strict=True))
    ]
    plain = fusing.conv(torch.cat([resized(x, sizes[0]) for x in maps], dim=1))
    wanted = F.relu(F.batch_norm(plain, None, None, training=True, eps=1e-5))
    found = fusing(maps)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    weighting = numbers(found.shape, 3200)
    inputs = [*maps, fusing.conv.weight]
    for one, other in zip(
        torch.autograd.grad((found * weighting).sum(), inputs),
        torch.autograd.grad((wanted * weighting).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_first_weights_are_those_of_the_published_heads() -> None:
    torch.manual_seed(0)
    conv, classify = ConvNorm(64, 32, kernel=3), Classify(256, 150, dropout=0.1)
    assert conv.conv.bias is None
    assert conv.conv.weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
    assert classify.conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert classify.conv.bias is not None
    assert not classify.conv.bias.any()


def test_dropout_takes_whole_channels_before_the_classifier() -> None:
    classify = Classify(64, 64, dropout=0.5)
    with torch.no_grad():
        classify.conv.weight.copy_(torch.eye(64)[:, :, None, None])
    out = classify(torch.ones(1, 64, 3, 3)).flatten(2)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out.amin(2), out.amax(2))


def test_linear_head_normalises_maps_side_by_side() -> None:
    head = LinearHead([3, 3], classes=4, dropout=0.0).double()
    first, second = numbers((2, 3, 4, 5), 1), 5 + 3 * numbers((2, 3, 4, 5), 2)
    joined = torch.cat([first, second], dim=1)
    standard = (joined - joined.mean((0, 2, 3), keepdim=True)) / (
        joined.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5
    ).sqrt()
    torch.testing.assert_close(head([first, second]), head.classify.conv(standard))


# ---------------------------------------------------------------- the whole


def test_logits_are_four_times_finer_than_patches() -> None:
    model = segmenter()
    logits = model(images())
    assert logits.main.shape == (2, CLASSES, 16, 24)
    assert logits.auxiliary is not None
    assert logits.auxiliary.shape == (2, CLASSES, 4, 6)
    assert model.eval()(images(1)).auxiliary is None


def test_odd_grids_work() -> None:
    assert segmenter((40, 56))(images(2, (40, 56))).main.shape == (2, CLASSES, 20, 28)


def test_no_auxiliary_head_without_weight() -> None:
    model = segmenter(auxiliary_weight=0.0)
    assert model(images()).auxiliary is None
    assert not any("auxiliary" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(("blocks", "count"), [("last", 1), ("quarters", 4), ([1, 3], 2)])
def test_linear_head_takes_the_blocks_it_is_given(blocks: Any, count: int) -> None:
    model = linear(blocks=blocks)
    assert isinstance(model.head, LinearHead)
    assert model.head.norm.num_features == 24 * count
    assert model(images()).main.shape == (2, CLASSES, 4, 6)


def test_final_norm_reaches_the_maps() -> None:
    model = linear(blocks="last", final_norm=True).eval()
    (x,) = model.backbone(images(), model.blocks)
    torch.testing.assert_close(x.mean(1), torch.zeros(2, 4, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.var(1, unbiased=False), torch.ones(2, 4, 6), rtol=1e-3, atol=0)


def test_a_frozen_backbone_stays_as_it_was() -> None:
    model = linear(freeze=True, blocks="last").train()
    assert not any(module.training for module in model.backbone.backbone.vit.modules())
    logits = model(images())
    assert logits.main.requires_grad
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"head"}
    seen: list[bool] = []
    model.backbone.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    model(images())
    assert seen == [False]


def test_every_trained_parameter_gets_a_gradient() -> None:
    for model in (segmenter(), segmenter(blocks=[0, 1, 1, 2]), linear(blocks=[1])):
        losses = loss(model.train()(images()), labels(2, 32, 48), 0.4)
        losses["loss"].backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_layers_name_every_parameter_once() -> None:
    model = segmenter(final_norm=True, layer_scale=1.0)
    layers = model.layer_names()
    assert sorted(name for layer in layers for name in layer) == sorted(
        name for name, _ in model.named_parameters()
    )
    assert len(layers) == model.backbone.depth + 2
    assert {"backbone.backbone.vit.norm.weight", "head.fuse.conv.weight"} <= set(layers[-1])
    assert model.no_weight_decay() == {"backbone.backbone.vit.cls_token", "backbone.backbone.vit.pos_embed"}
    scales = {group["lr_scale"] for group in parameter_groups(model, OptimSettings(lr=1.0, layer_decay=0.5))}
    assert scales == {0.5**power for power in range(6)}


def test_both_heads_learn() -> None:
    torch.manual_seed(0)
    row, column = torch.arange(32)[:, None], torch.arange(48)[None]
    target = ((row // 16 + column // 16) % 2).expand(2, 32, 48)
    for model in (segmenter(), linear()):
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
        values = []
        for _ in range(25):
            value = loss(model(images()), target, 0.4)["loss"]
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        assert values[-1] < 0.6 * values[0]


# ---------------------------------------------------------------- the loss


def plain_loss(logits: Tensor, target: Tensor) -> Tensor:
    large = F.interpolate(logits.float(), size=target.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(large, target.long(), ignore_index=255, reduction="none").mean()


def test_loss_is_the_mean_over_all_pixels_with_its_gradient() -> None:
    target = labels(3, 16, 24)
    target[0, :4] = 255
    target[2] = 255
    for kind in (torch.int64, torch.uint8):
        own, other = (2 * numbers((3, CLASSES, 4, 6), 3003).float().requires_grad_() for _ in range(2))
        found, wanted = pixel_loss(own, target.to(kind)), plain_loss(other, target)
        torch.testing.assert_close(found, wanted)
        for one, leaf in ((3 * found, own), (3 * wanted, other)):
            leaf.retain_grad()
            one.backward()
        torch.testing.assert_close(own.grad, other.grad)


def test_micro_batches_add_up_to_the_batch() -> None:
    target = labels(4, 16, 24)
    target[1] = 255
    logits = numbers((4, CLASSES, 4, 6), 3004).float()
    halves = [pixel_loss(logits[part], target[part]) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, pixel_loss(logits, target))


def test_a_batch_without_labels_gives_zero() -> None:
    logits = numbers((2, CLASSES, 4, 6), 3005).float().requires_grad_()
    losses = loss(Logits(logits, logits), torch.full((2, 8, 12), 255), 0.4)
    losses["loss"].backward()
    assert losses["loss"].item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_auxiliary_loss_counts_with_its_weight() -> None:
    main, auxiliary = (numbers((2, CLASSES, 4, 6), stream).float() for stream in (3006, 3007))
    target = labels(2, 16, 24)
    losses = loss(Logits(main, auxiliary), target, 0.4)
    torch.testing.assert_close(losses["main"], plain_loss(main, target))
    torch.testing.assert_close(losses["loss"], plain_loss(main, target) + 0.4 * plain_loss(auxiliary, target))
    assert set(loss(Logits(main, None), target, 0.4)) == {"loss"}


def test_low_precision_logits_are_judged_in_fp32() -> None:
    logits = numbers((2, CLASSES, 4, 6), 3008).bfloat16().requires_grad_()
    target = labels(2, 16, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pixel_loss(logits, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain_loss(logits, target), rtol=1e-6, atol=0)
    found.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


def test_nothing_large_is_kept_for_the_way_back() -> None:
    logits = numbers((2, CLASSES, 4, 6), 3009).float().requires_grad_()
    boxes: list[weakref.ref[Box]] = []

    class Box:
        def __init__(self, x: Tensor) -> None:
            self.x = x
            boxes.append(weakref.ref(self))

    with torch.autograd.graph.saved_tensors_hooks(Box, lambda box: box.x):
        value = pixel_loss(logits, labels(2, 64, 96))
        kept = [box.x.numel() for box in (ref() for ref in boxes) if box is not None]
        assert 0 < sum(kept) <= logits.numel() + 1
        value.backward()


# ---------------------------------------------------------------- refusals


def test_one_image_cannot_train_a_pooling_to_one_cell() -> None:
    model = segmenter()
    with pytest.raises(MaeBenchError, match=r"train\.micro_batch: .* 2 or more"):
        model.train()(images(1))
    assert model.eval()(images(1)).main.shape[0] == 1
    assert segmenter(pool_scales=[2, 3]).train()(images(1)).main.shape[0] == 1
    assert linear().train()(images(1)).main.shape[0] == 1


def test_blocks_must_exist() -> None:
    with pytest.raises(
        MaeBenchError, match=r"model\.blocks: random:.* has blocks 0 to 3, so none of number 7"
    ):
        segmenter(blocks=[1, 2, 3, 7])


@pytest.mark.parametrize("canvas", [(32, 44), (8, 32)])
def test_crops_must_hold_whole_patches(canvas: tuple[int, int]) -> None:
    with pytest.raises(MaeBenchError, match=r"data\.image_size: .*8 x 8 pixels"):
        segmenter(canvas)


def test_uper_net_takes_any_pool_scales() -> None:
    head = UperNet([6] * 4, 4, CLASSES, scales=[1, 5], dropout=0.0)
    maps = [torch.randn(2, 6, side, side) for side in (16, 8, 4, 2)]
    assert head(maps).shape == (2, CLASSES, 16, 16)
