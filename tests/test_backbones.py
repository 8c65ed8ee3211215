"""The surface of a backbone, against timm's own forward pass on the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath, resample_abs_pos_embed
from timm.models import _builder as timm_builder
from timm.models import save_for_hf
from torch import Tensor, nn

from mae_bench.backbones import Backbone, load_backbone
from mae_bench.backbones.loading import parse_spec
from mae_bench.errors import MaeBenchError

TINY = "embed_dim=24&depth=3&num_heads=2&patch_size=4&img_size=16"
KINDS = {
    "class token": {},
    "no class token": {"class_token": False},
    "registers": {"reg_tokens": 4},
    "registers without positions": {"reg_tokens": 2, "no_embed_class": True},
    "LayerScale": {"init_values": 0.5},
    "pre-norm": {"pre_norm": True},
    "oblong patches": {"patch_size": (4, 8)},
    "oblong images": {"img_size": (16, 24)},
}
SIZES = {"native": None, "larger": (32, 32), "smaller": (8, 8), "oblong": (12, 32), "transposed": (32, 8)}


def tiny(more: str = "", arch: str = "vit_tiny_patch16_224", **options: Any) -> Backbone:
    return load_backbone(f"random:{arch}?{TINY}{more}", **options)


def lively(backbone: Backbone) -> Backbone:
    """Move the weights off timm's initial zeros and ones, so that each of them matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in backbone.parameters():
            param.add_(torch.randn(param.shape, generator=generator) * 0.2)
    return backbone.eval()


def of_kind(kind: str) -> Backbone:
    return lively(tiny(model_args=KINDS[kind]))


def timms(backbone: Backbone, **options: Any) -> nn.Module:
    """timm's model with the weights of `backbone`, at any image size."""
    args: dict[str, Any] = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": backbone.image_size}
    args |= {**backbone.model_args, **options}
    if args.get("class_token") is False:
        args["global_pool"] = "avg"
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, fc_norm=False, dynamic_img_size=True, **args
    )
    model.load_state_dict(backbone.vit.state_dict())
    return model.eval()


def images(size: tuple[int, int] | None, backbone: Backbone, channels: int = 3) -> Tensor:
    height, width = size or backbone.image_size
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- features


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_timms_forward_features(kind: str, size: tuple[int, int] | None) -> None:
    backbone = of_kind(kind)
    batch = images(size, backbone)
    with torch.no_grad():
        prefix, patches = backbone.tokens(batch)
        theirs = timms(backbone).forward_features(batch)
    rows, columns = batch.shape[2] // backbone.patch_size[0], batch.shape[3] // backbone.patch_size[1]
    assert prefix.shape == (2, backbone.prefix_tokens, 24)
    assert patches.shape == (2, rows, columns, 24)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), theirs)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_timms_forward_intermediates(kind: str, size: tuple[int, int] | None) -> None:
    backbone = of_kind(kind)
    batch = images(size, backbone)
    with torch.no_grad():
        ours = backbone.maps(batch, [0, 2])
        theirs = timms(backbone).forward_intermediates(batch, indices=[0, 2], intermediates_only=True)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_maps_come_in_the_order_asked_for() -> None:
    backbone = of_kind("class token")
    batch = images(None, backbone)
    first, last = backbone.maps(batch, [0, 2])
    again = backbone.maps(batch, [-1, 0, 2])
    torch.testing.assert_close(again, [last, first, last])
    assert backbone.maps(batch, []) == []
    with pytest.raises(MaeBenchError, match="blocks 0 to 2, so none of number 3"):
        backbone.maps(batch, [3])


@pytest.mark.parametrize("kind", KINDS)
def test_trunk_and_rest_make_tokens_wherever_they_are_cut(kind: str) -> None:
    backbone = of_kind(kind)
    for size in (None, (24, 16)):
        batch = images(size, backbone)
        whole = backbone.tokens(batch)
        for blocks in range(backbone.depth + 1):
            parts = backbone.rest(backbone.trunk(batch, blocks), blocks, backbone.grid(batch))
            torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    native = images(None, backbone)
    torch.testing.assert_close(backbone.rest(backbone.trunk(native, 1), 1), backbone.tokens(native))


def test_every_backbone_ends_in_a_norm_wherever_timm_puts_it() -> None:
    args = {"embed_dim": 24, "depth": 3, "num_heads": 2, "img_size": 32}
    backbone = lively(
        load_backbone("random:vit_medium_patch16_reg4_gap_256?embed_dim=24&depth=3&num_heads=2&img_size=32")
    )
    model = timm.create_model("vit_medium_patch16_reg4_gap_256", num_classes=0, **args).eval()
    state = backbone.vit.state_dict()
    model.load_state_dict({name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor
                           for name, tensor in state.items()})  # fmt: skip
    batch = images((32, 32), backbone)
    with torch.no_grad():
        raw = model.forward_features(batch)
        assert isinstance(model.norm, nn.Identity)
        prefix, patches = backbone.tokens(batch)
        torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], 1), model.fc_norm(raw))
        # A task that normalises after pooling takes the features before the final norm.
        pooled = backbone.trunk(batch, backbone.depth)[:, backbone.prefix_tokens :].mean(1)
        torch.testing.assert_close(backbone.vit.norm(pooled), model(batch))


def test_positions_are_resampled_when_built_as_when_run() -> None:
    native = tiny()
    built = tiny(image_size=(32, 24))
    assert built.image_size == (32, 24)
    assert built.vit.pos_embed.shape == (1, 1 + 8 * 6, 24)
    theirs = resample_abs_pos_embed(native.vit.pos_embed, [8, 6], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(built.vit.pos_embed, theirs)
    batch = images((32, 24), built)
    torch.testing.assert_close(built.eval().tokens(batch), native.eval().tokens(batch))
    assert built.vit.pos_embed.requires_grad


def test_same_count_in_another_shape_is_resampled_too() -> None:
    backbone = tiny(image_size=(8, 32))
    assert backbone.vit.pos_embed.shape == tiny().vit.pos_embed.shape
    assert not torch.equal(backbone.vit.pos_embed, tiny().vit.pos_embed)
    batch = images((8, 32), backbone)
    torch.testing.assert_close(backbone.eval().tokens(batch), tiny().eval().tokens(batch))


def test_gradients_reach_positions_through_resampling() -> None:
    backbone = tiny()
    backbone.tokens(images((24, 24), backbone))[1].square().sum().backward()
    grad = backbone.vit.pos_embed.grad
    assert grad is not None
    assert bool((grad.abs().sum(-1) > 0).all())


def test_wrong_images_are_named() -> None:
    backbone = tiny()
    with pytest.raises(
        MaeBenchError, match=r"30x16 pixels cannot be cut into patches of 4x4; the nearest .* 32x16"
    ):
        backbone.tokens(torch.zeros(1, 3, 30, 16))
    with pytest.raises(MaeBenchError, match=r"3 channels \(B, 3, H, W\), not \(1, 1, 16, 16\)"):
        backbone.tokens(torch.zeros(1, 1, 16, 16))
    with pytest.raises(MaeBenchError, match=r"224x225 .* patches of 4x4"):
        tiny(image_size=(224, 225))


def test_other_channels() -> None:
    backbone = tiny(channels=5)
    assert (backbone.channels, backbone.mean, backbone.std) == (5, (0.5,) * 5, (0.5,) * 5)
    assert backbone.tokens(images(None, backbone, channels=5))[1].shape == (2, 4, 4, 24)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("kind", KINDS)
def test_layers_hold_every_parameter_once_in_depth_order(kind: str) -> None:
    backbone = of_kind(kind)
    layers = backbone.layer_names()
    assert len(layers) == backbone.depth + 2
    flat = [name for layer in layers for name in layer]
    assert sorted(flat) == sorted(name for name, _ in backbone.named_parameters())
    for index in range(backbone.depth):
        assert layers[index + 1]
        assert all(name.startswith(f"vit.blocks.{index}.") for name in layers[index + 1])
    assert "vit.patch_embed.proj.weight" in layers[0]
    assert "vit.pos_embed" in layers[0]
    assert layers[-1] == ["vit.norm.weight", "vit.norm.bias"]


def test_tokens_and_positions_are_exempt_from_weight_decay() -> None:
    assert of_kind("registers").no_weight_decay() == {"vit.cls_token", "vit.pos_embed", "vit.reg_token"}
    assert of_kind("no class token").no_weight_decay() == {"vit.pos_embed"}


def test_drop_path_grows_as_timms() -> None:
    backbone = tiny(drop_path=0.3)
    theirs = timms(backbone, drop_path_rate=0.3)
    for mine, other in zip(backbone.vit.blocks, theirs.blocks, strict=True):
        for name in ("drop_path1", "drop_path2"):
            a, b = getattr(mine, name), getattr(other, name)
            assert type(a) is type(b)
            if isinstance(a, DropPath):
                assert a.drop_prob == pytest.approx(b.drop_prob)
    backbone.set_drop_path(0.0)
    assert not any(isinstance(module, DropPath) for module in backbone.modules())
    with pytest.raises(MaeBenchError, match="less than 1, not 1"):
        backbone.set_drop_path(1.0)


def trainable(backbone: Backbone) -> set[str]:
    return {name.removeprefix("vit.") for name, param in backbone.named_parameters() if param.requires_grad}


@pytest.mark.parametrize(
    ("blocks", "tuned", "whole_frozen"),
    [
        (0, (), 3),
        (0.5, ("norm.", "blocks.2.norm2.", "blocks.2.mlp.", "blocks.2.ls2."), 2),
        (1, ("norm.", "blocks.2."), 2),
        (1.5, ("norm.", "blocks.2.", "blocks.1.norm2.", "blocks.1.mlp.", "blocks.1.ls2."), 1),
        (2, ("norm.", "blocks.1.", "blocks.2."), 1),
        (3, ("",), 0),
    ],
)
def test_the_last_blocks_are_tuned(blocks: float, tuned: tuple[str, ...], whole_frozen: int) -> None:
    backbone = tiny("&init_values=0.1", drop_path=0.2)
    backbone.trainable_from(blocks)
    names = {name.removeprefix("vit.") for name, _ in backbone.named_parameters()}
    assert trainable(backbone) == {name for name in names if name.startswith(tuned)}
    assert backbone.frozen_blocks == whole_frozen
    backbone.train()
    learning = {name for name, module in backbone.vit.named_modules() if module.training and name}
    if blocks == 0:
        assert not learning
    elif blocks == 0.5:
        assert {"norm", "blocks.2.mlp", "blocks.2.drop_path2"} <= learning
        assert not learning & {"blocks.2.drop_path1", "blocks.2.attn", "blocks.1", "pos_drop", "patch_embed"}
    elif blocks == 3:
        assert {"patch_embed", "blocks.0", "norm"} <= learning


def test_a_frozen_trunk_needs_no_gradients_and_stays_the_same() -> None:
    backbone = tiny(drop_path=0.5)
    backbone.trainable_from(0.5)
    backbone.train()
    batch = images(None, backbone)
    trunk = backbone.trunk(batch, backbone.frozen_blocks)
    assert not trunk.requires_grad
    torch.testing.assert_close(backbone.trunk(batch, backbone.frozen_blocks), trunk, rtol=0, atol=0)
    backbone.rest(trunk, backbone.frozen_blocks)[0].square().sum().backward()
    with_gradient = {name for name, param in backbone.named_parameters() if param.grad is not None}
    assert with_gradient == {name for name, param in backbone.named_parameters() if param.requires_grad}


def test_freezing_holds_when_drop_path_is_set_later_and_can_be_undone() -> None:
    backbone = tiny()
    backbone.train()
    backbone.trainable_from(1)
    backbone.set_drop_path(0.2)
    assert not backbone.vit.blocks[1].drop_path1.training
    assert backbone.vit.blocks[2].drop_path1.training
    backbone.freeze(0)
    assert backbone.vit.blocks[1].drop_path1.training
    assert all(param.requires_grad for param in backbone.parameters())
    backbone.freeze()
    assert not any(param.requires_grad for param in backbone.parameters())


@pytest.mark.parametrize("blocks", [-1, 0.3, 4, 3.5])
def test_impossible_partial_tuning(blocks: float) -> None:
    with pytest.raises(MaeBenchError, match="has 3 blocks"):
        tiny().trainable_from(blocks)
    with pytest.raises(MaeBenchError, match="has 3 blocks"):
        tiny().freeze(blocks)


def test_a_task_may_take_the_final_norm_away() -> None:
    backbone = of_kind("class token")
    batch = images(None, backbone)
    before = backbone.trunk(batch, backbone.depth)
    backbone.vit.norm = nn.Identity()
    prefix, patches = backbone.tokens(batch)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], 1), before)
    assert backbone.layer_names()[-1] == []


# ---------------------------------------------------------------- timm: from elsewhere


def test_a_model_in_timms_format_loads_from_a_folder(tmp_path: Path) -> None:
    args = {"embed_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 16}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **args)
    for param in model.parameters():
        nn.init.normal_(param, generator=torch.Generator().manual_seed(2))
    config = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "input_size": (3, 16, 16)}
    model.pretrained_cfg = {**model.pretrained_cfg, **config}
    save_for_hf(model, tmp_path / "mine", model_args=args)
    backbone = load_backbone(f"timm:local-dir:{tmp_path}/mine")
    assert (backbone.arch, backbone.image_size) == ("vit_tiny_patch16_224", (16, 16))
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.report.coverage == 100
    assert {entry.name for entry in backbone.report.dropped} == {"head.weight", "head.bias"}
    batch = images(None, backbone)
    with torch.no_grad():
        prefix, patches = backbone.eval().tokens(batch)
        theirs = model.eval().forward_features(batch)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), theirs)
    given = load_backbone(f"timm:local-dir:{tmp_path}/mine?mean=0.5,0.5,0.5&std=0.5,0.5,0.5")
    assert given.mean == (0.5, 0.5, 0.5)
    assert given.digest == backbone.digest


def test_a_folder_that_timm_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"is no folder of a model in timm's format .* loaded with hf:"):
        load_backbone(f"timm:local-dir:{tmp_path}/nothing")


# ---------------------------------------------------------------- random:


def test_random_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = tiny(seed=3)
    assert torch.equal(torch.rand(1), expected), "building a backbone moved the caller's random state"
    torch.manual_seed(2)
    assert tiny(seed=3).digest == first.digest
    assert tiny("&seed=3").digest == first.digest
    assert tiny(seed=4).digest != first.digest


def test_random_report() -> None:
    report = tiny().report
    assert report.coverage == 0
    assert report.matched == []
    assert len(report.missing) == len(tiny().vit.state_dict())
    assert "untrained" in report.summary()
    assert report.digest_before == report.digest_after
    assert tiny(image_size=32).report.digest_before == report.digest_before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random:vit_tny_patch16_224", "timm has no model 'vit_tny_patch16_224'; did you mean 'vit_tiny_patch16_224'"),
        ("random:vit_tiny_r_s16_p8_224?depth=1", "is no plain ViT but a VisionTransformer that cuts images by a HybridEmbed"),
        ("random:vit_tiny_patch16_224?use_rel_pos_bias=true", "vit_tiny_patch16_224 is timm's VisionTransformer, which takes no 'use_rel_pos_bias'"),
        ("random:eva02_tiny_patch14_224?reg_tokens=4", "is timm's Eva, which takes no 'reg_tokens'; did you mean 'num_reg_tokens'"),
        ("random:vit_tiny_patch16_224?depht=3", "unknown argument 'depht'; did you mean 'depth'"),
        ("random:vit_tiny_patch16_224?sead=3", "unknown argument 'sead'; did you mean 'seed'"),
        ("random:vit_tiny_patch16_224?depth=3.5", "depth should be a whole number from 1 on, not '3.5'"),
        ("random:vit_tiny_patch16_224?depth=0", "depth should be a whole number from 1 on, not '0'"),
        ("random:vit_tiny_patch16_224?mlp_ratio=wide", "mlp_ratio should be a number, not 'wide'"),
        ("random:vit_tiny_patch16_224?class_token=no", "class_token should be true or false, not 'no'"),
        ("random:vit_tiny_patch16_224?img_size=0", "img_size should be a side or HEIGHTxWIDTH in pixels, not '0'"),
        ("random:vit_tiny_patch16_224?img_size=30", "30x30 pixels cannot be cut into patches of 16x16"),
        ("random:vit_tiny_patch16_224?num_heads=5", "cannot build vit_tiny_patch16_224 with num_heads=5: .*divisible"),
        ("random:vit_tiny_patch16_224?seed=x", "seed should be a whole number, not 'x'"),
        ("random:vit_tiny_patch16_224?mean=0.5", "give mean and std together"),
        ("random:vit_tiny_patch16_224?mean=1,1,1&std=1,1", "std should be 3 numbers above 0 joined by commas"),
        ("random:vit_tiny_patch16_224?depth", "arguments are key=value joined by &, not 'depth'"),
        ("random:vit_tiny_patch16_224?depth=1&depth=2", "'depth' is given twice"),
        ("random:", "nothing stands after 'random:'"),
        ("rando:vit_tiny_patch16_224", "there is no source 'rando'; did you mean 'random'"),
        ("vit_tiny_patch16_224", "say where it comes from: timm:vit_tiny_patch16_224"),
        ("somewhere/else", "there is no such folder"),
        ("timm:vit_small_patch16_224.mae", "no weights of this name; did you mean 'vit_small_patch16_224.dino'"),
        ("timm:vit_base_patch16_xp_224", "timm has no weights for vit_base_patch16_xp_224; untrained it is random:"),
        ("timm:vit_tiny_patch16_224?depth=3", "timm: takes no 'depth'; its weights settle that"),
    ],
)  # fmt: skip
def test_a_bad_spec_is_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message) as caught:
        load_backbone(spec)
    assert "\n" not in str(caught.value)


def test_specs_are_taken_apart(tmp_path: Path) -> None:
    known = dict.fromkeys(("random", "file", "run"))
    assert parse_spec("random:a?b=1&c=d", known) == ("random", "a", {"b": "1", "c": "d"})
    assert parse_spec("file:what?.pth?arch=x", known) == ("file", "what?.pth", {"arch": "x"})
    assert parse_spec(str(tmp_path), known) == ("run", str(tmp_path), {})
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(MaeBenchError, match=r"say its architecture too: file:.*a\.pth\?arch=NAME"):
        parse_spec(str(tmp_path / "a.pth"), known)


def test_model_args_vary_the_architecture_too() -> None:
    backbone = tiny(model_args={"depth": 1, "img_size": [8, 16]})
    assert (backbone.depth, backbone.image_size) == (1, (8, 16))
    assert backbone.model_args == {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 4}
    with pytest.raises(MaeBenchError, match="did you mean 'depth'"):
        tiny(model_args={"dept": 1})


def test_listing_the_sources_imports_no_torch() -> None:
    code = (
        "import sys, mae_bench.backbones, mae_bench.backbones.loading; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- timm:

MAE = "vit_base_patch16_224.mae"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Tensor]], None]:
    """Let timm 'download' the given tensors."""

    def offer(state: Mapping[str, Tensor]) -> None:
        monkeypatch.setattr(timm_builder, "load_state_dict_from_hf", lambda *_, **__: dict(state))

    return offer


def shrunk(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Make timm build ViT-B/16 small, to keep the test quick, and return such a model."""
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **options: create(name, embed_dim=12, depth=2, num_heads=2, **options),
    )
    return timm.create_model(MAE, pretrained=False)


def test_timm_weights_arrive_whole(monkeypatch: pytest.MonkeyPatch, hub: Callable[[Any], None]) -> None:
    model = shrunk(monkeypatch)
    hub(model.state_dict())
    backbone = load_backbone(f"timm:{MAE}", image_size=(64, 96))
    report = backbone.report
    assert report.coverage == 100
    assert [(entry.name, entry.note) for entry in report.resized] == [("pos_embed", "14x14 -> 4x6")]
    assert report.missing == report.unexpected == report.converted == []
    assert report.source == f"timm {MAE}"
    assert backbone.mean == (0.485, 0.456, 0.406)
    assert backbone.arch == "vit_base_patch16_224"
    batch = images((224, 224), backbone)
    with torch.no_grad():
        native = load_backbone(f"timm:{MAE}").eval().tokens(batch)[0][:, 0]
        torch.testing.assert_close(native, model.eval().forward_features(batch)[:, 0])


def test_what_timm_lets_pass_is_still_refused(
    monkeypatch: pytest.MonkeyPatch, hub: Callable[[Any], None]
) -> None:
    model = shrunk(monkeypatch)
    state = model.state_dict()
    del state["blocks.1.mlp.fc2.weight"]
    hub(state)
    load = timm_builder.load_pretrained
    monkeypatch.setattr(timm_builder, "load_pretrained", lambda *a, **k: load(*a, **{**k, "strict": False}))
    with pytest.raises(
        MaeBenchError, match=r"1 missing \(blocks.1.mlp.fc2.weight\); 9\d\.\d % of the model's"
    ):
        load_backbone(f"timm:{MAE}")


def test_a_network_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("We cannot connect to the hub.\nSecond line\nThird line")

    shrunk(monkeypatch)
    monkeypatch.setattr(timm_builder, "load_state_dict_from_hf", fail)
    with pytest.raises(MaeBenchError) as caught:
        load_backbone(f"timm:{MAE}")
    assert str(caught.value) == (
        "timm:vit_base_patch16_224.mae: timm could not get these weights (We cannot connect to the hub). Without a "
        "network, copy the checkpoint here and use file:PATH?arch=vit_base_patch16_224.mae"
    )
    assert "load_state_dict" not in vars(type(timm.create_model("test_vit")))


def test_channels_of_pretrained_weights_are_not_changed(
    monkeypatch: pytest.MonkeyPatch, hub: Callable[[Any], None]
) -> None:
    hub(shrunk(monkeypatch).state_dict())
    with pytest.raises(MaeBenchError, match="weights take 3 image channels, and the task gives 4"):
        load_backbone(f"timm:{MAE}", channels=4)


def test_the_report_is_saved_whole(tmp_path: Path) -> None:
    report = tiny(image_size=32).report
    saved = json.loads(report.save(tmp_path / "deep" / "load_report.json").read_text())
    assert saved["digest_after"] == report.digest_after
    assert saved["coverage"] == 0
    assert saved["image_size"] == [32, 32]
    assert len(saved["missing"]) == len(report.missing)
    assert saved["missing"][0] == {"name": "cls_token", "shape": [1, 1, 24], "note": ""}
