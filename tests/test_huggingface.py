"""``hf:`` against transformers itself: the same tokens and maps from the same files, at every size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from mae_bench.backbones import load_backbone
from mae_bench.backbones.formats import FORMATS
from mae_bench.backbones.huggingface_config import describe
from mae_bench.backbones.huggingface_kinds import KINDS, ratio_for
from tests.hf_models import CASES, MEAN, SIZES, STD, Case, antialiased, config_of, features, made

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
resampling = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.resampled != "own"],
    ids=[name for name, case in CASES.items() if case.resampled != "own"],
)


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def ours(backbone: Any, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Tokens and what leaves each block, patches alone, as `features` has them."""
    prefix, patches = backbone.eval().tokens(pixels)
    maps = backbone.maps(pixels, range(backbone.depth))
    return torch.cat([prefix, patches.flatten(1, 2)], dim=1), [
        each.flatten(2).transpose(1, 2) for each in maps
    ]


def assert_same(backbone: Any, pixels: Tensor, theirs: tuple[Tensor, list[Tensor]]) -> None:
    tokens, blocks = ours(backbone, pixels)
    assert theirs[0].std() > 0.3  # so that nothing is alike by being small
    torch.testing.assert_close(tokens, theirs[0], rtol=0, atol=2e-5)
    assert len(blocks) == len(theirs[1]) == SIZES["num_hidden_layers"]
    for mine, block in zip(blocks, theirs[1], strict=True):
        torch.testing.assert_close(mine, block[:, backbone.prefix_tokens :], rtol=0, atol=5e-5)


def test_every_known_type_is_compared() -> None:
    types = {getattr(transformers, case.config).model_type for case in CASES.values()}
    assert types == set(KINDS)


@every
def test_tokens_and_maps_at_the_native_size(case: Case, tmp_path: Path) -> None:
    model = made(case, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    assert_same(backbone, images(), features(case, model, images()))
    assert backbone.image_size == (32, 32)
    assert backbone.mean == tuple(MEAN)
    assert backbone.std == tuple(STD)


@every
def test_every_tensor_of_the_file_is_accounted_for(case: Case, tmp_path: Path) -> None:
    made(case, tmp_path)
    report = load_backbone(f"hf:{tmp_path}").report
    taken = [entry.note.removeprefix("from ") for entry in (*report.converted, *report.resized)]
    named = [name for note in taken for name in note.split(" + ")]
    named += [entry.name for entry in (*report.matched, *report.dropped)]
    assert set(named) == set(load_file(tmp_path / "model.safetensors"))
    assert report.coverage == 100.0
    assert [*report.missing, *report.unexpected, *report.allowed] == []
    assert all(entry.note for entry in report.dropped)


@pytest.mark.parametrize("size", [(48, 48), (32, 64), (16, 64)], ids=str)
@resampling
def test_other_sizes(
    case: Case, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of transformers' models resample positions without antialiasing; all else is the same."""
    model = made(case, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}")
    pixels = images(*size)
    with monkeypatch.context() as patched:
        if case.resampled == "plain":
            patched.setattr(F, "interpolate", antialiased())
        theirs = features(case, model, pixels, other_size=True)
    assert_same(backbone, pixels, theirs)
    assert_same(load_backbone(f"hf:{tmp_path}", image_size=size), pixels, theirs)


def test_without_antialiasing_positions_are_resampled_otherwise(tmp_path: Path) -> None:
    model = made(CASES["vit"], tmp_path)
    pixels = images(48, 48)
    tokens, _ = ours(load_backbone(f"hf:{tmp_path}"), pixels)
    theirs, _ = features(CASES["vit"], model, pixels, other_size=True)
    assert (tokens - theirs).abs().max() > 1e-3


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.bare],
    ids=[name for name, case in CASES.items() if case.bare],
)
# timm's resizing of BEiT's tables indexes in a way that torch frowns upon.
@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
def test_an_encoder_goes_back_to_transformers(case: Case, tmp_path: Path) -> None:
    """Resized to 48x48 here and written in the format's names, it is the same model there."""
    made(case, tmp_path)
    backbone = load_backbone(f"hf:{tmp_path}", image_size=48)
    encoder = backbone.vit.state_dict()
    form = next(form for form in FORMATS if form.name == backbone.report.format)
    assert form.write is not None
    written = form.write(encoder)
    again = form.read(written, form.layouts[0])
    assert not again.dropped
    assert again.encoder.keys() == encoder.keys()
    assert all(torch.equal(again.encoder[name], encoder[name]) for name in encoder)

    kind = getattr(transformers, case.bare)
    size = {"num_patches": 36} if "num_patches" in case.changes else {"image_size": 48}
    config = config_of(case, **size)
    back = tmp_path / "back"
    getattr(config, "vision_config", config).save_pretrained(back)
    save_file(
        {name: tensor.contiguous() for name, tensor in written.items()},
        back / "model.safetensors",
        {"format": "pt"},
    )
    model, info = kind.from_pretrained(back, output_loading_info=True)
    assert not info["unexpected_keys"]
    beside = ("pooler.", "head.", "embeddings.mask_token")
    lacking = [name for name in info["missing_keys"] if model.state_dict()[name].numel()]
    assert [name for name in lacking if not name.startswith(beside)] == []
    bare = Case(case.bare, case.config, case.changes, resampled=case.resampled)
    assert_same(backbone, images(48, 48), features(bare, model.eval(), images(48, 48)))


@every
def test_names_of_transformers_in_memory_are_read_too(case: Case, tmp_path: Path) -> None:
    model = made(case, tmp_path)
    form = [form for form in FORMATS if form.matches(load_file(tmp_path / "model.safetensors"))]
    assert len(form) == 1
    in_file = form[0].read(load_file(tmp_path / "model.safetensors"), form[0].layouts[0])
    in_memory = form[0].read(model.state_dict(), form[0].layouts[0])
    assert form[0].matches(model.state_dict())
    assert in_memory.encoder.keys() == in_file.encoder.keys()
    assert all(torch.equal(in_memory.encoder[name], in_file.encoder[name]) for name in in_file.encoder)


# ---------------------------------------------------------------- what config.json says, and leaves out


@pytest.mark.parametrize("name", KINDS)
def test_defaults_are_those_of_transformers(name: str) -> None:
    config = transformers.AutoConfig.for_model(name)
    config = getattr(config, "vision_config", config)
    assert {key: getattr(config, key) for key in KINDS[name].defaults} == KINDS[name].defaults


def test_a_config_that_leaves_things_out(tmp_path: Path) -> None:
    """SigLIP's are published so: the vision tower's part says only what is not the default."""
    made(CASES["siglip"], tmp_path, num_attention_heads=12, layer_norm_eps=1e-6)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    for key in ("num_attention_heads", "layer_norm_eps", "hidden_act", "num_channels"):
        del values["vision_config"][key]
    file.write_text(json.dumps(values))
    model = transformers.SiglipModel.from_pretrained(tmp_path).eval()
    backbone = load_backbone(f"hf:{tmp_path}")
    assert_same(backbone, images(), features(CASES["siglip"], model, images()))
    assert any(
        note.startswith(
            "config.json leaves out num_attention_heads, hidden_act, num_channels, layer_norm_eps;"
        )
        for note in backbone.report.notes
    )


def test_images_that_the_patches_do_not_fill(tmp_path: Path) -> None:
    """SigLIP's so400m-patch14-384 is such: 27 patches of 14 are 378."""
    model = made(CASES["siglip"], tmp_path, image_size=37)
    backbone = load_backbone(f"hf:{tmp_path}")
    pixels = images(37, 37)
    assert backbone.image_size == (32, 32)
    assert_same(backbone, pixels[:, :, :32, :32], features(CASES["siglip"], model, pixels))
    assert any("do not fill its images of 37x37 pixels" in note for note in backbone.report.notes)


@pytest.mark.parametrize(
    ("name", "sizes", "arch"),
    [
        ("vit", {}, "vit_base_patch16_224"),
        ("deit", {"hidden_size": 192, "num_attention_heads": 3}, "vit_tiny_patch16_224"),
        ("dinov2", {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518}, "vit_small_patch14_dinov2"),
        ("dinov2_with_registers", {"patch_size": 14}, "vit_base_patch14_reg4_dinov2"),
        ("dinov3_vit", {}, "vit_small_patch16_dinov3"),
        ("dinov3_vit", {"use_gated_mlp": True}, "vit_small_plus_patch16_dinov3"),
        ("ijepa", {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14}, "vit_huge_patch14_gap_224"),
        ("beit", {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 512}, "beit_large_patch16_512"),
        ("clip_vision_model", {}, "vit_base_patch32_clip_quickgelu_224"),
        ("clip_vision_model", {"hidden_act": "gelu", "patch_size": 16}, "vit_base_patch16_clip_224"),
        ("siglip", {"image_size": 512}, "vit_base_patch16_siglip_512"),
        ("siglip", {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14, "image_size": 384}, "vit_so400m_patch14_siglip_378"),
        ("siglip2", {}, "vit_base_patch16_siglip_256"),
        ("vit", {"hidden_size": 96, "num_attention_heads": 4}, "vit_base_patch16_224"),
    ],
)  # fmt: skip
def test_the_architecture_is_called_by_its_size(name: str, sizes: dict[str, Any], arch: str) -> None:
    config = (
        {"model_type": name, "vision_config": sizes}
        if name.startswith("siglip")
        else {"model_type": name, **sizes}
    )
    assert describe(config, "config.json").arch == arch


@pytest.mark.parametrize("width", [24, 768, 1408, 1664])
def test_mlps_of_every_width_can_be_asked_of_timm(width: int) -> None:
    """timm takes a ratio and rounds down, and some quotients of whole numbers fall short."""
    assert all(int(width * ratio_for(hidden, width)) == hidden for hidden in range(1, 6 * width))
