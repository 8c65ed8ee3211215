"""Official checkpoints of hierarchical networks (Swin, SimMIM's Swin, ConvNeXt V2, FCMAE, Hiera and its MAE), loaded
as the networks that wrote them.

The numbers come from running the repositories' own classes on CPU in float64, with the weights of `filled` over all
keys of their state_dict, which are exactly the tables below (buffers kept as they made them):

* microsoft/SimMIM at d3e29bc: models/swin_transformer.SwinTransformer(img_size=64, patch_size=2, embed_dim=8,
  depths=[2] * 4, num_heads=[2] * 4, window_size=4), the third map; models/simmim.SimMIM over
  SwinTransformerForSimMIM of two stages on images of 32 pixels, the encoder's map without a masked patch.
* facebookresearch/ConvNeXt-V2 at 2553895: models/convnextv2.ConvNeXtV2 (DEPTHS, DIMS), the last map, and
  `forward_features`; models/fcmae.FCMAE (the same, decoder_embed_dim=12, on stand-ins for MinkowskiEngine's modules
  with its tensors), whose encoder utils.remap_checkpoint_keys turned into a ConvNeXtV2, the last map.
* facebookresearch/hiera at b12b842: Hiera(input_size=(64, 64), embed_dim=8, num_heads=1, stages=(1, 2, 1, 1)), the
  last map, and the norm of its mean; MaskedAutoencoderHiera (the same, q_pool=2, decoder_embed_dim=12,
  decoder_depth=1, decoder_num_heads=2), whose encoder the former took, the last map.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from mae_bench.backbones import HierarchicalBackbone, load_backbone
from mae_bench.backbones.formats import FORMATS, recognise_hierarchical
from mae_bench.backbones.formats.hierarchical import channels_of
from mae_bench.errors import MaeBenchError
from tests.beit_and_eva import Shapes, affine, check, filled, images, under
from tests.closed_form import numbers

# ---------------------------------------------------------------- tables of keys and shapes


def swin(stages: int, side: int) -> Shapes:
    """Stages of two blocks, 8 wide at first, in windows of 4 x 4; `side`: patches along the image."""
    shapes: Shapes = {**affine("patch_embed.proj", 8, 3, 2, 2), **affine("patch_embed.norm", 8)}
    for stage in range(stages):
        width, windows = 8 * 2**stage, (side // 4 // 2**stage) ** 2
        for name in (f"layers.{stage}.blocks.{block}" for block in range(2)):
            shapes |= {
                **affine(f"{name}.norm1", width),
                **affine(f"{name}.norm2", width),
                **affine(f"{name}.attn.qkv", 3 * width, width),
                **affine(f"{name}.attn.proj", width, width),
                f"{name}.attn.relative_position_bias_table": (49, 2),
                f"{name}.attn.relative_position_index": (16, 16),
                **affine(f"{name}.mlp.fc1", 4 * width, width),
                **affine(f"{name}.mlp.fc2", width, 4 * width),
            }
        if windows > 1:
            shapes |= {f"layers.{stage}.blocks.1.attn_mask": (windows, 16, 16)}
        if stage < stages - 1:
            shapes |= affine(f"layers.{stage}.downsample.norm", 4 * width)
            shapes |= {f"layers.{stage}.downsample.reduction.weight": (2 * width, 4 * width)}
    return {**shapes, **affine("norm", 8 * 2 ** (stages - 1))}


def simmim(encoder: Shapes, width: int) -> Shapes:
    decoder = affine("decoder.0", 48, width, 1, 1)
    return {**under("encoder.", {**encoder, "mask_token": (1, 1, 8)}), **decoder}


DEPTHS, DIMS = (1, 2, 1, 1), (8, 16, 24, 32)


def convnext_block(name: str, width: int) -> Shapes:
    return {
        **affine(f"{name}.dwconv", width, 1, 7, 7),
        **affine(f"{name}.norm", width),
        **affine(f"{name}.pwconv1", 4 * width, width),
        **{f"{name}.grn.{leaf}": (1, 1, 1, 4 * width) for leaf in ("gamma", "beta")},
        **affine(f"{name}.pwconv2", width, 4 * width),
    }


def sparse_block(name: str, width: int) -> Shapes:
    return {
        f"{name}.dwconv.kernel": (49, width),
        f"{name}.dwconv.bias": (1, width),
        **affine(f"{name}.norm.ln", width),
        **affine(f"{name}.pwconv1.linear", 4 * width, width),
        **{f"{name}.grn.{leaf}": (1, 4 * width) for leaf in ("gamma", "beta")},
        **affine(f"{name}.pwconv2.linear", width, 4 * width),
    }


def convnext(block: Callable[[str, int], Shapes], *, sparse: bool) -> Shapes:
    """Stem, three down-samplings and the blocks, with neither norm nor head."""
    shapes: Shapes = {
        **affine("downsample_layers.0.0", DIMS[0], 3, 4, 4),
        **affine("downsample_layers.0.1", DIMS[0]),
    }
    for stage, (before, width) in enumerate(pairwise(DIMS), 1):
        name = f"downsample_layers.{stage}"
        norm = f"{name}.0.ln" if sparse else f"{name}.0"
        kernel: Shapes = {f"{name}.1.kernel": (4, before, width), f"{name}.1.bias": (1, width)}
        shapes |= {**affine(norm, before), **(kernel if sparse else affine(f"{name}.1", width, before, 2, 2))}
    for stage, (depth, width) in enumerate(zip(DEPTHS, DIMS, strict=True)):
        for index in range(depth):
            shapes |= block(f"stages.{stage}.{index}", width)
    return shapes


CONVNEXT: Shapes = {
    **convnext(convnext_block, sparse=False), **affine("norm", 32), **affine("head", 5, 32),
}  # fmt: skip
FCMAE: Shapes = {
    "mask_token": (1, 12, 1, 1),
    **under("encoder.", convnext(sparse_block, sparse=True)),
    **affine("proj", 12, 32, 1, 1),
    **convnext_block("decoder.0", 12),
    **affine("pred", 3072, 12, 1, 1),
}


def hiera_block(name: str, width: int, out: int) -> Shapes:
    return {
        **affine(f"{name}.norm1", width),
        **affine(f"{name}.attn.qkv", 3 * out, width),
        **affine(f"{name}.attn.proj", out, out),
        **affine(f"{name}.norm2", out),
        **affine(f"{name}.mlp.fc1", 4 * out, out),
        **affine(f"{name}.mlp.fc2", out, 4 * out),
        **(affine(f"{name}.proj", out, width) if width != out else {}),
    }


_HIERA: Shapes = {"pos_embed": (1, 256, 8), **affine("patch_embed.proj", 8, 3, 7, 7)}
for _index, _widths in enumerate(((8, 8), (8, 16), (16, 16), (16, 32), (32, 64))):
    _HIERA |= hiera_block(f"blocks.{_index}", *_widths)
HIERA: Shapes = {**_HIERA, **affine("norm", 64), **affine("head.projection", 5, 64)}
MAE_HIERA: Shapes = {
    **_HIERA,
    **affine("encoder_norm", 64),
    "mask_token": (1, 1, 12),
    "decoder_pos_embed": (1, 16, 12),
    **affine("multi_scale_fusion_heads.0", 64, 8, 4, 4),
    **affine("multi_scale_fusion_heads.1", 64, 16, 2, 2),
    **affine("decoder_embed", 12, 64),
    **hiera_block("decoder_blocks.0", 12, 12),
    **affine("decoder_norm", 12),
    **affine("decoder_pred", 768, 12),
}

# ---------------------------------------------------------------- from the file to the maps

SWIN_ARCH, CONVNEXT_ARCH, HIERA_ARCH = "swin_base_patch4_window7_224", "convnextv2_base", "hiera_base_224"
TINY: dict[str, dict[str, Any]] = {
    SWIN_ARCH: {
        "img_size": 64, "patch_size": 2, "embed_dim": 8, "depths": (2,) * 4, "num_heads": (2,) * 4, "window_size": 4,
    },
    CONVNEXT_ARCH: {"depths": DEPTHS, "dims": DIMS},
    HIERA_ARCH: {"img_size": (64, 64), "embed_dim": 8, "num_heads": 1, "stages": (1, 2, 1, 1)},
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm makes these architectures at the size of the tables."""
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda arch, **kwargs: create(arch, **kwargs, **TINY.get(arch, {}))
    )


@dataclass(frozen=True)
class Case:
    """A checkpoint as published, what it is, and what its network gives: four first numbers, three last, sum."""

    format: str
    arch: str
    shapes: Shapes
    dropped: set[str]
    images: Tensor
    map: int
    numbers: tuple[list[float], list[float], float]
    norm: str = ""
    pooled: tuple[list[float], list[float], float] | None = None
    payload: str = "model"


PICTURES = numbers((2, 3, 64, 64), 1000)
COMPUTED = {"index of relative positions, computed", "mask of shifted windows, computed"}
CASES = {
    "swin": Case(
        "Swin (official names)",
        SWIN_ARCH,
        {**swin(4, 32), **affine("head", 5, 64)},
        {"head", *COMPUTED},
        2 * numbers((2, 3, 64, 64), 999),
        2,
        ([-1.3382769, -1.5058908, -1.596728, -1.0134734], [-0.4412771, 0.5781236, -0.7980893], 5886.70392),
        "norm",
    ),
    "convnextv2": Case(
        "ConvNeXt (official names)",
        CONVNEXT_ARCH,
        CONVNEXT,
        {"head"},
        PICTURES,
        3,
        ([0.746794599, 0.426393022, -0.084794089, 0.040558992], [0.148014776, 0.315691633, 0.71264749], 140.216332),
        "norm",
        ([0.382134842, 1.280389606, -1.949678047, 0.987016833], [0.524223179, -0.85829412, 0.432110209], 55.468741),
    ),
    "fcmae": Case(
        "FCMAE pretraining checkpoint (ConvNeXt V2)",
        CONVNEXT_ARCH,
        FCMAE,
        {"decoder"},
        PICTURES,
        3,
        ([-1.536937062, -0.69955051, -1.268084506, -0.777479308], [2.736747488, 2.360761065, 2.725888155], 200.19104),
    ),
    "hiera": Case(
        "hierarchical classifier (timm)",  # whose names these are, but for the head's
        HIERA_ARCH,
        HIERA,
        {"head"},
        PICTURES,
        3,
        ([2.498890965, 2.807109635, 3.706050056, 2.75602515], [-0.876420842, -1.595829695, -0.034671233], 654.056328),
        "norm",
        ([1.937497813, 0.045735398, 0.623535181, 0.378580529], [-1.066860054, 0.699925502, -0.696200749], 106.575296),
        "model_state",
    ),
    "mae hiera": Case(
        "MAE pretraining checkpoint (Hiera)",
        HIERA_ARCH,
        MAE_HIERA,
        {"decoder", "fusion of the maps for the decoder"},
        PICTURES,
        3,
        ([2.012869137, 0.360653714, 0.479270119, 0.950163589], [-0.397278799, -0.704528616, -1.177196423], 626.666128),
        "encoder_norm",
        payload="model_state",
    ),
}  # fmt: skip
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def same(tensor: Tensor, wanted: tuple[list[float], list[float], float]) -> None:
    first, last, total = wanted
    flat = tensor.flatten()
    torch.testing.assert_close(flat[:4], torch.tensor(first).to(flat), rtol=0, atol=5e-6)
    torch.testing.assert_close(flat[-3:], torch.tensor(last).to(flat), rtol=0, atol=5e-6)
    assert float(flat.abs().sum()) == pytest.approx(total, rel=1e-6)


def save(case: Case, path: Path) -> dict[str, Tensor]:
    state = {name: tensor.float() for name, tensor in filled(case.shapes).items()}
    torch.save({case.payload: state, "epoch": 3}, path)
    return state


@every
@torch.no_grad()
def test_a_published_file_gives_the_maps_of_its_network(case: Case, tmp_path: Path) -> None:
    state = save(case, tmp_path / "weights")
    allow = "" if case.norm else "&allow=final_norm.weight,final_norm.bias"
    backbone = load_backbone(f"file:{tmp_path}/weights?arch={case.arch}{allow}")
    assert isinstance(backbone, HierarchicalBackbone)
    assert (backbone.report.format, backbone.channels) == (case.format, 3)
    assert {entry.note for entry in backbone.report.dropped} == case.dropped
    backbone.eval().double()
    maps = backbone.pyramid(case.images)
    same(maps[case.map], case.numbers)
    if case.norm:
        norm = backbone.net.get_submodule("final_norm")
        assert torch.equal(norm.weight, state[f"{case.norm}.weight"].double())
        if case.pooled is not None:
            same(
                F.layer_norm(maps[-1].mean((2, 3)), (backbone.width,), norm.weight, norm.bias, norm.eps),
                case.pooled,
            )


@every
def test_every_tensor_is_accounted_for_under_its_name_in_the_file(case: Case, tmp_path: Path) -> None:
    state = save(case, tmp_path / "weights")
    allow = "" if case.norm else "&allow=final_norm.weight,final_norm.bias"
    report = load_backbone(f"file:{tmp_path}/weights?arch={case.arch}{allow}").report
    named = [entry.name for entry in (*report.matched, *report.dropped)]
    named += [entry.note.removeprefix("from ") for entry in report.converted]
    assert sorted(named) == sorted(state)
    assert report.unexpected == report.missing == []


@every
def test_what_is_not_known_is_found_unexpected(case: Case, tmp_path: Path) -> None:
    state = filled(case.shapes)
    block = next(name for name in state if ".0.norm1." in name or ".0.norm." in name).rpartition(".0.")[0]
    strange = {f"{block}.0.adapter.weight": torch.ones(3), "adapter.weight": torch.ones(3)}
    torch.save({case.payload: {**state, **strange}}, tmp_path / "weights")
    with pytest.raises(MaeBenchError, match=r"2 unexpected \(.*adapter\.weight, .*adapter\.weight\)"):
        load_backbone(f"file:{tmp_path}/weights?arch={case.arch}&allow=final_norm.weight,final_norm.bias")


@every
def test_none_passes_for_a_plain_vit(case: Case) -> None:
    state = filled(case.shapes)
    assert [one.name for one in FORMATS if one.matches(state)] == []


def test_an_encoder_that_lacks_its_norm_says_so(tmp_path: Path) -> None:
    save(CASES["fcmae"], tmp_path / "weights")
    with pytest.raises(MaeBenchError, match=r"2 missing \(final_norm\.weight, final_norm\.bias\)"):
        load_backbone(f"file:{tmp_path}/weights?arch={CONVNEXT_ARCH}")


def test_two_tensors_of_one_name_are_refused() -> None:
    state = filled({**simmim(swin(4, 32), 64), "norm.weight": (64,)})
    with pytest.raises(
        MaeBenchError, match=r"two tensors for norm\.weight: encoder\.norm\.weight and norm\.weight"
    ):
        recognise_hierarchical(state, {})


def test_channels_are_told_whatever_the_order_of_the_tensors() -> None:
    for case, first in (
        ("fcmae", "encoder.downsample_layers.0.0.weight"),
        ("mae hiera", "patch_embed.proj.weight"),
    ):
        state = {name: torch.zeros(shape, device="meta") for name, shape in CASES[case].shapes.items()}
        state[first] = torch.zeros(state[first].shape[0], 5, 7, 7, device="meta")
        for order in (sorted(state), sorted(state, reverse=True)):
            assert channels_of({name: state[name] for name in order}, CASES[case].arch) == 5
    assert channels_of({"unknown.weight": torch.zeros(3, 7, 2, 2)}, "resnet18") == 3


# ---------------------------------------------------------------- SimMIM


def test_simmims_swin_is_that_of_the_classifier(tmp_path: Path) -> None:
    """One set of values in the names of both files makes one network; SimMIM's images have no masked patch here."""
    encoder = filled(swin(4, 32))
    torch.save({"model": {**encoder, **filled(affine("head", 5, 64))}}, tmp_path / "classifier")
    wrapped = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    rest = {name: shape for name, shape in simmim(swin(4, 32), 64).items() if name not in wrapped}
    torch.save({"model": {**wrapped, **filled(rest)}, "max_accuracy": 0.0}, tmp_path / "simmim")
    loaded = [load_backbone(f"file:{tmp_path}/{name}?arch={SWIN_ARCH}") for name in ("classifier", "simmim")]
    assert loaded[0].digest == loaded[1].digest
    assert loaded[1].report.format == "SimMIM pretraining checkpoint (Swin)"
    assert {entry.note for entry in loaded[1].report.dropped} == {"decoder", "mask token", *COMPUTED}
    notes = {entry.name: entry.note for entry in loaded[1].report.converted}
    assert notes["layers.1.downsample.norm.bias"].startswith("from encoder.layers.0.downsample.norm.bias")
    assert notes["final_norm.weight"].startswith("from encoder.norm.weight")


def test_simmims_swin_gives_the_numbers_of_the_reference() -> None:
    model: Any = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=32, patch_size=2, embed_dim=8, depths=[2, 2],
        num_heads=[2, 2], window_size=4,
    )  # fmt: skip
    found = recognise_hierarchical(filled(simmim(swin(2, 16), 16)), model.state_dict())
    model.double().eval().load_state_dict(found.encoder, strict=True)
    check(
        model.forward_features(images()).flatten(1, 2).detach(),
        [0.9133015, 0.6018476, 0.630677, -0.19577, 1.8762506, 0.0898853],
        [-0.3060123, -1.0749631, 1.2406573],
        1639.65152,
    )


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_the_second_swin_has_other_parts(prefix: str) -> None:
    """Its own tensors are called in timm as by its authors, but for where down-sampling stands."""
    with torch.device("meta"):
        own = timm.create_model("swinv2_tiny_window8_256", num_classes=0).state_dict()
    buffers = ("relative_position_index", "relative_coords_table")
    official = {
        prefix + re.sub(r"layers\.(\d)\.down", lambda match: f"layers.{int(match[1]) - 1}.down", name): tensor
        for name, tensor in own.items()
    } | {f"{prefix}layers.0.blocks.0.attn.{name}": torch.zeros(1) for name in buffers}
    found = recognise_hierarchical(official, own)
    assert {name: tensor.shape for name, tensor in found.encoder.items()} == {
        name: tensor.shape for name, tensor in own.items()
    }
    assert len(found.dropped) == 2
