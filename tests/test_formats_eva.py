"""EVA-01, EVA-02, EVA-CLIP and DINOv3, and timm's own `Beit` and `Eva`: read into timm's names.

The numbers come from running the repositories' own classes on CPU in float64, at the size and with the weights
and images of `tests.beit_and_eva` (so filled over all keys of their state_dict; rotary tables, periods and masks
of biases kept as they made them; `xformers` and `apex` replaced by PyTorch's own attention, SwiGLU and LayerNorm):

* baaivision/EVA at 5623d08. EVA-01/eva: VisionTransformerForMaskedImageModeling (predict_feature_dim=6) without a
  masked patch, and VisionTransformer, both mlp_ratio=3. EVA-02/asuka: the same two, mlp_ratio=8/3, xattn and rope,
  with subln and naiveswiglu ("base") or swiglu ("small"); the fine-tuned one with pt_hw_seq_len=2 and intp_freq.
  EVA-CLIP/rei: CustomCLIP, `visual.norm` of what `visual.forward_features` returns with return_all_features; like
  EVA-02's base with pt_hw_seq_len=2 and intp_freq, or like EVA-01.
* facebookresearch/dinov3 at 6876159: DinoVisionTransformer (norm_layer="layernormbf16", n_storage_tokens=2,
  mask_k_bias, pos_embed_rope_dtype="fp32"): class token, storage tokens and patches, normalised. "plus" has
  ffn_layer="swiglu64" and ffn_ratio=6; "7b" ffn_ratio=3, no bias of qkv and untie_global_and_local_cls_norm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from mae_bench.backbones import load_backbone
from mae_bench.backbones.formats import (
    FORMATS,
    Layout,
    beit,
    cae,
    data2vec,
    dinov3,
    eva,
    maskfeat,
    simmim,
    timm_eva,
    timm_vit,
)
from mae_bench.backbones.formats.dinov3 import without_zero_biases
from mae_bench.backbones.formats.suggestion import shapes_alone
from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError
from tests.beit_and_eva import CHECKPOINTS, bare, check, filled, images, pooled
from tests.closed_form import fill

OURS = [
    one for module in (beit, data2vec, simmim, cae, maskfeat, eva, timm_eva, dinov3) for one in module.FORMATS
]

GIANT = ("eva_giant_patch14_224", {"mlp_ratio": 3})
BASE = ("eva02_base_patch14_224", {"mlp_ratio": 8 / 3, "ref_feat_shape": (4, 4)})
BASE_INTERPOLATED = ("eva02_base_patch14_224", {"mlp_ratio": 8 / 3, "ref_feat_shape": (2, 2)})
SMALL = ("eva02_small_patch14_224", {"mlp_ratio": 8 / 3, "ref_feat_shape": (4, 4)})
CLIP = ("eva02_base_patch16_clip_224", {"mlp_ratio": 8 / 3, "ref_feat_shape": (2, 2)})
DINOV3 = ("vit_small_patch16_dinov3_qkvb", {"num_reg_tokens": 2})
DINOV3_PLUS = ("vit_small_plus_patch16_dinov3_qkvb", {"num_reg_tokens": 2})
DINOV3_7B = ("vit_7b_patch16_dinov3", {"num_reg_tokens": 2, "mlp_ratio": 4})


def tokens(model: Any) -> Tensor:
    return model.forward_features(images())


# Name, layout, timm's model, what is compared, the reference's first six and last three numbers and sum.
Case = tuple[
    str, Layout, tuple[str, dict[str, Any]], Callable[[Any], Tensor], list[float], list[float], float
]
EVA01 = (
    [0.6079385, 0.3194223, 2.1188536, 0.0483399, -0.804876, 0.8270445],
    [-1.2267692, -1.3494724, -0.2055876],
    438.15196,
)
EVA01_TUNED = (
    [0.7105647, -1.1352941, 2.5309624, -1.6716505, -0.1597492, 0.3283138],
    [0.0469539, -2.5950885, 0.9123075],
    28.08496,
)
VIT = ("vit_base_patch16_224", {"mlp_ratio": 3})
BEIT = ("beit_base_patch16_224", {"mlp_ratio": 3, "use_rel_pos_bias": False, "use_abs_pos_emb": True, "init_values": 0})  # fmt: skip
DINO = (
    [-0.2311252, -1.357847, 1.2180991, -0.9979864, 0.8823977, 0.176503],
    [-0.6862769, -0.1769424, 1.1689618],
    506.80608,
)
CASES: list[Case] = [
    ("eva-01 pretraining", "eva", GIANT, tokens, *EVA01),
    ("eva-01 pretraining", "vit", VIT, tokens, *EVA01),
    ("eva-01 pretraining", "beit", BEIT, tokens, *EVA01),
    ("eva-01 fine-tuned", "eva", GIANT, pooled, *EVA01_TUNED),
    ("eva-01 fine-tuned", "vit", VIT, pooled, *EVA01_TUNED),
    ("eva-01 fine-tuned", "beit", BEIT, pooled, *EVA01_TUNED),
    (
        "eva-02 base pretraining",
        "eva",
        BASE,
        tokens,
        [-0.0401538, 0.1788274, 2.2997211, 0.1570758, -1.1619744, 1.2957515],
        [2.7836404, -0.954913, -0.9907081],
        439.43999,
    ),
    (
        "eva-02 small pretraining",
        "eva",
        SMALL,
        tokens,
        [-0.7456187, 0.434808, -0.738599, -0.4638576, -2.4978766, -0.3839888],
        [-1.603939, 0.3799821, -1.2793774],
        457.11948,
    ),
    (
        "eva-02 base fine-tuned",
        "eva",
        BASE_INTERPOLATED,
        pooled,
        [2.2808469, -0.5481841, 0.8627471, 0.3671635, 0.3896824, 1.2321448],
        [-1.381061, -1.2579513, -0.6825313],
        26.8588,
    ),
    (
        "eva-02 clip",
        "eva",
        CLIP,
        tokens,
        [1.4316152, -0.3758001, -0.6936093, 0.4872915, 1.0031904, 2.4923894],
        [-1.5305385, -0.8818015, -0.9198235],
        459.27814,
    ),
    (
        "eva-01 clip",
        "eva",
        ("eva_giant_patch14_clip_224", {"mlp_ratio": 3}),
        tokens,
        [0.6885723, 1.8108266, -0.6759248, -0.4753244, 0.1278461, -0.382508],
        [2.095838, 0.5177344, -0.8320416],
        448.61998,
    ),
    ("dinov3", "eva", DINOV3, tokens, *DINO),
    (
        "dinov3 plus",
        "eva",
        DINOV3_PLUS,
        tokens,
        [-0.4116193, -0.4443997, -0.1531754, 0.6121854, -0.5594378, -0.6684366],
        [0.6352504, -1.350519, 0.9531397],
        498.73519,
    ),
    (
        "dinov3 7b",
        "eva",
        DINOV3_7B,
        tokens,
        [-0.0479902, 0.9500709, 0.6482205, -0.9529349, 0.3650544, -1.0268635],
        [-1.7804012, 0.196956, -1.1523853],
        501.23412,
    ),
]


@pytest.mark.parametrize(
    ("name", "layout", "target", "compared", "first", "last", "total"),
    CASES,
    ids=[f"{case[0]}-{case[1]}" for case in CASES],
)
def test_the_model_gives_the_numbers_of_the_reference(
    name: str,
    layout: Layout,
    target: tuple[str, dict[str, Any]],
    compared: Callable[[Any], Tensor],
    first: list[float],
    last: list[float],
    total: float,
) -> None:
    state = filled(CHECKPOINTS[name])
    (one,) = [one for one in FORMATS if one.matches(state)]
    arch, options = target
    model = bare(arch, **options)
    model.load_state_dict(one.read(state, layout).encoder, strict=True)
    check(compared(model), first, last, total)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("eva-01 pretraining", {"mask token": 1, "head": 2}),
        ("eva-01 fine-tuned", {"head": 2}),
        ("eva-02 base pretraining", {"mask token": 1, "head": 2, "rotary positions, computed": 6}),
        ("eva-02 base fine-tuned", {"head": 2, "rotary positions, computed": 6}),
        (
            "eva-02 clip",
            {
                "temperature of the loss": 1,
                "text tower": 17,
                "projection": 2,
                "rotary positions, computed": 6,
            },
        ),
        ("eva-01 clip", {"temperature of the loss": 1, "text tower": 17, "projection": 2}),
        ("dinov3", {"mask token": 1, "periods of the rotary positions, computed": 1}),
        (
            "dinov3 7b",
            {
                "mask token": 1,
                "periods of the rotary positions, computed": 1,
                "norm of local crops, for pretraining alone": 2,
            },
        ),
        ("dinov3 teacher", {"mask token": 1, "periods of the rotary positions, computed": 1, "head": 14}),
    ],
)
def test_what_is_left_behind_has_its_reason(name: str, reasons: dict[str, int]) -> None:
    state = filled(CHECKPOINTS[name])
    (one,) = [one for one in FORMATS if one.matches(state)]
    counted: dict[str, int] = {}
    for entry in one.read(state, one.layouts[0]).dropped:
        counted[entry.note] = counted.get(entry.note, 0) + 1
    assert counted == reasons


def test_what_is_renamed_says_what_the_file_calls_it() -> None:
    state = filled(CHECKPOINTS["eva-02 clip"])
    renamed = eva.FORMATS[2].read(state, "eva").renamed
    block = "visual.blocks.0"
    assert {
        ours: theirs for ours, theirs in renamed.items() if "blocks.0.mlp" in ours or "_proj" in ours
    } == {
        **{f"blocks.0.mlp.norm.{leaf}": f"{block}.mlp.ffn_ln.{leaf}" for leaf in ("weight", "bias")},
        **{f"blocks.0.mlp.fc1_g.{leaf}": f"{block}.mlp.w1.{leaf}" for leaf in ("weight", "bias")},
        **{f"blocks.0.mlp.fc1_x.{leaf}": f"{block}.mlp.w2.{leaf}" for leaf in ("weight", "bias")},
        **{f"blocks.0.mlp.fc2.{leaf}": f"{block}.mlp.w3.{leaf}" for leaf in ("weight", "bias")},
        **{
            f"blocks.{number}.attn.{part}_proj.weight": f"visual.blocks.{number}.attn.{part}_proj.weight"
            for number in (0, 1)
            for part in "qkv"
        },
        **{
            f"blocks.{number}.attn.{part}_proj.bias": f"visual.blocks.{number}.attn.{part}_bias"
            for number in (0, 1)
            for part in "qv"
        },
    }


@pytest.mark.parametrize(("name", "prefix"), [("eva-02 base fine-tuned", ""), ("eva-02 clip", "visual.")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_grid_of_rotary_positions_is_said(name: str, prefix: str, dtype: torch.dtype) -> None:
    """A table for 4 x 4 patches that count as 2 x 2, with the frequencies of heads 8 wide: 1 and 0.01."""
    along = (torch.arange(4) / 2)[:, None] * torch.tensor([1.0, 1.0, 0.01, 0.01])
    angles = torch.cat([along[:, None].expand(4, 4, 4), along[None].expand(4, 4, 4)], -1).reshape(16, 8)
    state = filled(CHECKPOINTS[name])
    state[f"{prefix}rope.freqs_cos"] = angles.cos().to(dtype)
    state[f"{prefix}rope.freqs_sin"] = angles.sin().to(dtype)
    (one,) = [one for one in FORMATS if one.matches(state)]
    assert one.read(state, "eva").notes == [
        "its rotary positions count as on a grid of 2x2 patches; the architecture's ref_feat_shape has to be that"
    ]


# ---------------------------------------------------------------- DINOv3


@pytest.mark.parametrize(
    ("periods", "notes"),
    [
        ([1.0, 10.0], []),  # what the official class makes for heads 8 wide
        (
            [1.0, 100.0],
            [
                "its rotary positions have periods from 1 to 100; timm's DINOv3 architectures have those of base 100"
            ],
        ),
        (
            [0.5, 8.0],
            [
                "its rotary positions have periods from 0.5 to 8; timm's DINOv3 architectures have those of base 100"
            ],
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_periods_than_timm_computes_are_said(
    periods: list[float], notes: list[str], dtype: torch.dtype
) -> None:
    state = {**filled(CHECKPOINTS["dinov3"]), "rope_embed.periods": torch.tensor(periods, dtype=dtype)}
    assert dinov3.FORMATS[0].read(state, "eva").notes == notes


def test_dinov3_biases_go_through_their_mask() -> None:
    state = filled(CHECKPOINTS["dinov3 teacher"])
    found = dinov3.FORMATS[0].read(state, "eva")
    bias = state["backbone.blocks.1.attn.qkv.bias"]
    assert torch.equal(found.encoder["blocks.1.attn.q_bias"], bias[:16])
    assert torch.equal(found.encoder["blocks.1.attn.v_bias"], bias[32:])
    assert found.renamed["blocks.1.attn.v_bias"] == (
        "backbone.blocks.1.attn.qkv.bias + backbone.blocks.1.attn.qkv.bias_mask"
    )
    assert "blocks.1.attn.k_bias" not in found.encoder
    assert found.format == "DINOv3 teacher"


def test_a_bias_of_keys_that_timm_cannot_hold_is_found_unexpected() -> None:
    state = {name: tensor for name, tensor in filled(CHECKPOINTS["dinov3"]).items() if "mask" not in name}
    encoder = dinov3.FORMATS[0].read(state, "eva").encoder
    assert torch.equal(encoder["blocks.0.attn.k_bias"], state["blocks.0.attn.qkv.bias"][16:32])
    meta = {name: tensor.to("meta") for name, tensor in state.items()}
    assert "blocks.0.attn.k_bias" in dinov3.FORMATS[0].read(meta, "eva").encoder


def test_a_mask_that_was_never_set_does_not_pass_for_zeros() -> None:
    """The official class makes masks of NaN, for a checkpoint or the start of training to fill."""
    state = filled(CHECKPOINTS["dinov3"])
    state["blocks.0.attn.qkv.bias_mask"] = torch.full((48,), torch.nan)
    encoder = dinov3.FORMATS[0].read(state, "eva").encoder
    assert bool(torch.isnan(encoder["blocks.0.attn.q_bias"]).all())
    assert "blocks.0.attn.k_bias" in encoder


def test_biases_of_zeros_are_left_out_where_there_is_no_place_for_them() -> None:
    state = filled(CHECKPOINTS["dinov3"])
    own = bare("vit_small_patch16_dinov3", num_reg_tokens=2).state_dict()
    found = dinov3.FORMATS[0].read(state, "eva")
    assert set(without_zero_biases(found, own).encoder) - set(own) == {
        f"blocks.{block}.attn.{part}_bias" for block in range(2) for part in "qv"
    }, "these are not zeros"
    zeros = {name: torch.zeros_like(t) if name.endswith("qkv.bias") else t for name, t in state.items()}
    found = dinov3.FORMATS[0].read(zeros, "eva")
    bare_of = without_zero_biases(found, own)
    assert set(bare_of.encoder) == set(own)
    assert {entry.note for entry in bare_of.dropped} - {entry.note for entry in found.dropped} == {
        "bias of zeros, and the architecture has none"
    }
    with_place = bare("vit_small_patch16_dinov3_qkvb", num_reg_tokens=2).state_dict()
    assert set(without_zero_biases(found, with_place).encoder) == set(with_place)


def test_a_released_file_needs_no_place_for_its_zeros(tmp_path: Path) -> None:
    """The distilled models: their biases of queries and values are zeros, which `_qkvb` alone has a place for."""
    state = filled(CHECKPOINTS["dinov3"])
    zeros = {name: torch.zeros_like(t) if name.endswith("qkv.bias") else t for name, t in state.items()}
    torch.save(state, tmp_path / "biased")
    torch.save(zeros, tmp_path / "zeros")
    options = "img_size=32&patch_size=8&embed_dim=16&depth=2&num_heads=2&num_reg_tokens=2"
    plain, biased = (f"vit_small_patch16_dinov3{end}&{options}" for end in ("", "_qkvb"))
    backbone: Any = load_backbone(f"file:{tmp_path}/zeros?arch={plain}")
    with_place: Any = load_backbone(f"file:{tmp_path}/zeros?arch={biased}")
    dropped = [entry.name for entry in backbone.report.dropped if "bias of zeros" in entry.note]
    assert dropped == [f"blocks.{n}.attn.qkv.bias + blocks.{n}.attn.qkv.bias_mask" for n in (0, 0, 1, 1)]
    pixels = images().float()
    for own, other in zip(backbone.eval().tokens(pixels), with_place.eval().tokens(pixels), strict=True):
        torch.testing.assert_close(own, other)
    with pytest.raises(
        MaeBenchError, match=r"4 unexpected \(blocks\.0\.attn\.q_bias, blocks\.0\.attn\.v_bias"
    ):
        load_backbone(f"file:{tmp_path}/biased?arch={plain}")
    assert load_backbone(f"file:{tmp_path}/biased?arch={biased}").report.coverage == 100


# ---------------------------------------------------------------- timm's own names

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
TIMMS = {
    "beit_base_patch16_224": "beit",
    "beitv2_base_patch16_224": "beit",
    "eva_giant_patch14_224": "eva",
    "eva_giant_patch14_clip_224": "eva",
    "eva02_enormous_patch14_clip_224": "eva",
    "eva02_tiny_patch14_224": "eva",
    "eva02_base_patch14_224": "eva",
    "eva02_base_patch16_clip_224": "eva",
    "vit_small_patch16_dinov3": "eva",
    "vit_small_plus_patch16_dinov3_qkvb": "eva",
    "vit_7b_patch16_dinov3": "eva",
    "vit_medium_patch16_rope_reg1_gap_256": "eva",
    "vit_small_patch16_rope_224": "eva",
    "vit_small_patch16_rope_mixed_ape_224": "eva",
}


@pytest.mark.parametrize("arch", TIMMS)
def test_timms_own_classifiers_fit_its_encoders(arch: str) -> None:
    state = timm.create_model(arch, **TINY).state_dict()
    (one,) = [one for one in FORMATS if one.matches(state)]
    layout: Any = TIMMS[arch]
    assert layout in one.layouts
    found = one.read(state, layout)
    own = bare(arch).state_dict()
    assert set(found.encoder) == set(own)
    assert {entry.name for entry in found.dropped} == {"head.weight", "head.bias"}
    assert one.write is not None
    assert set(one.read(one.write(found.encoder), layout).encoder) == set(own)
    (again,) = [one for one in FORMATS if one.matches(own)]
    assert again is one


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize(
    ("arch", "note"),
    [
        ("vit_pe_core_base_patch16_224", "attention pooling"),
        ("vit_pe_lang_large_patch14_448", "head"),  # with LayerScale and without a final norm
        ("vit_pe_spatial_base_patch16_512", "head"),
        ("vit_small_patch16_rope_ape_224", "head"),
    ],
)
def test_timms_eva_with_names_of_a_plain_vit(arch: str, note: str, classes: int, tmp_path: Path) -> None:
    """A table of positions beside rotary ones that are computed: the architecture decides what it is."""
    torch.manual_seed(0)
    model: Any = timm.create_model(arch, **{**TINY, "num_classes": classes})
    state = fill(model.state_dict())
    torch.save({name: tensor.float() for name, tensor in state.items()}, tmp_path / "weights")
    sizes = "img_size=32&patch_size=8&embed_dim=16&depth=2&num_heads=2"
    backbone: Any = load_backbone(f"file:{tmp_path}/weights?arch={arch}&{sizes}")
    assert backbone.report.format == "Eva encoder or classifier with a table of positions (timm)"
    assert {entry.note for entry in backbone.report.dropped} <= {note, "head"}
    assert ({entry.note for entry in backbone.report.dropped} == set()) == (classes == 0 and note == "head")
    model.load_state_dict(state)
    tokens = model.double().eval().forward_features(images())
    prefix, patches = backbone.double().eval().tokens(images())
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], 1), tokens, rtol=0, atol=2e-5)


def test_attention_pooling_is_left_behind() -> None:
    model = timm.create_model("eva02_base_patch14_224", global_pool="map", **TINY)
    found = timm_eva.FORMATS[1].read(model.state_dict(), "eva")
    assert {entry.note for entry in found.dropped} == {"attention pooling", "head"}


# ---------------------------------------------------------------- telling them apart


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_exactly_one_of_these_formats_matches(name: str) -> None:
    state = filled(CHECKPOINTS[name])
    assert len([one.name for one in OURS if one.matches(state)]) == 1
    assert not any(one.matches(state) for one in timm_vit.FORMATS)


@pytest.mark.parametrize(
    "arch",
    ["vit_base_patch16_224", "vit_base_patch14_dinov2", "vit_base_patch14_reg4_dinov2", "deit3_base_patch16_224",
     "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224", "aimv2_large_patch14_224",
     "vit_base_patch16_224_miil", "vit_medium_patch16_gap_256"],
)  # fmt: skip
@pytest.mark.parametrize("classes", [0, 5])
def test_none_of_these_formats_matches_a_plain_vit(arch: str, classes: int) -> None:
    with shapes_alone():
        state = timm.create_model(arch, num_classes=classes).state_dict()
    assert [one.name for one in OURS if one.matches(state)] == []


@pytest.mark.parametrize("model", ["swin_tiny_patch4_window7_224", "convnextv2_atto", "resnet18"])
def test_none_of_these_formats_matches_a_hierarchical_network(model: str) -> None:
    with shapes_alone():
        state = timm.create_model(model).state_dict()
    assert [one.name for one in OURS if one.matches(state)] == []


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("beit pretraining", lambda state: {"model": state, "epoch": 3}),
        ("cae, first release", lambda state: {"model": state}),
        ("simmim shared", lambda state: {"model": state, "max_accuracy": 0.0}),
        ("eva-02 base pretraining", lambda state: {"module": state}),
        ("eva-02 clip", lambda state: state),
        ("dinov3 teacher", lambda state: {"teacher": state}),
        ("maskfeat", lambda state: {"model_state": state, "epoch": 3, "cfg": "TASK: ssl"}),
    ],
)
def test_the_file_as_it_is_published_gives_these_tensors(
    tmp_path: Path, name: str, payload: Callable[[dict[str, Tensor]], Any]
) -> None:
    """What opens files takes keys and prefixes off; none of a format's own may go with them."""
    state = filled(CHECKPOINTS[name])
    torch.save(payload(state), tmp_path / "any.name")
    read, _ = read_checkpoint(tmp_path / "any.name")
    assert [one.name for one in FORMATS if one.matches(read)] == [
        one.name for one in FORMATS if one.matches(state)
    ]
    assert set(read) == set(state)
