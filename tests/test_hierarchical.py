"""Hierarchical backbones: timm's own maps and strict loading."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from mae_bench.backbones import HierarchicalBackbone, load_backbone
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.results import BackboneRecord
from mae_bench.settings import OptimSettings
from tests.colours import KNN, open_run, write_colours

RESNET, CONVNEXT, SWIN = "test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"
ALL = [RESNET, CONVNEXT, SWIN]


def loaded(spec: str, **options: Any) -> HierarchicalBackbone:
    backbone = load_backbone(spec, **options)
    assert isinstance(backbone, HierarchicalBackbone)
    return backbone


def photo(height: int = 64, width: int = 96) -> Tensor:
    return torch.sin(torch.arange(2 * 3 * height * width).reshape(2, 3, height, width) * 0.7)


# ---------------------------------------------------------------- maps


@pytest.mark.parametrize("arch", ALL)
def test_maps_are_those_of_timms_feature_extractor(arch: str) -> None:
    options = {"strict_img_size": False, "always_partition": True} if arch == SWIN else {}
    indices = (1, 2, 3, 4) if arch == RESNET else (0, 1, 2, 3)
    theirs = timm.create_model(arch, features_only=True, out_indices=indices, **options).eval()
    ours = loaded(f"random:{arch}?seed=3").eval()
    # timm's extractor writes stages_0 for stages.0, and has no final norm.
    weights = {
        re.sub(r"^(stem|stages|layers)\.(\d)", r"\1_\2", name): tensor
        for name, tensor in ours.net.state_dict().items()
        if not name.startswith("final_norm.")
    }
    theirs.load_state_dict(weights, strict=True)
    with torch.no_grad():
        maps, wanted = ours.pyramid(photo()), theirs(photo())
    assert len(maps) == len(wanted) == 4
    for own, their, width, stride in zip(maps, wanted, ours.widths, ours.strides, strict=True):
        assert own.shape == (2, width, 64 // stride, 96 // stride)
        torch.testing.assert_close(own, their.permute(0, 3, 1, 2) if arch == SWIN else their)
    assert ours.strides == (4, 8, 16, 32)


def test_images_that_cannot_be_divided_are_refused() -> None:
    backbone = loaded(f"random:{RESNET}")
    with pytest.raises(MaeBenchError, match="60x96 pixels cannot be divided into cells of 32x32; pad it"):
        backbone.pyramid(photo(60))
    with pytest.raises(MaeBenchError, match=r"takes images of 3 channels .* not \(2, 1, 64, 96\)"):
        backbone.pyramid(photo()[:, :1])


# ---------------------------------------------------------------- loading


def classifier(arch: str, path: Path) -> dict[str, Tensor]:
    state = {
        name: tensor.clone() for name, tensor in timm.create_model(arch, num_classes=7).state_dict().items()
    }
    safetensors.torch.save_file(state, path)
    return state


@pytest.mark.parametrize(
    ("arch", "norm", "dropped"),
    [
        (RESNET, "", {"fc.weight", "fc.bias"}),
        (CONVNEXT, "head.norm", {"head.fc.weight", "head.fc.bias"}),
        (SWIN, "norm", {"head.fc.weight", "head.fc.bias"}),
    ],
)
def test_a_classifier_loads_without_its_head(arch: str, norm: str, dropped: set[str], tmp_path: Path) -> None:
    state = classifier(arch, tmp_path / "weights.safetensors")
    backbone = loaded(f"file:{tmp_path}/weights.safetensors?arch={arch}")
    own = backbone.net.state_dict()
    theirs = {
        name.replace(f"{norm}.", "final_norm.", 1) if norm and name.startswith(f"{norm}.") else name: tensor
        for name, tensor in state.items()
    }
    assert all((own[name] == theirs[name]).all() for name in own)
    report = backbone.report
    assert {(entry.name, entry.note) for entry in report.dropped} == {(name, "head") for name in dropped}
    assert {entry.name for entry in (*report.matched, *report.converted)} == set(own) == set(theirs) - dropped
    assert {(entry.name, entry.note) for entry in report.converted} == (
        {(f"final_norm.{part}", f"from {norm}.{part}") for part in ("weight", "bias")} if norm else set()
    )
    assert report.coverage == 100
    assert report.digest_before == report.digest_after == backbone.digest
    assert "hierarchical classifier (timm)" in report.summary()


@pytest.mark.parametrize("arch", ALL)
def test_tokens_are_the_last_map_after_the_norm_that_timm_has(arch: str) -> None:
    backbone = loaded(f"random:{arch}").eval()
    norm = getattr(backbone.net, "final_norm", None)
    if norm is not None:
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    prefix, cells = backbone.tokens(photo())
    last = backbone.pyramid(photo())[-1].permute(0, 2, 3, 1)
    assert prefix.shape == (2, 0, backbone.width)
    if norm is None:
        assert torch.equal(cells, last)
        return
    torch.testing.assert_close(
        cells, nn.functional.layer_norm(last, last.shape[-1:], norm.weight, norm.bias, norm.eps)
    )
    before = backbone.pyramid(photo())
    backbone.remove_norm()
    torch.testing.assert_close(backbone.tokens(photo())[1], last)
    torch.testing.assert_close(backbone.pyramid(photo()), before)
    assert backbone.layer_names()[-1] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer2.0.conv1.weight"), r"1 missing \(layer2\.0\.conv1\.weight\)"),
        (lambda state: state.update({"neck.bias": torch.ones(1)}), r"1 unexpected \(neck\.bias\)"),
        (lambda state: state.update({"bn1.weight": torch.ones(3)}), r"bn1\.weight is \(3,\), not \(32,\)"),
        (lambda state: state["bn1.bias"].fill_(torch.nan), "bn1.bias holds values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    state = classifier(RESNET, tmp_path / "weights.safetensors")
    change(state)
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(MaeBenchError, match=message):
        loaded(f"file:{tmp_path}/weights.safetensors?arch={RESNET}")


def test_pretrained_weights_are_checked_as_a_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def cached(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if not pretrained:
            return create(name, pretrained=False, **options)
        model = create("test_resnet.r160_in1k", pretrained=False)
        twin = {name: tensor + 1 for name, tensor in create(RESNET, pretrained=False).state_dict().items()}
        model.load_state_dict(twin)
        return model

    monkeypatch.setattr(timm, "create_model", cached)
    backbone = loaded("timm:test_resnet.r160_in1k")
    assert backbone.report.source == "timm test_resnet.r160_in1k"
    assert [entry.name for entry in backbone.report.dropped] == ["fc.weight", "fc.bias"]
    assert backbone.image_size == (160, 160)
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    assert (backbone.net.state_dict()["layer1.0.bn1.weight"] == 2).all()


def test_untrained_weights_follow_from_the_seed() -> None:
    one, same, other = (loaded(f"random:{RESNET}", seed=seed).digest for seed in (0, 0, 1))
    assert one == same != other
    assert loaded(f"random:{RESNET}?seed=1").digest == other


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("random:nest_tiny", r"nest_tiny has maps at strides \[4, 8, 16\], not at 4 different ones"),
        ("random:levit_128", r"levit_128 has maps at strides \[16, 32, 64\], not at 4 different ones"),
        (f"random:{RESNET}?depth=3", "test_resnet is no plain ViT, so it takes no 'depth'"),
        (f"random:{RESNET}?mean=0.5,0.5,0.5", "give mean and std together"),
    ],
)
def test_mistakes_are_one_sentence(spec: str, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        load_backbone(spec)


def test_a_run_records_what_a_hierarchical_backbone_has(tmp_path: Path) -> None:
    write_colours(tmp_path)
    run = open_run(tmp_path, KNN, backbone=f"random:{RESNET}")
    backbone = run.backbone()
    facts = BackboneRecord.model_validate(run._facts["backbone"])
    assert (facts.width, facts.depth, facts.patch_size) == (96, 4, None)
    assert facts.digest == backbone.digest
    assert (run.folder / "load_report.json").is_file()


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("arch", "depth", "first"),
    [
        (RESNET, 4, ["net.layer1.0.conv1.weight"]),
        (CONVNEXT, 9, ["net.stages.0.blocks.0.gamma"]),
        (SWIN, 12, ["net.layers.0.blocks.0.norm1.weight"]),
    ],
)
def test_layers_hold_every_parameter_once_in_depth_order(arch: str, depth: int, first: list[str]) -> None:
    backbone = loaded(f"random:{arch}")
    layers = backbone.layer_names()
    names = [name for name, _ in backbone.named_parameters()]
    assert sorted(name for layer in layers for name in layer) == sorted(names)
    assert (backbone.depth, len(layers)) == (depth, depth + 2)
    norm = ["net.final_norm.weight", "net.final_norm.bias"]
    assert layers[-1] == ([] if arch == RESNET else norm)
    assert layers[1][:1] == first
    stem = ("net.conv1", "net.bn1", "net.stem", "net.patch_embed")
    assert layers[0]
    assert all(name.startswith(stem) for name in layers[0])
    # What leads to a stage comes with its first block, and no layer holds parts of two stages.
    stages = [
        {"".join(re.findall(r"(?:layer|stages\.|layers\.)(\d)", name)[:1]) for name in layer}
        for layer in layers[1:-1]
    ]
    assert all(len(stage) == 1 for stage in stages)
    assert [min(stage) for stage in stages] == sorted(min(stage) for stage in stages)


def test_relative_position_biases_of_a_swin_are_not_decayed() -> None:
    backbone = loaded(f"random:{SWIN}")
    exempt = backbone.no_weight_decay()
    assert len(exempt) == 12
    assert all(name.endswith("attn.relative_position_bias_table") for name in exempt)
    assert loaded(f"random:{RESNET}").no_weight_decay() == set()
    groups = parameter_groups(backbone, OptimSettings(lr=0.1, layer_decay=0.5, weight_decay=0.2))
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    assert decayed.isdisjoint(exempt)
    assert {group["lr_scale"] for group in groups} == {0.5 ** (13 - i) for i in range(14)}


@pytest.mark.parametrize("arch", ALL)
def test_stochastic_depth_grows_with_depth(arch: str) -> None:
    backbone = loaded(f"random:{arch}", drop_path=0.9)
    rates = [
        {module.drop_prob for module in block.modules() if isinstance(module, DropPath)} or {0.0}
        for block in (backbone.get_submodule(name) for name in backbone._blocks)
    ]
    last = backbone.depth - 1
    assert [list(rate) for rate in rates] == [[pytest.approx(0.9 * i / last)] for i in range(last + 1)]
    for param in backbone.parameters():
        if param.ndim == 1:  # timm lets residual branches begin at zero, where dropping them changes nothing
            torch.nn.init.ones_(param)
    torch.manual_seed(0)
    backbone.train()
    first, second = backbone.pyramid(photo())[3], backbone.pyramid(photo())[3]
    assert not torch.equal(first, second)


def test_statistics_that_were_pretrained_stay_and_others_are_learned(tmp_path: Path) -> None:
    classifier(RESNET, tmp_path / "weights.safetensors")
    pretrained = loaded(f"file:{tmp_path}/weights.safetensors?arch={RESNET}").train()
    untrained = loaded(f"random:{RESNET}").train()
    tuned = loaded(f"file:{tmp_path}/weights.safetensors?arch={RESNET}").train()
    pretrained.fix_statistics()
    untrained.fix_statistics()
    for backbone, fixed in ((pretrained, True), (untrained, False), (tuned, False)):
        before = backbone.net.state_dict()["layer4.0.bn1.running_mean"].clone()
        backbone.pyramid(photo())[-1].sum().backward()
        after = backbone.net.state_dict()["layer4.0.bn1.running_mean"]
        assert torch.equal(before, after) == fixed
        assert all(param.grad is not None for param in backbone.parameters())
