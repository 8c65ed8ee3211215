"""The operators that stand in for mmcv's compiled ones, called as mmcv's own Python functions call them."""

from __future__ import annotations

import ast
import importlib
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional as F

from downstream.openmmlab.extension import bridged
from downstream.openmmlab.operators import OPERATORS, MissingOperatorError
from downstream.openmmlab.presence import ready
from mae_bench.errors import MaeBenchError
from tests import plain_operators as plain

pytestmark = pytest.mark.engine


def asked_for() -> set[str]:
    """The names that mmcv's Python files want of the compiled module, read without importing them."""
    spec = find_spec("mmcv")
    assert spec is not None
    assert spec.origin is not None
    return {
        name
        for path in (Path(spec.origin).parent / "ops").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "ext_loader.load_ext"
        for name in ast.literal_eval(node.args[1])
    }


@pytest.fixture(scope="module")
def ops() -> Any:
    ready("mmcv")
    assert bridged()
    return importlib.import_module("mmcv.ops")


@pytest.fixture(scope="module")
def ext(ops: Any) -> Any:
    return importlib.import_module("mmcv._ext")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_boxes(count: int, seed: int, size: float = 20) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (corners.sort(1).values * size).flatten(1)


# ---------------------------------------------------------------- what is offered, and what is not


def test_every_operator_that_we_offer_is_one_that_mmcv_asks_for() -> None:
    assert len(asked_for()) > 100
    assert set(OPERATORS) <= asked_for()


@pytest.mark.parametrize("name", sorted(asked_for() - set(OPERATORS)))
def test_every_other_operator_can_be_imported_and_says_what_it_needs(ext: Any, name: str) -> None:
    operator = getattr(ext, name)
    with pytest.raises(MissingOperatorError) as raised:
        operator(torch.zeros(1), whatever=1)
    assert str(raised.value) == (
        f"mmcv's operator {name} needs a compiled mmcv, which is not installed here: in the place of mmcv-lite put mmcv>=2.1,<2.2, built for this torch"
    )
    assert isinstance(raised.value, MaeBenchError)
    assert isinstance(raised.value, RuntimeError)


def test_the_module_has_a_proper_place_among_modules(ext: Any) -> None:
    assert ext.__spec__.name == "mmcv._ext"
    assert not hasattr(ext, "__path__")


def test_the_engines_are_imported_whole_and_report_their_environment() -> None:
    ready("mmdet", "mmseg")
    detection = importlib.import_module("mmdet.registry").MODELS
    segmentation = importlib.import_module("mmseg.registry").MODELS
    detectors = ("MaskRCNN", "CascadeRCNN", "RPNHead", "CascadeRoIHead", "SingleRoIExtractor", "FCNMaskHead")
    assert [name for name in detectors if detection.get(name) is None] == []
    assert [
        name for name in ("EncoderDecoder", "UPerHead", "FCNHead") if segmentation.get(name) is None
    ] == []
    assert importlib.import_module("mmdet.utils").collect_env()["MMDetection"].startswith("3.3")


def test_versions_are_answered(ops: Any) -> None:
    assert ops.get_compiling_cuda_version() == (torch.version.cuda or "not available")
    assert torchvision.__version__ in ops.get_compiler_version()


# ---------------------------------------------------------------- suppression

whole_boxes = st.lists(
    st.tuples(*[st.integers(0, 6)] * 4).map(
        lambda n: (min(n[0], n[2]), min(n[1], n[3]), max(n[0], n[2]), max(n[1], n[3]))
    ),
    max_size=12,
)


@given(whole_boxes, st.data(), st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([0, 1]))
def test_nms_is_exact(ops: Any, boxes: list[Any], data: st.DataObject, threshold: float, offset: int) -> None:
    """Also where an overlap equals the threshold, scores are equal and boxes have no area."""
    scores = data.draw(st.lists(st.sampled_from([0.1, 0.4, 0.9]), min_size=len(boxes), max_size=len(boxes)))
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    dets, kept = ops.nms(tensor, torch.tensor(scores), threshold, offset=offset)
    assert kept.tolist() == plain.suppress(boxes, scores, threshold, offset)
    assert torch.equal(dets[:, :4], tensor[kept])


def test_nms_far_from_the_origin(ops: Any) -> None:
    """mmcv tells classes apart by adding a large number to the coordinates."""
    boxes = some_boxes(200, seed=1).round()
    expected = plain.suppress(boxes.int().tolist(), [1 - n / 200 for n in range(200)], 0.4, 1)
    scores = torch.linspace(1, 0, 200)
    _, kept = ops.nms(boxes.float() + 2.0**23 - 64, scores, 0.4, offset=1)
    assert kept.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scores_dtype", [torch.float32, torch.bfloat16])
def test_nms_takes_any_type(ops: Any, dtype: torch.dtype, scores_dtype: torch.dtype) -> None:
    boxes = some_boxes(60, seed=2).round()
    scores = torch.arange(60, 0, -1) / 64
    _, kept = ops.nms(boxes.to(dtype), scores.to(scores_dtype), 0.3)
    assert kept.tolist() == plain.suppress(boxes.int().tolist(), scores.tolist(), 0.3)
    assert 5 < len(kept) < 55


def test_nms_filters_and_takes_arrays(ops: Any) -> None:
    boxes, scores = some_boxes(40, seed=3).float(), torch.rand(40, generator=torch.Generator().manual_seed(3))
    dets, kept = ops.nms(boxes.numpy(), scores.numpy(), 0.5, score_threshold=0.4, max_num=5)
    expected = [i for i in torchvision.ops.nms(boxes, scores, 0.5).tolist() if scores[i] > 0.4][:5]
    assert isinstance(kept, np.ndarray)
    assert kept.tolist() == expected
    assert dets[:, 4].tolist() == scores[expected].tolist()


@pytest.mark.parametrize(("agnostic", "split"), [(False, 10000), (False, 2), (True, 10000)])
def test_batched_nms_keeps_classes_apart(ops: Any, agnostic: bool, split: int) -> None:
    boxes = some_boxes(80, seed=4).round().float()
    scores = torch.randperm(80, generator=torch.Generator().manual_seed(4)) / 80
    classes = torch.arange(80) % 3
    dets, kept = ops.batched_nms(
        boxes, scores, classes, {"type": "nms", "iou_threshold": 0.3, "split_thr": split}, agnostic
    )
    groups = [range(80)] if agnostic else [[i for i in range(80) if i % 3 == c] for c in range(3)]
    expected = [
        group[index]
        for group in groups
        for index in plain.suppress(
            [boxes[i].int().tolist() for i in group], [float(scores[i]) for i in group], 0.3
        )
    ]
    assert kept.tolist() == sorted(expected, key=lambda index: -scores[index])
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_nms(ops: Any, method: str, offset: int) -> None:
    boxes = some_boxes(50, seed=5)
    scores = torch.rand(50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    before = scores.clone()
    dets, kept = ops.soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, offset)
    expected = plain.soft_suppress(boxes.tolist(), scores.tolist(), 0.3, 0.4, 0.05, method, offset)
    assert kept.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(
        dets[:, 4], torch.tensor([score for _, score in expected], dtype=torch.float64)
    )
    assert torch.equal(dets[:, :4], boxes[kept])
    assert 3 < len(kept) < 50
    assert torch.equal(scores, before)


def test_soft_nms_of_boxes_without_area_and_of_none(ops: Any) -> None:
    dets, kept = ops.soft_nms(torch.ones(3, 4), torch.tensor([0.5, 0.2, 0.6]), method="gaussian")
    assert kept.tolist() == [2, 0, 1]
    assert dets[:, 4].tolist() == torch.tensor([0.6, 0.5, 0.2]).tolist()
    dets, kept = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert (dets.shape, kept.tolist()) == ((0, 5), [])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_match(ops: Any, seed: int, threshold: float) -> None:
    boxes = some_boxes(30, seed, size=4).round().int().tolist()
    draw = random.Random(seed)
    scores = [draw.choice([0.1, 0.4, 0.9]) for _ in boxes]
    tensor = torch.tensor([(*box, score) for box, score in zip(boxes, scores, strict=True)]).reshape(-1, 5)
    groups = [group.tolist() for group in ops.nms_match(tensor, threshold)]
    assert groups == plain.match(boxes, scores, threshold)


def test_which_overlap_is_too_much(ops: Any) -> None:
    """mmcv's suppressions differ at the threshold itself: NMS keeps the box, the two others do not."""
    boxes, scores = torch.tensor([[0.0, 0, 1, 2], [0, 0, 1, 1]]), torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert [group.tolist() for group in ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)] == [
        [0, 1]
    ]
    assert ops.soft_nms(boxes, scores, 0.5, method="naive")[1].tolist() == [0]
    assert ops.soft_nms(boxes, scores, 0.5, method="linear")[0][1, 4].item() == pytest.approx(0.4)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["iou", "iof"])
def test_bbox_overlaps(ops: Any, mode: str, offset: int) -> None:
    first, second = some_boxes(7, seed=6), some_boxes(7, seed=7)

    def expected(a: list[float], b: list[float]) -> float:
        shared = plain.shared_area(a, b, offset)
        return plain.overlap(a, b, offset) if mode == "iou" else shared / plain.area(a, offset)

    table = torch.tensor(
        [[expected(a, b) for b in second.tolist()] for a in first.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(ops.bbox_overlaps(first, second, mode, offset=offset), table)
    torch.testing.assert_close(ops.bbox_overlaps(first, second, mode, True, offset), table.diagonal())
    if mode == "iou" and not offset:
        torch.testing.assert_close(torchvision.ops.box_iou(first, second), table)
    assert ops.bbox_overlaps(first[:0], second).shape == (0, 7)
    half = ops.bbox_overlaps(first.bfloat16(), second.bfloat16(), mode, offset=offset)
    assert half.dtype == torch.bfloat16


# ---------------------------------------------------------------- regions

REGIONS = torch.tensor(
    [
        [0, 1.3, 2.1, 9.7, 12.9],
        [1, -6.0, -3.0, 30.0, 40.0],  # over every border
        [1, 4.0, 4.0, 4.0, 4.0],  # nothing
        [0, 7.2, 1.1, 7.9, 1.4],  # less than a pixel
        [1, 50.0, 50.0, 60.0, 70.0],  # outside
        [0, 0.0, 0.0, 24.0, 20.0],  # all
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_roi_align(ops: Any, aligned: bool, ratio: int, scale: float) -> None:
    maps, size = numbers(2, 2, 10, 12), (3, 2)
    pooled = ops.roi_align(maps, REGIONS, size, scale, ratio, "avg", aligned)
    expected = [
        [plain.align(plane, box, size, scale, ratio, aligned) for plane in maps[int(image)].tolist()]
        for image, *box in REGIONS.tolist()
    ]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float64))
    single = ops.RoIAlign(size, scale, ratio, "avg", aligned)(maps.float(), REGIONS.float())
    of_torchvision = torchvision.ops.roi_align(maps.float(), REGIONS.float(), size, scale, ratio, aligned)
    assert torch.equal(single, of_torchvision)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_gradient_of_roi_align(ops: Any, aligned: bool, ratio: int, deterministic: bool) -> None:
    maps = numbers(2, 2, 5, 6).requires_grad_()
    torch.use_deterministic_algorithms(deterministic)
    try:
        assert gradcheck(
            lambda maps: ops.roi_align(maps, REGIONS, (3, 2), 0.25, ratio, "avg", aligned), [maps]
        )
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_gradient_of_roi_align_is_added(ext: Any) -> None:
    grads, into = numbers(6, 2, 3, 2), torch.ones(2, 2, 5, 6, dtype=torch.float64)
    maps = numbers(2, 2, 5, 6).requires_grad_()
    torchvision.ops.roi_align(maps, REGIONS, (3, 2), 0.25, 0, True).backward(grads)
    ext.roi_align_backward(
        grads.transpose(2, 3).contiguous().transpose(2, 3),
        REGIONS,
        grads.new_zeros(0),
        grads.new_zeros(0),
        into,
        aligned_height=3,
        aligned_width=2,
        spatial_scale=0.25,
        sampling_ratio=0,
        pool_mode=1,
        aligned=True,
    )
    assert maps.grad is not None
    torch.testing.assert_close(into, maps.grad + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_computes_in_fp32(ops: Any, dtype: torch.dtype) -> None:
    maps = numbers(2, 2, 10, 12).to(dtype).requires_grad_()
    whole = maps.detach().float().requires_grad_()
    regions = REGIONS.to(dtype)
    pooled = ops.roi_align(maps, regions, (7, 7))
    expected = torchvision.ops.roi_align(whole, regions.float(), (7, 7), 1.0, 0, True)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, expected.to(dtype))
    pooled.sum().backward()
    expected.sum().backward()
    assert maps.grad is not None
    assert whole.grad is not None
    assert torch.equal(maps.grad, whole.grad.to(dtype))


def test_roi_align_of_no_region_under_autocast(ops: Any) -> None:
    maps = numbers(2, 3, 5, 6).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = ops.roi_align(maps, torch.zeros(0, 5), (7, 7))
        again = ops.roi_align(maps, REGIONS.float(), (7, 7), 0.25)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert maps.grad is not None
    assert not maps.grad.any()
    assert torch.equal(again, torchvision.ops.roi_align(maps, REGIONS.float(), (7, 7), 0.25, 0, True))


def test_roi_align_by_maxima_is_refused(ops: Any) -> None:
    with pytest.raises(
        MissingOperatorError, match=r"^mmcv's operator roi_align_forward with pool_mode='max' needs"
    ):
        ops.roi_align(numbers(2, 2, 5, 6), REGIONS, (7, 7), 1.0, 0, "max")


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_focal_loss(ops: Any, reduction: str) -> None:
    logits, target = numbers(6, 4) * 4, torch.tensor([0, 3, 1, 4, 2, 4])  # 4: background
    logits[0, 0], logits[1, 0] = -90, 90
    one_hot = F.one_hot(target, 5)[:, :4].double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = ops.sigmoid_focal_loss(ours, target, 2.0, 0.25, None, reduction)
    expected = torchvision.ops.sigmoid_focal_loss(
        theirs, one_hot, 0.25, 2.0, "none" if reduction == "none" else "sum"
    )
    expected = expected / 6 if reduction == "mean" else expected
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_weights_of_classes_in_the_focal_losses(ops: Any) -> None:
    logits, target, weight = (
        numbers(5, 4),
        torch.tensor([0, 3, 1, 1, 2]),
        torch.tensor([1.0, 2, 3, 4]).double(),
    )
    plain_loss = ops.sigmoid_focal_loss(logits, target, 1.5, 0.4, None, "none")
    weighted = ops.sigmoid_focal_loss(logits, target, 1.5, 0.4, weight, "none")
    torch.testing.assert_close(weighted, plain_loss * weight[target][:, None])
    plain_loss = ops.softmax_focal_loss(logits, target, 1.5, 0.4, None, "none")
    weighted = ops.softmax_focal_loss(logits, target, 1.5, 0.4, weight, "none")
    torch.testing.assert_close(weighted, plain_loss * weight[target])


@pytest.mark.parametrize("name", ["sigmoid_focal_loss", "softmax_focal_loss"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_gradient_of_the_focal_losses(ops: Any, name: str, gamma: float) -> None:
    loss: Callable[..., Tensor] = getattr(ops, name)
    target, weight = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    logits = numbers(5, 4).requires_grad_()
    assert gradcheck(lambda logits: loss(logits, target, gamma, 0.4, weight, "mean"), [logits])


def test_softmax_focal_loss(ops: Any) -> None:
    logits, target = numbers(5, 4).requires_grad_(), torch.tensor([0, 3, -1, 1, 2])
    p = logits.softmax(1)[torch.arange(5), target]
    expected = torch.where(target >= 0, -0.25 * (1 - p) ** 2 * p.log(), 0)
    torch.testing.assert_close(ops.softmax_focal_loss(logits, target, 2.0, 0.25, None, "none"), expected)
    certain = torch.tensor([[60.0, 0.0]], requires_grad=True)  # a probability of 1 in fp32
    ops.softmax_focal_loss(certain, torch.tensor([0]), 0.0, 0.25).backward()
    assert certain.grad is not None
    torch.testing.assert_close(certain.grad, torch.zeros(1, 2))


# ---------------------------------------------------------------- deformable layers


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(ops: Any, masked: bool) -> None:
    """One output pixel after the other, with groups, and another number along each side wherever there are two."""
    maps, weight = numbers(2, 4, 6, 7), numbers(6, 2, 3, 2, seed=1)
    offset, mask, bias = (
        numbers(2, 24, 4, 8, seed=2),
        numbers(2, 12, 4, 8, seed=3).sigmoid(),
        numbers(6, seed=4),
    )
    stride, padding, dilation = (2, 1), (2, 1), (1, 1)
    if masked:
        found = ops.modulated_deform_conv2d(maps, offset, mask, weight, bias, stride, padding, dilation, 2, 2)
    else:
        found = ops.deform_conv2d(maps, offset, weight, stride, padding, dilation, 2, 2)
    assert found.shape == (2, 6, 4, 8)
    for image, channel, row, column in [(0, 0, 0, 0), (1, 2, 3, 7), (0, 3, 2, 4), (1, 5, 1, 1)]:
        expected = float(bias[channel]) if masked else 0.0
        for i in range(2):
            source = channel // 3 * 2 + i
            for ky in range(3):
                for kx in range(2):
                    place = (source // 2 * 3 + ky) * 2 + kx
                    dy, dx = offset[image, 2 * place : 2 * place + 2, row, column].tolist()
                    value = plain.sample(
                        maps[image, source].tolist(), row * 2 - 2 + ky + dy, column - 1 + kx + dx
                    )
                    factor = mask[image, place, row, column] if masked else 1
                    expected += float(weight[channel, i, ky, kx] * value * factor)
        assert float(found[image, channel, row, column]) == pytest.approx(expected, abs=1e-9)


def test_the_gradients_of_deformable_convolution(ops: Any) -> None:
    tensors = numbers(1, 2, 4, 4), numbers(1, 8, 3, 3, seed=5) / 4, numbers(2, 1, 2, 2, seed=6)
    maps, offset, weight = (tensor.requires_grad_() for tensor in tensors)
    mask, bias = numbers(1, 4, 3, 3, seed=7).sigmoid().requires_grad_(), numbers(2, seed=8).requires_grad_()
    assert gradcheck(lambda *t: ops.deform_conv2d(*t, 1, 0, 1, 2), [maps, offset, weight])
    assert gradcheck(
        lambda *t: ops.modulated_deform_conv2d(*t, 1, 0, 1, 2), [maps, offset, mask, weight, bias]
    )
    assert gradcheck(
        lambda *t: ops.modulated_deform_conv2d(*t, None, 1, 0, 1, 2), [maps, offset, mask, weight]
    )


def test_the_gradient_of_a_deformable_weight_is_scaled_and_added(ext: Any) -> None:
    maps, offset, grads = numbers(1, 2, 4, 4), numbers(1, 8, 3, 3, seed=5), numbers(1, 2, 3, 3, seed=6)
    weight, into = numbers(2, 2, 2, 2).requires_grad_(), torch.ones(2, 2, 2, 2, dtype=torch.float64)
    torchvision.ops.deform_conv2d(maps, offset, weight).backward(grads)
    names = ("kW", "kH", "dW", "dH", "padW", "padH", "dilationW", "dilationH", "group", "deformable_group")
    shape = dict(zip(names, (2, 2, 1, 1, 0, 0, 1, 1, 1, 1), strict=True))
    empty = grads.new_zeros(0)
    ext.deform_conv_backward_parameters(
        maps, offset, grads, into, empty, empty, scale=3, im2col_step=1, **shape
    )
    assert weight.grad is not None
    torch.testing.assert_close(into, 1 + 3 * weight.grad)


def test_deformable_attention(ops: Any) -> None:
    """On a CPU mmcv does not call the operator, so it is called here as it would be on a GPU."""
    attend = importlib.import_module(
        "mmcv.ops.multi_scale_deform_attn"
    ).MultiScaleDeformableAttnFunction.apply
    sizes = [(3, 4), (2, 2)]
    value = numbers(2, 16, 2, 3)
    locations = numbers(2, 5, 2, 2, 3, 2, seed=1).mul(0.6).sigmoid() * 1.2 - 0.1
    weights = numbers(2, 5, 2, 2, 3, seed=2).sigmoid()
    rest = (torch.tensor(sizes), torch.tensor([0, 12]))
    found = attend(value, *rest, locations, weights, 64)
    assert found.shape == (2, 5, 6)
    for image, query, head, channel in [(0, 0, 0, 0), (1, 4, 1, 2), (0, 3, 1, 1)]:
        expected = 0.0
        for level, (height, width) in enumerate(sizes):
            keys = value[image, 12 * level : 12 * level + height * width, head, channel]
            for point in range(3):
                x, y = locations[image, query, head, level, point].tolist()
                sampled = plain.sample(
                    keys.reshape(height, width).tolist(), y * height - 0.5, x * width - 0.5
                )
                expected += float(weights[image, query, head, level, point]) * sampled
        assert float(found[image, query, head * 3 + channel]) == pytest.approx(expected, abs=1e-9)
    inputs = [tensor[:1, :2].requires_grad_() for tensor in (locations, weights)]
    assert gradcheck(
        lambda value, *t: attend(value, *rest, *t, 64), [value[:1].clone().requires_grad_(), *inputs]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_deformable_layers_compute_in_fp32(ops: Any, dtype: torch.dtype) -> None:
    maps, weight = numbers(2, 4, 6, 7).to(dtype), numbers(6, 4, 3, 3, seed=1).to(dtype)
    offset = numbers(2, 18, 4, 5, seed=2).to(dtype)
    expected = torchvision.ops.deform_conv2d(maps.float(), offset.float(), weight.float())
    assert torch.equal(ops.deform_conv2d(maps, offset, weight), expected.to(dtype))
