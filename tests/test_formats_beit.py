"""BEiT's checkpoints and those of its forks (data2vec, SimMIM, CAE), and MaskFeat's: read into timm's names.

The numbers come from running the repositories' own classes on CPU in float64, at the size and with the weights
and images of `tests.beit_and_eva` (so filled over all keys of their state_dict, buffers kept as they made them):

* microsoft/unilm at 768a3c8: beit/modeling_pretrain.VisionTransformerForMaskedImageModeling and beit2's
  ...CLS (early_layers=1, head_layers=1, shared_lm_head=False), `forward_features` without a masked patch;
  beit/modeling_finetune.VisionTransformer.forward_features. init_values=0.1, eps=1e-6.
* facebookresearch/data2vec_vision at af9a363: beit/modeling_cyclical.VisionTransformerForCyclicalTraining and
  modeling_finetune.VisionTransformer with has_masking, the same way.
* microsoft/SimMIM at d3e29bc: models/simmim.SimMIM, the encoder's map without a masked patch, patches row by row.
* CAE: lxtGH/CAE at d725971 (the first release) and Atten4Vis/CAE at a7fd162, the encoder without a masked patch.
* facebookresearch/SlowFast at 287ec00: MaskMViT (PRETRAIN_DEPTH [1], separate head, HOG), its blocks followed by
  `pred_head.transforms[0]`; MViT with mean pooling, what its head is given.
* open-mmlab/mmpretrain at ee7f2e8: MaskFeatViT with LinearNeck and HOGGenerator, without a masked patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mae_bench.backbones.fitting import suited
from mae_bench.backbones.formats import FORMATS, Format, Layout
from mae_bench.backbones.formats.beit import SHARED_TABLE, expand_shared
from mae_bench.backbones.formats.names import take
from mae_bench.errors import MaeBenchError
from tests.beit_and_eva import (
    CHECKPOINTS,
    MASKFEAT_OPENMMLAB,
    bare,
    check,
    filled,
    images,
    pooled,
)

ALL = {**CHECKPOINTS, "maskfeat of openmmlab": MASKFEAT_OPENMMLAB}
GIANT = ("eva_giant_patch14_224", {"mlp_ratio": 4, "init_values": 0.1})
BEIT = ("beit_base_patch16_224", {})
BEIT_SHARED = ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True})
BEIT_ABSOLUTE = ("beit_base_patch16_224", {"use_rel_pos_bias": False, "use_abs_pos_emb": True})
VIT = ("vit_base_patch16_224", {"init_values": 0.1})
MASKFEAT_VIT = ("vit_base_patch16_224", {"patch": 16})
ABSOLUTE_TARGETS: list[tuple[Layout, tuple[str, dict[str, Any]]]] = [
    ("beit", BEIT_ABSOLUTE),
    ("eva", GIANT),
    ("vit", VIT),
]


def format_of(state: dict[str, Tensor]) -> Format:
    matching = [one for one in FORMATS if one.matches(state)]
    assert len(matching) == 1, [one.name for one in matching]
    return matching[0]


def loaded(name: str, layout: Layout, target: tuple[str, dict[str, Any]]) -> Any:
    state = filled(ALL[name])
    encoder = format_of(state).read(state, layout).encoder
    arch, options = target
    model = bare(arch, **options)
    if SHARED_TABLE not in model.state_dict():
        encoder = expand_shared(encoder, 2)
    model.load_state_dict(encoder, strict=True)
    return model


def tokens(model: Any) -> Tensor:
    return model.forward_features(images())


def patches(model: Any) -> Tensor:
    return tokens(model)[:, 1:]


def class_token(model: Any) -> Tensor:
    return tokens(model)[:, 0]


# What is compared, and the reference's first six and last three numbers and sum of magnitudes.
Numbers = tuple[Callable[[Any], Tensor], list[float], list[float], float]
PRETRAINED: Numbers = (
    tokens,
    [-0.4067103, -1.2333949, 1.418991, -0.99598, 0.3299527, -0.6683078],
    [-1.8209425, -0.1865498, -1.1111345],
    444.93313,
)  # of BEiT v1 and data2vec: their encoders have the same keys, so the same weights
REFERENCE: dict[str, Numbers] = {
    "beit pretraining": PRETRAINED,
    "data2vec pretraining": PRETRAINED,
    "beit v2 pretraining": (
        tokens,
        [0.2750183, 1.3842835, 1.2929979, 0.5943356, -0.8542814, -1.4212921],
        [-0.7744356, -0.266288, -0.9708829],
        446.52548,
    ),
    "beit fine-tuned": (
        pooled,
        [1.0014249, -0.1092651, 0.1693266, 1.5336337, -0.6222214, 0.393028],
        [0.9106815, 2.1189757, -0.2606711],
        25.63422,
    ),
    "data2vec fine-tuned": (
        pooled,
        [-1.1052431, 0.6515136, 0.4698562, 0.777165, 0.8583232, -2.6135364],
        [-1.0744022, 0.1809226, -0.3114006],
        26.38664,
    ),
    "beit absolute": (
        class_token,
        [0.8690138, -1.5758735, 0.6895048, -1.3550864, 0.64772, -1.0413659],
        [-0.5217986, -0.6166858, -0.6883395],
        27.94332,
    ),
    "simmim shared": (
        patches,
        [1.597564, 0.7304337, 1.108709, -0.083291, -1.7214861, -0.989623],
        [-1.9376435, -0.1300507, -1.1067799],
        418.76827,
    ),
    "simmim absolute": (
        patches,
        [1.5173624, 0.8923769, 1.1009189, -0.08745, -1.7332069, -0.9475183],
        [-1.903958, -0.0221873, -1.0650916],
        421.16175,
    ),
    "cae, first release": (
        tokens,
        [0.4987363, -0.8085328, 1.3004275, -0.9058239, 2.0080135, -0.1824574],
        [-0.1305588, 0.4773537, 0.5999343],
        441.26379,
    ),
    "cae": (
        tokens,
        [0.460944, 1.5915184, -0.7163763, -0.0910706, 0.3836511, -0.3613871],
        [0.3705743, 0.4618891, 0.2893457],
        438.43972,
    ),
    "cae v2": (
        tokens,
        [-1.0222242, 1.0592339, -0.9575322, 0.9843413, 0.4443208, 1.1782817],
        [2.7812741, 0.940042, -0.8996435],
        456.71698,
    ),
    "maskfeat": (
        tokens,
        [0.0178163, 0.2447467, 0.0714772, -0.004628, 0.0474406, -0.1664277],
        [0.0584322, -0.1258229, -0.0206587],
        20.25018,
    ),
    "maskfeat classifier": (
        pooled,
        [-0.0170892, 1.9219365, 0.4738616, 0.8520941, 0.1944636, 0.2870806],
        [-1.3106433, 0.6432554, -1.2984941],
        26.98976,
    ),
    "maskfeat of openmmlab": (
        tokens,
        [0.5837347, 0.0598934, 0.2327352, -0.0981005, -0.2822274, -0.3248061],
        [-0.2735926, 0.0033586, 0.0022361],
        89.52034,
    ),
}


@pytest.mark.parametrize(
    ("name", "layout", "target"),
    [
        *(
            (name, "beit", target)
            for name in ("beit pretraining", "beit v2 pretraining", "data2vec pretraining", "simmim shared")
            for target in (BEIT, BEIT_SHARED)
        ),
        ("beit fine-tuned", "beit", BEIT),
        ("data2vec fine-tuned", "beit", BEIT),
        *(
            (name, layout, target)
            for name in ("beit absolute", "simmim absolute", "cae, first release", "cae", "cae v2")
            for layout, target in ABSOLUTE_TARGETS
        ),
        ("maskfeat", "vit", MASKFEAT_VIT),
        ("maskfeat classifier", "vit", MASKFEAT_VIT),
        ("maskfeat of openmmlab", "vit", ("vit_base_patch16_224", {})),
    ],
)
def test_the_model_gives_the_numbers_of_the_reference(
    name: str, layout: Layout, target: tuple[str, dict[str, Any]]
) -> None:
    compared, first, last, total = REFERENCE[name]
    check(compared(loaded(name, layout, target)), first, last, total)


# ---------------------------------------------------------------- what is read, renamed and left behind


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_is_accounted_for_in_every_layout(name: str) -> None:
    state = filled(ALL[name])
    one = format_of(state)
    for layout in one.layouts:
        found = one.read(state, layout)
        origins = [part for new in found.encoder for part in found.renamed.get(new, new).split(" + ")]
        assert {*origins, *(entry.name for entry in found.dropped)} == set(state)
        assert set(found.renamed) <= set(found.encoder)
        assert all(entry.shape == tuple(state[entry.name].shape) for entry in found.dropped)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("beit pretraining", {"mask token": 1, "index of relative positions, computed": 1, "head": 2}),
        (
            "beit v2 pretraining",
            {
                "mask token": 1,
                "index of relative positions, computed": 1,
                "head": 4,
                "head of the class token": 17,
            },
        ),
        ("beit fine-tuned", {"index of relative positions, computed": 2, "head": 2}),
        ("data2vec fine-tuned", {"mask token": 1, "index of relative positions, computed": 2, "head": 2}),
        ("simmim absolute", {"mask token": 1, "decoder": 2}),
        (
            "cae, first release",
            {"copy of the encoder for the targets": 36, "regressor": 27, "decoder": 20},
        ),
        ("cae v2", {"regressor": 27, "decoder": 6}),
        ("maskfeat", {"mask token": 1, "filters of the target": 2, "head": 2}),
        ("maskfeat classifier", {"head": 2}),
        ("maskfeat of openmmlab", {"mask token": 1, "filters of the target": 3, "head": 2}),
    ],
)
def test_what_is_left_behind_has_its_reason(name: str, reasons: dict[str, int]) -> None:
    state = filled(ALL[name])
    one = format_of(state)
    counted: dict[str, int] = {}
    for entry in one.read(state, one.layouts[0]).dropped:
        counted[entry.note] = counted.get(entry.note, 0) + 1
    assert counted == reasons


@pytest.mark.parametrize("surprise", ["surprise.weight", "blocks.0.attn.surprise", "decoder.surprise.weight"])
@pytest.mark.parametrize("name", ALL)
def test_what_no_format_knows_stays_and_is_found_unexpected(name: str, surprise: str) -> None:
    state = {**filled(ALL[name]), surprise: torch.ones(2)}
    one = format_of(state)
    for layout in one.layouts:
        assert surprise in one.read(state, layout).encoder


@pytest.mark.parametrize("name", ALL)
def test_shapes_are_enough(name: str) -> None:
    """Configurations are matched with checkpoints that have names and shapes, and no values."""
    state = filled(ALL[name])
    meta = {key: tensor.to("meta") for key, tensor in state.items()}
    one = format_of(meta)
    assert one is format_of(state)
    for layout in one.layouts:
        ours, theirs = one.read(meta, layout).encoder, one.read(state, layout).encoder
        assert {key: tensor.shape for key, tensor in ours.items()} == {
            key: tensor.shape for key, tensor in theirs.items()
        }


def test_merged_biases_name_both_parts() -> None:
    state = filled(ALL["cae"])
    found = format_of(state).read(state, "vit")
    assert found.renamed["blocks.1.attn.qkv.bias"] == (
        "encoder.blocks.1.attn.q_bias + encoder.blocks.1.attn.v_bias"
    )
    bias = found.encoder["blocks.1.attn.qkv.bias"]
    assert torch.equal(bias[:16], state["encoder.blocks.1.attn.q_bias"])
    assert torch.count_nonzero(bias[16:32]) == 0
    assert torch.equal(bias[32:], state["encoder.blocks.1.attn.v_bias"])
    assert found.renamed["blocks.1.ls2.gamma"] == "encoder.blocks.1.gamma_2"


def test_two_tensors_of_one_name_are_refused() -> None:
    state = {**filled(ALL["simmim absolute"]), "norm.weight": torch.ones(16)}
    with pytest.raises(
        MaeBenchError, match=r"two tensors for norm\.weight: encoder\.norm\.weight and norm\.weight; keep"
    ):
        format_of(state).read(state, "beit")
    assert take({"a": torch.ones(1)}, "words", pairs=(("a", "b"),)).renamed == {"b": "a"}


# ---------------------------------------------------------------- tables of relative positions


def test_the_shared_table_is_copied_for_every_block() -> None:
    state = filled(ALL["beit pretraining"])
    found = format_of(state).read(state, "beit")
    assert found.notes == ["one table of relative positions is shared by all blocks, as in pretraining"]
    expanded = expand_shared(found.encoder, 2)
    for block in range(2):
        table = expanded[f"blocks.{block}.attn.relative_position_bias_table"]
        assert torch.equal(table, state[SHARED_TABLE])
        assert table.data_ptr() != state[SHARED_TABLE].data_ptr()
    assert SHARED_TABLE not in expanded
    assert set(expanded) - set(found.encoder) == {
        f"blocks.{block}.attn.relative_position_bias_table" for block in range(2)
    }
    assert SHARED_TABLE in found.encoder, "the tensors that were given are left alone"


def test_copies_say_what_the_file_calls_the_table() -> None:
    state = filled(ALL["simmim shared"])
    own = bare(BEIT[0]).state_dict()
    found = suited(own, format_of(state).read(state, "beit"))
    assert set(found.encoder) == set(own) - {name for name in own if name.endswith("relative_position_index")}
    assert {found.renamed[f"blocks.{block}.attn.relative_position_bias_table"] for block in range(2)} == {
        f"encoder.{SHARED_TABLE}"
    }
    assert set(found.renamed) <= set(found.encoder)
    shared = bare(BEIT_SHARED[0], **BEIT_SHARED[1]).state_dict()
    assert SHARED_TABLE in suited(shared, format_of(state).read(state, "beit")).encoder


def test_nothing_is_copied_where_blocks_have_tables_or_there_is_none() -> None:
    state = filled(ALL["beit fine-tuned"])
    fine_tuned = format_of(state).read(state, "beit").encoder
    both = {**fine_tuned, SHARED_TABLE: torch.zeros(52, 2)}
    for encoder in (fine_tuned, both, {"norm.weight": torch.ones(2)}):
        assert expand_shared(encoder, 2) == encoder


def test_data2vec_is_told_from_beit_by_the_width_of_the_head() -> None:
    names = [format_of(filled(ALL[f"{method} pretraining"])).name for method in ("beit", "data2vec")]
    assert names == ["BEiT pretraining checkpoint", "data2vec pretraining checkpoint"]


def test_fine_tuned_norms_become_the_norm_of_the_tokens() -> None:
    state = filled(ALL["beit fine-tuned"])
    found = format_of(state).read(state, "beit")
    assert found.renamed == {"norm.weight": "fc_norm.weight", "norm.bias": "fc_norm.bias"}


def test_maskfeat_with_several_heads_takes_the_norm_of_the_last() -> None:
    state = filled(ALL["maskfeat"])
    more = {
        "pred_head.transforms.1.0.weight": torch.full((16,), 3.0),
        "pred_head.transforms.1.0.bias": torch.full((16,), 4.0),
        "pred_head.projections.1.weight": torch.zeros(108, 16),
    }
    found = format_of(state).read({**state, **more}, "vit")
    assert float(found.encoder["norm.weight"][0]) == 3
    assert "pred_head.transforms.0.0.weight" in found.encoder, "it is not known what the first was for"


# ---------------------------------------------------------------- the way back


def test_only_what_heads_and_decoders_belong_to_cannot_be_written() -> None:
    assert {name for name, shapes in ALL.items() if format_of(filled(shapes)).write is None} == {
        *("beit pretraining", "beit v2 pretraining", "data2vec pretraining", "eva-01 pretraining"),
        *("cae, first release", "cae", "cae v2", "maskfeat classifier", "maskfeat of openmmlab"),
    }


@pytest.mark.parametrize("name", [name for name in ALL if format_of(filled(ALL[name])).write])
def test_what_is_written_is_read_back_bit_by_bit(name: str) -> None:
    state = filled(ALL[name])
    one = format_of(state)
    assert one.write is not None
    encoder = one.read(state, one.layouts[0]).encoder
    written = one.write(encoder)
    assert format_of(written) is one
    again = one.read(written, one.layouts[0]).encoder
    assert set(again) == set(encoder)
    assert all(torch.equal(again[key], encoder[key]) for key in encoder)
    # DINOv3 masks the bias of the keys, so what lay there is lost; a teacher is written as a backbone.
    inside = {key.removeprefix("backbone."): tensor for key, tensor in state.items()}
    theirs = [key for key in written if key in inside and not key.endswith("qkv.bias")]
    assert len(theirs) > 20, "it is written in the names of the format"
    assert all(torch.equal(written[key], inside[key]) for key in theirs)
