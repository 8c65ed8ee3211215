"""One surface for every family: the same numbers as timm's own forward pass, and every task takes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from downstream.classification.classifier import Classifier
from downstream.detection import detector
from downstream.segmentation import segmenter
from downstream.segmentation.settings import SegmenterSettings
from mae_bench.backbones import Backbone, DenseViT, load_backbone
from mae_bench.backbones.blocks import through
from mae_bench.backbones.capabilities import CAPABILITIES
from mae_bench.backbones.plain import EvaBackbone
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.settings import OptimSettings
from tests.families import ALL, FLAT, HIERARCHICAL, PLAIN, any_backbone, other, pictures, plain, timms
from tests.tiny_detector import settings

PLAIN_SIZES = {"native": (16, 16), "larger": (24, 24), "oblong": (12, 32)}
# Swin V2 and Hiera are made for 256 and 224 pixels.
OTHER_SIZES = {"native": (224, 224), "larger": (256, 256), "oblong": (64, 128)}
CASES = [(family, size) for family in PLAIN for size in PLAIN_SIZES.values()]
STEPS = [(family, size) for family in HIERARCHICAL for size in OTHER_SIZES.values()]


# ---------------------------------------------------------------- the same numbers as timm


@pytest.mark.parametrize(("family", "size"), CASES)
def test_a_plain_vit_gives_timms_features_at_any_size(family: str, size: tuple[int, int]) -> None:
    backbone = plain(family)
    model: Any = timms(backbone, family, size)
    images = pictures(*size)
    with torch.no_grad():
        prefix, patches = backbone.tokens(images)
        theirs = model.forward_features(images)
        ours = backbone.maps(images, [0, 2, 3])
        maps = model.forward_intermediates(images, indices=[0, 2, 3], intermediates_only=True)
    rows, columns = size[0] // 4, size[1] // 4
    assert prefix.shape == (2, backbone.prefix_tokens, 24)
    assert patches.shape == (2, rows, columns, 24)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), theirs)
    for one, wanted in zip(ours, maps, strict=True):
        torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize(("family", "size"), STEPS)
def test_a_hierarchical_backbone_gives_timms_maps_at_any_size(family: str, size: tuple[int, int]) -> None:
    backbone: Any = other(HIERARCHICAL[family])
    model: Any = timms(backbone, family, size)
    images = pictures(*size)
    with torch.no_grad():
        ours = backbone.pyramid(images)
        theirs = model.forward_intermediates(images, indices=4, intermediates_only=True)
        prefix, cells = backbone.tokens(images)
        last = theirs[-1].permute(0, 2, 3, 1)
        norm = getattr(model, "norm", None) or getattr(getattr(model, "head", None), "norm", None)
        if norm is not None and list(norm.parameters()):
            last = nn.functional.layer_norm(last, last.shape[-1:], norm.weight, norm.bias, norm.eps)
    for one, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, wanted)
    assert prefix.shape == (2, 0, backbone.width)
    torch.testing.assert_close(cells, last)
    torch.testing.assert_close(backbone.maps(images, [1, -1]), [theirs[1], theirs[3]])


@pytest.mark.parametrize("family", FLAT)
def test_a_flat_backbone_gives_timms_features(family: str) -> None:
    backbone = other(FLAT[family])
    for size in ((224, 224), (96, 160)):
        model: Any = timms(backbone, family, size)
        images = pictures(*size)
        with torch.no_grad():
            prefix, patches = backbone.tokens(images)
            theirs = model.forward_features(images)
            maps = model.forward_intermediates(images, indices=[0, 11], intermediates_only=True)
            ours = backbone.maps(images, [11, 0])
        torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), theirs)
        torch.testing.assert_close(ours, maps[::-1])


@pytest.mark.parametrize("family", PLAIN)
def test_trunk_and_rest_make_tokens_wherever_they_are_cut(family: str) -> None:
    backbone: Any = plain(family)
    for size in ((16, 16), (24, 12)):
        images = pictures(*size)
        with torch.no_grad():
            whole = backbone.tokens(images)
            for blocks in range(5):
                parts = backbone.rest(backbone.trunk(images, blocks), blocks, backbone.grid(images))
                torch.testing.assert_close(parts, whole, rtol=0, atol=0)


# ---------------------------------------------------------------- layers, freezing, stochastic depth


@pytest.mark.parametrize("family", ALL)
def test_every_parameter_is_in_one_layer_in_depth_order(family: str) -> None:
    backbone = any_backbone(family)
    layers = backbone.layer_names()
    names = [name for name, _ in backbone.named_parameters()]
    assert len(layers) == backbone.depth + 2
    assert sorted(name for layer in layers for name in layer) == sorted(names)
    assert all(layers[:-1])
    place = {name: index for index, layer in enumerate(layers) for name in layer}
    groups = parameter_groups(backbone, OptimSettings(lr=0.1, layer_decay=0.5, weight_decay=0.1))
    for group in groups:
        assert {0.5 ** (backbone.depth + 1 - place[name]) for name in group["names"]} == {group["lr_scale"]}
    # A later layer hears of an earlier one, never the other way round.
    order = [place[name] for name in names if not name.startswith(("net.cls", "net.dist", "net.pos"))]
    if family not in PLAIN:
        assert order == sorted(order)
    assert backbone.no_weight_decay() <= set(names)


@pytest.mark.parametrize("family", ALL)
def test_what_is_frozen_gets_no_gradient_and_stays_as_it_is(family: str) -> None:
    backbone = any_backbone(family, drop_path=0.5)
    size = (16, 16) if family in PLAIN else (224, 224)
    for blocks in (1, backbone.depth, "all", 0):
        backbone.freeze(blocks)  # type: ignore[arg-type]
        backbone.train()
        layers = backbone.layer_names()
        count = {"all": len(layers), 0: 0}.get(blocks, 1 + blocks if isinstance(blocks, int) else 0)
        frozen = {name for layer in layers[:count] for name in layer}
        assert {name for name, p in backbone.named_parameters() if not p.requires_grad} == frozen
        modules = dict(backbone.named_modules())
        for name in frozen:
            module = modules[name.rpartition(".")[0]]
            if module is not getattr(backbone, "vit", None) and module is not getattr(backbone, "net", None):
                assert not module.training, name
    backbone.freeze(0)
    backbone.zero_grad()
    prefix, patches = backbone.tokens(pictures(*size))
    assert prefix.requires_grad or not prefix.numel()
    assert patches.requires_grad


@pytest.mark.parametrize("family", ALL)
def test_half_a_block_is_frozen_where_that_can_be_and_refused_where_not(family: str) -> None:
    backbone = any_backbone(family)
    if not backbone.halves:
        with pytest.raises(
            MaeBenchError, match=r"none of which can be halved, so the last 0\.5 cannot be tuned"
        ):
            backbone.trainable_from(0.5)
        return
    backbone.trainable_from(0.5)
    trained = {name for name, param in backbone.named_parameters() if param.requires_grad}
    last = f"vit.blocks.{backbone.depth - 1}."
    assert trained
    assert all(name.startswith((last, "vit.norm.")) for name in trained)
    assert not any(name.startswith((f"{last}attn.", f"{last}norm1.", f"{last}gamma_1")) for name in trained)
    assert any(name.startswith(f"{last}mlp.") for name in trained)


@pytest.mark.parametrize("family", ALL)
def test_stochastic_depth_grows_from_block_to_block(family: str) -> None:
    backbone = any_backbone(family, drop_path=0.6)
    rates = [module.drop_prob for module in backbone.modules() if isinstance(module, DropPath)]
    assert rates == sorted(rates)
    assert {round(rate, 6) for rate in rates} == {
        round(0.6 * index / (backbone.depth - 1), 6) for index in range(1, backbone.depth)
    }


# ---------------------------------------------------------------- every task takes it


def without_gradient(model: nn.Module) -> list[str]:
    return [name for name, param in model.named_parameters() if param.requires_grad and param.grad is None]


def complete(model: Any) -> None:
    """Layers for layer decay hold every parameter of a task's model once."""
    names = [name for layer in model.layer_names() for name in layer]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def canvas(family: str) -> tuple[int, int]:
    if family in PLAIN:
        return (32, 48)
    # A DeiT of one size takes others by resampling; a Hiera takes whole mask units.
    return (64, 96)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", ALL)
def test_classification_takes_it(family: str, pooling: Any) -> None:
    backbone = any_backbone(family)
    if pooling == "cls" and not backbone.has_class_token:
        with pytest.raises(MaeBenchError, match="has no class token; use pooling=mean"):
            Classifier(backbone, 5, pooling)
        return
    model = Classifier(backbone, 5, pooling, head_std=0.02).train()
    complete(model)
    logits = model(pictures(*canvas(family)))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    unused = without_gradient(model)
    # timm's own networks may keep what only their classifiers use.
    assert unused == [] or family in FLAT


def detection(family: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    height, width = canvas(family)
    images = [(torch.rand(3, height, width - 4 * i) * 255).to(torch.uint8) for i in range(2)]
    truth = {
        "boxes": torch.tensor([[2.0, 2, 28, 28]]),
        "labels": torch.tensor([2]),
        "masks": torch.ones(1, height, width),
    }
    return images, [{**truth, "masks": truth["masks"][:, :, : image.shape[2]]} for image in images]


@pytest.mark.parametrize("family", ALL)
def test_coco_takes_it(family: str) -> None:
    backbone = any_backbone(family)
    torch.manual_seed(0)
    blocks = {"window": 3, "global_blocks": [backbone.depth - 1]}
    model = detector.build(backbone, 3, settings(attention=blocks), canvas(family)).train()
    complete(model)
    images, truth = detection(family)
    losses = model(images, truth)
    assert isinstance(losses, dict)
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert without_gradient(model) == []
    with torch.no_grad():
        assert len(model.eval()(images)) == 2
    said = [one for one in model.departures if "attends globally" in one]
    assert bool(said) == (not backbone.windows and not backbone.hierarchical)


@pytest.mark.parametrize("head", ["uper", "linear"])
@pytest.mark.parametrize("family", ALL)
def test_ade20k_takes_it(family: str, head: Any) -> None:
    backbone = any_backbone(family)
    frozen = head == "linear"
    config = SegmenterSettings(
        head=head,
        channels=8,
        auxiliary_channels=4,
        blocks="last" if frozen else "quarters",
        relative_positions=not frozen,
        final_norm=frozen,
        freeze=frozen,
    )
    model = segmenter.build(backbone, 3, config, canvas(family)).train()
    complete(model)
    logits = model(pictures(*canvas(family)))
    finest = 4 if backbone.hierarchical else (1 if family in PLAIN else 4)
    if frozen:
        finest = backbone.patch_size[0]
    assert logits.main.shape == (2, 3, *(side // finest for side in canvas(family)))
    target = torch.zeros(2, *canvas(family), dtype=torch.int64)
    segmenter.loss(logits, target, 0.4)["loss"].backward()
    assert without_gradient(model) == []
    if frozen:
        trained = {name for name, param in model.named_parameters() if param.requires_grad}
        assert trained
        assert all(name.startswith("head.") for name in trained)


@pytest.mark.parametrize("family", PLAIN)
def test_a_window_over_the_whole_image_is_global_attention(family: str) -> None:
    """Windows, prefix tokens and rotary positions by another way round: one window as large as the image."""
    images = pictures(16, 16)
    with torch.no_grad():
        expected = plain(family).maps(images, [0, 1, 2, 3])
        backbone = plain(family)
        assert backbone.windows
        dense = DenseViT(
            backbone,  # type: ignore[arg-type]
            grid=(4, 4),
            window=4,
            relative="decomposed",
            prefix_tokens="keep",
        ).eval()
        found = dense(images, [0, 1, 2, 3])
    assert dense.departures == []
    for one, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("prefix", ["keep", "drop"])
def test_windows_are_images_of_their_own(family: str, prefix: Any) -> None:
    """A block in windows is the block on each window's patches, with their places in the whole image."""
    backbone: Any = plain(family)
    positions = isinstance(backbone, EvaBackbone)
    dense = DenseViT(backbone, grid=(4, 4), window=2, prefix_tokens=prefix).eval()
    images = pictures(16, 16)
    with torch.no_grad():
        (found,) = dense(images, [0])
        x = dense._embed(images, (4, 4))
        count = backbone.prefix_tokens
        context = backbone.context((4, 4))
        block = backbone.vit.blocks[0]
        patches = x[:, count:].unflatten(1, (4, 4))
        expected = torch.zeros_like(patches)
        for row in (0, 2):
            for column in (0, 2):
                own = patches[:, row : row + 2, column : column + 2].flatten(1, 2)
                tokens = torch.cat([x[:, :count], own], dim=1)
                rope = backbone.rope_of(0, context) if positions else None
                if rope is not None:
                    rope = rope.unflatten(-2, (4, 4))[..., row : row + 2, column : column + 2, :].flatten(
                        -3, -2
                    )
                block.attn.window = None
                out = through(block, tokens, lambda y, rope=rope: block.attn(y, (2, 2), rope))
                block.attn.window = 2
                expected[:, row : row + 2, column : column + 2] = out[:, count:].unflatten(1, (2, 2))
    torch.testing.assert_close(found, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("family", ["ViT", "EVA-02", "BEiT", "ConvNeXt", "Swin", "Hiera", "XCiT"])
def test_computing_activations_again_changes_no_gradient(family: str) -> None:
    config = SegmenterSettings(channels=8, auxiliary_weight=0, dropout=0)
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        model = segmenter.build(
            any_backbone(family), 3, config.model_copy(update={"checkpointing": again}), canvas(family)
        ).train()
        model(pictures(*canvas(family))).main.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


# ---------------------------------------------------------------- what is said of them


@pytest.mark.parametrize("row", [row for row in CAPABILITIES if row.example_arch], ids=lambda row: row.label)
def test_the_table_of_capabilities_says_what_is_so(row: Any) -> None:
    spec = f"random:{row.example_arch}"
    small = {"embed_dim": 24, "depth": 4, "num_heads": 2} if row.layout in ("vit", "beit", "eva") else {}
    backbone: Backbone = load_backbone(spec, model_args=small)
    if row.family:
        assert backbone.family == row.family
    assert backbone.hierarchical == row.hierarchical
    assert (backbone.windows, backbone.halves, backbone.splits) == (row.windows, row.halves, row.splits)
    if row.class_token is not None:
        assert backbone.has_class_token == row.class_token
    if row.registers is not None:
        assert (backbone.prefix_tokens - backbone.has_class_token > 0) == row.registers
