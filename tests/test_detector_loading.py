"""Whole detectors from files: detectron2's ViTDet and our own, everything accounted for or one clear error."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from downstream.detection.detector import Detector, build
from downstream.detection.formats import POSITIONS, from_detectron2, to_detectron2
from downstream.detection.loading import load_detector
from downstream.detection.settings import DetectorSettings
from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError
from tests.closed_form import fill

CLASSES = ("apple", "hazelnut", "pear")
Shape = tuple[int, ...]


def detector(
    classes: int = 3, side: int = 64, backbone: str = "embed_dim=16&depth=4&num_heads=2", **model: Any
) -> Detector:
    settings: dict[str, Any] = {
        "attention": {"window": 2, "global_blocks": [1, 3], "window_padding": "attended"},
        "pyramid": {"channels": 8},
        "heads": {"box_width": 12},
    }
    for part, values in model.items():
        settings[part] = settings.get(part, {}) | values
    config = DetectorSettings.model_validate(settings)
    return build(load_backbone(f"random:vit_tiny_patch16_224?{backbone}"), classes, config, (side, side))


def vitdet(
    *, depth: int = 4, width: int = 16, side: int = 4, stages: int = 0, classes: int = 3
) -> dict[str, Shape]:
    """Names and shapes of detectron2's ViTDet of tiny size; with `stages` box heads its Cascade.

    They equal state_dict() of GeneralizedRCNN over SimpleFeaturePyramid(ViT) with StandardROIHeads or
    CascadeROIHeads, built as configs/common/models/mask_rcnn_vitdet.py and
    projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_b_100ep.py say but for these sizes (two heads, pyramid
    and convolutions of 8 channels, fc of 12, windows of 2, blocks 1 and 3 global, images of 64 pixels), in
    facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833.
    """
    shapes: dict[str, Shape] = {}

    def layer(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": (shape[0],)})

    def enlarging(name: str, inside: int, outside: int) -> None:
        shapes.update({f"{name}.weight": (inside, outside, 2, 2), f"{name}.bias": (outside,)})

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    def conv(name: str, inside: int, size: int) -> None:
        shapes[f"{name}.weight"] = (8, inside, size, size)
        norm(f"{name}.norm", 8)

    shapes["backbone.net.pos_embed"] = (1, 197, width)
    layer("backbone.net.patch_embed.proj", width, 3, 16, 16)
    for block in range(depth):
        own = f"backbone.net.blocks.{block}"
        norm(f"{own}.norm1", width)
        norm(f"{own}.norm2", width)
        length = 2 * (side if block in (1, 3) else 2) - 1
        shapes[f"{own}.attn.rel_pos_h"] = shapes[f"{own}.attn.rel_pos_w"] = (length, width // 2)
        layer(f"{own}.attn.qkv", 3 * width, width)
        layer(f"{own}.attn.proj", width, width)
        layer(f"{own}.mlp.fc1", 4 * width, width)
        layer(f"{own}.mlp.fc2", width, 4 * width)
    pyramid = "backbone.simfp"
    enlarging(f"{pyramid}_2.0", width, width // 2)
    norm(f"{pyramid}_2.1", width // 2)
    enlarging(f"{pyramid}_2.3", width // 2, width // 4)
    enlarging(f"{pyramid}_3.0", width, width // 2)
    for level, place, inside in ((2, 4, width // 4), (3, 1, width // 2), (4, 0, width), (5, 1, width)):
        conv(f"{pyramid}_{level}.{place}", inside, 1)
        conv(f"{pyramid}_{level}.{place + 1}", 8, 3)
    rpn = "proposal_generator.rpn_head"
    layer(f"{rpn}.conv.conv0", 8, 8, 3, 3)
    layer(f"{rpn}.conv.conv1", 8, 8, 3, 3)
    layer(f"{rpn}.objectness_logits", 3, 8, 1, 1)
    layer(f"{rpn}.anchor_deltas", 12, 8, 1, 1)
    for stage in [f".{stage}" for stage in range(stages)] or [""]:
        for index in range(1, 5):
            conv(f"roi_heads.box_head{stage}.conv{index}", 8, 3)
        layer(f"roi_heads.box_head{stage}.fc1", 12, 8 * 7 * 7)
        layer(f"roi_heads.box_predictor{stage}.cls_score", classes + 1, 12)
        layer(f"roi_heads.box_predictor{stage}.bbox_pred", 4 if stages else 4 * classes, 12)
    for index in range(1, 5):
        conv(f"roi_heads.mask_head.mask_fcn{index}", 8, 3)
    enlarging("roi_heads.mask_head.deconv", 8, 8)
    layer("roi_heads.mask_head.predictor", classes, 8, 1, 1)
    return shapes


def checkpoint(**sizes: int) -> dict[str, Tensor]:
    state = {name: torch.zeros(shape) for name, shape in vitdet(**sizes).items()}
    return {name: tensor.float() for name, tensor in fill(state).items()}


def as_pth(path: Path, state: Mapping[str, Tensor]) -> Path:
    torch.save({"model": dict(state), "iteration": 184374}, path)
    return path


def as_pkl(path: Path, state: Mapping[str, Tensor]) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    return path


def as_safetensors(path: Path, state: Mapping[str, Tensor]) -> Path:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


# ---------------------------------------------------------------- detectron2's


@pytest.mark.parametrize("stages", [0, 3])
def test_names_and_shapes_are_detectron2s(stages: int) -> None:
    ours = detector(heads={"cascade": stages > 0}).state_dict()
    theirs = to_detectron2(ours)
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == vitdet(stages=stages)
    assert {from_detectron2(name) for name in vitdet(stages=stages)} == set(ours)


@pytest.mark.parametrize("stages", [0, 3])
@pytest.mark.parametrize("written", [as_pth, as_pkl, as_safetensors])
def test_every_tensor_of_a_checkpoint_arrives(
    tmp_path: Path, stages: int, written: Callable[[Path, Mapping[str, Tensor]], Path]
) -> None:
    state = checkpoint(stages=stages)
    model = detector(heads={"cascade": stages > 0})
    report = load_detector(model, written(tmp_path / "model_final.x", state), classes=CLASSES)
    back = to_detectron2(model.state_dict())
    state["backbone.net.pos_embed"][:, 0] = 0  # the class token's, which detectron2 never reads
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor), name
    assert report.coverage == 100
    kinds = (report.matched, report.resized, report.missing, report.unexpected, report.dropped)
    assert [len(kind) for kind in kinds] == [0, 0, 0, 0, 0]
    assert len(report.converted) == len(state)
    notes = {entry.name: entry.note for entry in report.converted}
    assert notes[POSITIONS] == (
        "from backbone.net.pos_embed, without the entry of the class token, which is never read"
    )
    assert report.format == f"detectron2's ViTDet {'Cascade ' if stages else ''}Mask R-CNN"
    assert f"{len(state)} converted" in report.summary()


def test_the_round_trip_through_detectron2s_format_is_the_identity(tmp_path: Path) -> None:
    one, other = detector(), detector()
    one.load_state_dict({name: tensor.float() for name, tensor in fill(one.state_dict()).items()})
    load_detector(other, as_pth(tmp_path / "x.pth", to_detectron2(one.state_dict())), classes=CLASSES)
    for name, tensor in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("convs", [1, 3])
def test_the_proposal_head_has_as_many_convolutions_as_there_are(convs: int) -> None:
    state = detector(proposals={"convs": convs}).state_dict()
    head = "proposal_generator.rpn_head.conv"
    names = [name for name in to_detectron2(state) if name.startswith(f"{head}.") and name.endswith("weight")]
    # With one convolution detectron2's head does not number it.
    assert names == ([f"{head}.weight"] if convs == 1 else [f"{head}.conv{i}.weight" for i in range(convs)])
    assert {from_detectron2(name) for name in to_detectron2(state)} == set(state)


def test_classes_follow_each_other_as_in_detectron2(tmp_path: Path) -> None:
    """detectron2 has the background last, our detections count classes from 1; the order is the same."""
    state, model = checkpoint(), detector()
    load_detector(model, as_pth(tmp_path / "x.pth", state), classes=CLASSES)
    x = torch.ones(1, 12)
    logits, _ = model.roi_heads.box_predictor(x)
    theirs = (
        x @ state["roi_heads.box_predictor.cls_score.weight"].T
        + state["roi_heads.box_predictor.cls_score.bias"]
    )
    assert torch.allclose(logits, theirs[:, [3, 0, 1, 2]])


def test_what_a_checkpoint_holds_besides_is_dropped_or_noted(tmp_path: Path) -> None:
    state = checkpoint()
    extra = {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    report = load_detector(detector(), as_pth(tmp_path / "x.pth", {**state, **extra}), classes=CLASSES)
    assert {entry.name for entry in report.dropped} == set(extra)
    assert any("iteration" in note for note in report.notes)
    assert any("in order of their ids" in note for note in report.notes)
    extra["pixel_mean"] = extra["pixel_mean"].flip(0)
    with pytest.raises(MaeBenchError, match=r"pixel_mean / 255 is \[0\.406, 0\.456, 0\.485\]"):
        load_detector(detector(), as_pth(tmp_path / "x.pth", {**state, **extra}), classes=CLASSES)


def test_relative_positions_of_another_canvas_are_interpolated_and_it_is_said(tmp_path: Path) -> None:
    state = checkpoint()
    state["backbone.net.blocks.1.attn.rel_pos_h"] = torch.arange(7.0)[:, None].expand(7, 8).clone()
    model = detector(side=128)
    report = load_detector(model, as_pth(tmp_path / "x.pth", state), classes=CLASSES)
    assert [entry.name.split("vit.")[1] for entry in report.resized] == [
        f"blocks.{block}.attn.rel_pos_{axis}" for block in (1, 3) for axis in "hw"
    ]
    assert report.resized[0].note == "7 -> 15 distances, from backbone.net.blocks.1.attn.rel_pos_h"
    table = model.state_dict()["body.backbone.vit.blocks.1.attn.rel_pos_h"][:, 0]
    # Linear between the centres of 7 bins: the middle stays, the ends are clamped.
    assert table[7] == pytest.approx(3)
    assert table[6] - table[5] == pytest.approx(7 / 15)
    assert (float(table[0]), float(table[-1])) == pytest.approx((0, 6))
    assert any("interpolated" in note for note in report.notes)


def test_half_precision_is_converted_and_said(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in checkpoint().items()}
    model = detector()
    report = load_detector(model, as_pth(tmp_path / "x.pth", state), classes=CLASSES)
    assert all(entry.note.endswith("float16 -> float32") for entry in report.converted)
    assert next(model.parameters()).dtype == torch.float32


def test_hidden_padding_is_warned_about_only_where_there_is_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = as_pth(tmp_path / "x.pth", checkpoint())
    load_detector(
        detector(attention={"window_padding": "masked"}), path, classes=CLASSES
    )  # 4 = 2 * 2 patches
    assert "window_padding" not in "".join(capsys.readouterr())
    load_detector(detector(side=96, attention={"window": 4}), path, classes=CLASSES)
    assert "window_padding" not in "".join(capsys.readouterr())
    hidden = detector(side=96, attention={"window": 4, "window_padding": "masked"})
    report = load_detector(hidden, path, classes=CLASSES)
    assert "set model.attention.window_padding=attended" in "".join(capsys.readouterr()).replace("\n", " ")
    assert any("window_padding=attended" in note for note in report.notes)


# ---------------------------------------------------------------- ours


@pytest.mark.parametrize(
    "model", [{}, {"heads": {"cascade": True}}, {"pyramid": {"kind": "fpn", "norm": "batch"}}]
)
def test_our_own_weights_match_every_one(tmp_path: Path, model: dict[str, Any]) -> None:
    one, other = detector(**model), detector(**model)
    torch.nn.init.normal_(one.rpn.head.objectness.weight)
    report = load_detector(
        other, as_safetensors(tmp_path / "model.safetensors", one.state_dict()), classes=CLASSES
    )
    assert len(report.matched) == len(one.state_dict())
    assert report.digest_before == report.digest_after
    assert torch.equal(other.rpn.head.objectness.weight, one.rpn.head.objectness.weight)
    assert report.format == "detector of a run of ours"
    report.save(tmp_path / "detector_report.json")
    assert json.loads((tmp_path / "detector_report.json").read_text())["coverage"] == 100


def test_a_detector_with_windows_larger_than_its_canvas_loads_again(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attention": {"window": 14}}
    path = as_safetensors(tmp_path / "model.safetensors", detector(**settings).state_dict())
    assert load_detector(detector(**settings), path, classes=CLASSES).coverage == 100


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": {"cascade": True}}, r"made with model\.heads\.cascade=false \(here true\)$"),
        (
            {"attention": {"relative_positions": False}},
            r"made with model\.attention\.relative_positions=true \(here false\)$",
        ),
        (
            {"heads": {"box_convs": 2, "mask_convs": 3}, "proposals": {"convs": 1}},
            r"model\.proposals\.convs=2 \(here 1\), model\.heads\.box_convs=4 \(here 2\), "
            r"model\.heads\.mask_convs=4 \(here 3\)$",
        ),
        ({"heads": {"box_width": 20}}, r"made with model\.heads\.box_width=12 \(here 20\)$"),
        ({"pyramid": {"channels": 16}}, r"model\.pyramid\.channels=8 \(here 16\)"),
        ({"pyramid": {"kind": "fpn"}}, r"model\.pyramid\.kind=simple \(here fpn\)"),
        ({"pyramid": {"norm": "batch"}}, r"made with model\.pyramid\.norm=layer \(here batch\)$"),
        ({"attention": {"prefix_tokens": "keep"}}, r"model\.attention\.prefix_tokens=drop \(here keep\)$"),
        ({"attention": {"global_blocks": [0, 2, 3]}}, r"global_blocks=\[1, 3\] \(here \[0, 2, 3\]\)$"),
        (
            {"backbone": "embed_dim=32&depth=4&num_heads=2"},
            r"its backbone is 16 wide and 4 deep with 16x16 patches of 3 channels, vit_tiny_patch16_224 is 32 wide",
        ),
        (
            {"backbone": "embed_dim=16&depth=5&num_heads=2"},
            r"4 deep .* is 16 wide and 5 deep .* with --backbone$",
        ),
        ({"backbone": "embed_dim=16&depth=4&num_heads=4"}, r"attn\.rel_pos_h is \(3, 8\), not \(3, 4\)"),
        (
            {"backbone": "embed_dim=16&depth=4&num_heads=2&init_values=0.1"},
            r"8 missing \(body\.backbone\.vit\.blocks\.0\.ls1\.gamma \(16,\)",
        ),
        (
            {"backbone": "embed_dim=16&depth=4&num_heads=2&img_size=448"},
            r"position table is for 196 patches and a class token, that of .* as given for 784; give .*img_size",
        ),
        (
            {"proposals": {"ratios": [1.0]}},
            r"4 of another shape .*rpn\.head\.deltas\.weight is \(12, 8, 1, 1\), not \(4, 8, 1, 1\)",
        ),
    ],
)
def test_what_was_another_is_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    model = detector(**arguments)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MaeBenchError, match=message) as caught:
        load_detector(model, as_pth(tmp_path / "vitdet.pth", checkpoint()), classes=CLASSES)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "vitdet.pth") in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_heads_of_other_classes_are_named_with_the_data(tmp_path: Path) -> None:
    path = as_pth(tmp_path / "coco.pth", checkpoint(classes=80))
    message = r"heads of 80 classes do not fit the 2 classes of the data \(apple, hazelnut\); use data"
    with pytest.raises(MaeBenchError, match=message):
        load_detector(detector(classes=2), path, classes=CLASSES[:2])


def test_missing_and_unexpected_tensors_are_named_with_their_shapes(tmp_path: Path) -> None:
    state = checkpoint()
    del state["backbone.net.blocks.2.norm1.weight"]
    state["roi_heads.mask_head.mask_fcn4.weight"] = torch.zeros(8, 8, 1, 1)
    state["backbone.net.norm.weight"] = torch.zeros(16)
    state["teacher.centre"] = torch.zeros(1, 5)
    with pytest.raises(MaeBenchError) as caught:
        load_detector(detector(), as_pth(tmp_path / "x.pth", state), classes=CLASSES)
    for part in (
        "1 missing (body.backbone.vit.blocks.2.norm1.weight (16,))",
        "2 unexpected (backbone.net.norm.weight (16,), teacher.centre (1, 5))",
        "1 of another shape (roi_heads.mask_head.conv3.conv.weight is (8, 8, 1, 1), not (8, 8, 3, 3))",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((16,), float("nan")), "norm1.weight holds values that are not finite"),
        (torch.ones(16).long(), "of whole numbers"),
    ],
)
def test_values_that_are_no_weights(tmp_path: Path, value: Tensor, message: str) -> None:
    state = {**checkpoint(), "backbone.net.blocks.0.norm1.weight": value}
    with pytest.raises(MaeBenchError, match=message):
        load_detector(detector(), as_pth(tmp_path / "x.pth", state), classes=CLASSES)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"backbone.bottom_up.res2.0.conv1.weight": 1, "roi_heads.box_head.fc1.weight": 1},
            "not of ViTDet with a plain",
        ),
        (
            {"patch_embed.proj.weight": 1, "blocks.0.norm1.weight": 1},
            r"a backbone without heads; give it with --backbone",
        ),
        ({"a": 1, "b": 1}, "its 2 tensors are a, b$"),
    ],
)
def test_files_that_hold_no_detector(tmp_path: Path, state: dict[str, int], message: str) -> None:
    path = as_pth(tmp_path / "x.pth", {name: torch.ones(size) for name, size in state.items()})
    with pytest.raises(MaeBenchError, match=message):
        load_detector(detector(), path, classes=CLASSES)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    whole = pickle.dumps({"model": {"backbone.net.pos_embed": np.zeros((1, 197, 16), np.float32)}})
    for content, message in (
        (b"<!DOCTYPE html><html>moved</html>", "is a web page saved under a checkpoint's name"),
        (whole[:-500], "damaged, truncated or something else"),
        (pickle.dumps({"model": {"w": print}}), r"holds more than weights \(builtins\.print\)"),
    ):
        path.write_bytes(content)
        with pytest.raises(MaeBenchError, match=message):
            load_detector(detector(), path, classes=CLASSES)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"attention": {"prefix_tokens": "keep"}}, "cls_token"),
        ({"pyramid": {"kind": "fpn"}}, "pyramid.rescale.0.first.weight|pyramid.lateral"),
        ({"backbone": "embed_dim=16&depth=4&num_heads=2&init_values=0.1"}, "blocks.0.ls1.gamma"),
    ],
)
def test_what_detectron2_does_not_have_cannot_be_exported(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(MaeBenchError, match=rf"({name}).* has no place in detectron2's ViTDet"):
        to_detectron2(detector(**arguments).state_dict())
