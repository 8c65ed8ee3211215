"""The classifier against the reference implementation, and what is trained and frozen in it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from downstream.classification.classifier import Classifier, pooled
from mae_bench.backbones import Backbone, load_backbone
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.settings import OptimSettings
from tests.colours import BACKBONE

# Made with facebookresearch/mae @ efb2a80: models_vit.VisionTransformer(img_size=16, patch_size=4,
# embed_dim=24, depth=3, num_heads=3, mlp_ratio=4, qkv_bias=True, norm_layer=LayerNorm(eps=1e-6), num_classes=5),
# weights and images as `fill` and `images` make them, `model.head(model.forward_features(images))` in evaluation
# mode, with timm 1.0.31 and torch 2.15 on a CPU. `mean` is global_pool=True, `cls` is global_pool=False.
REFERENCE_LOGITS = {
    "mean": [
        [
            0.36171260476112366,
            -0.6165347099304199,
            0.49259114265441895,
            -0.30565711855888367,
            0.08203227818012238,
        ],
        [0.381422758102417, -0.6105750799179077, 0.4626869559288025, -0.2604662775993347, 0.0346381738781929],
    ],
    "cls": [
        [
            0.12273335456848145,
            -0.36333468556404114,
            0.2984755337238312,
            -0.22682540118694305,
            0.14130747318267822,
        ],
        [
            0.12189596891403198,
            -0.3620750904083252,
            0.2971583902835846,
            -0.22583205997943878,
            0.14092551171779633,
        ],
    ],
}
# util/lr_decay.py's param_groups_lrd(model, 0.05, model.no_weight_decay(), layer_decay=0.65) of the same commit on
# the same model: (lr_scale, weight_decay) of one weight and one bias of each layer, and of what is exempt.
REFERENCE_GROUPS = {
    "cls_token": (0.17850625000000003, 0.0),
    "pos_embed": (0.17850625000000003, 0.0),
    "patch_embed.proj.weight": (0.17850625000000003, 0.05),
    "patch_embed.proj.bias": (0.17850625000000003, 0.0),
    "blocks.0.attn.qkv.weight": (0.274625, 0.05),
    "blocks.0.norm1.weight": (0.274625, 0.0),
    "blocks.1.mlp.fc1.weight": (0.42250000000000004, 0.05),
    "blocks.1.mlp.fc1.bias": (0.42250000000000004, 0.0),
    "blocks.2.attn.proj.weight": (0.65, 0.05),
    "blocks.2.norm2.bias": (0.65, 0.0),
    "head.weight": (1.0, 0.05),
    "head.bias": (1.0, 0.0),
}
REFERENCE_NORM = {"mean": "fc_norm", "cls": "norm"}
# How many parameters each of its groups holds: embeddings, three blocks, and norm with head.
REFERENCE_GROUP_SIZES = [1, 3, 8, 4, 8, 4, 8, 4, 3, 1]


def reference_name(name: str) -> str:
    return name.removeprefix("backbone.vit.")


def fill(name: str, shape: torch.Size) -> Tensor:
    """Weights that both implementations can make from a parameter's name in the reference."""
    wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.37 + sum(name.encode()) % 97)
    base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return (base + 0.1 * wave).reshape(shape).float()


def images() -> Tensor:
    return torch.sin(torch.arange(2 * 3 * 16 * 16, dtype=torch.float64) * 0.013).reshape(2, 3, 16, 16).float()


def tiny(depth: int = 3) -> Backbone:
    return load_backbone(BACKBONE.replace("depth=2", f"depth={depth}"))


def filled(pooling: str) -> Classifier:
    model = Classifier(tiny(), 5, pooling)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(fill(reference_name(name), param.shape))
    return model.eval()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_logits_equal_the_reference(pooling: str) -> None:
    with torch.no_grad():
        logits = filled(pooling)(images())
    torch.testing.assert_close(logits, torch.tensor(REFERENCE_LOGITS[pooling]), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_layer_decay_groups_equal_the_reference(pooling: str) -> None:
    settings = OptimSettings(lr=1.0, layer_decay=0.65, weight_decay=0.05)
    groups = parameter_groups(filled(pooling), settings)
    found = {
        reference_name(name): (group["lr_scale"], group["weight_decay"])
        for group in groups
        for name in group["names"]
    }
    norm = REFERENCE_NORM[pooling]
    expected = {**REFERENCE_GROUPS, f"{norm}.weight": (1.0, 0.0), f"{norm}.bias": (1.0, 0.0)}
    assert {name: found[name] for name in expected} == {
        name: (pytest.approx(scale, rel=1e-12), decay) for name, (scale, decay) in expected.items()
    }
    # Every parameter is in exactly one group, and the groups have the reference's sizes.
    assert sorted(found) == sorted(reference_name(name) for name, _ in filled(pooling).named_parameters())
    assert sorted(len(group["names"]) for group in groups) == sorted(REFERENCE_GROUP_SIZES)


def test_a_fresh_classifier_has_the_releases_initial_head() -> None:
    torch.manual_seed(0)
    model = Classifier(tiny(), 500, "mean")
    assert float(model.head.weight.detach().std()) == pytest.approx(2e-5, rel=0.05)
    assert not model.head.bias.any()
    assert torch.equal(model.fc_norm.weight, torch.ones(24))
    assert not any("vit.norm." in name for name, _ in model.named_parameters())


def test_class_token_pooling_keeps_the_backbones_norm() -> None:
    model = Classifier(tiny(), 5, "cls")
    assert any("vit.norm." in name for name, _ in model.named_parameters())
    with torch.no_grad():
        features = pooled(model.backbone.eval(), images(), "cls")
        torch.testing.assert_close(model.eval()(images()), model.head(features))


def test_no_class_token_to_pool() -> None:
    backbone = load_backbone(BACKBONE, model_args={"class_token": False})
    with pytest.raises(MaeBenchError, match="no class token; use pooling=mean"):
        Classifier(backbone, 5, "cls")


@pytest.mark.parametrize("blocks", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_partial_changes_exactly_what_is_tuned(blocks: float, pooling: str) -> None:
    backbone = tiny()
    backbone.set_drop_path(0.3)
    backbone.trainable_from(blocks)
    model = Classifier(backbone, 5, pooling, head_std=0.1)  # type: ignore[arg-type]
    model.train()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], lr=1.0)
    # Enough images that stochastic depth skips no branch for all of them.
    torch.manual_seed(0)
    model(torch.cat([images()] * 6)).square().sum().backward()
    optimizer.step()
    changed = {
        reference_name(name) for name, param in model.named_parameters() if not param.equal(before[name])
    }

    tuned = {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    if blocks > 0:
        tuned |= {"norm.weight", "norm.bias"}
    mlp = ("norm2.", "mlp.")
    for index in range(3):
        whole = index >= 3 - int(blocks)
        half = index == 2 - int(blocks) and blocks % 1 == 0.5
        for name in before:
            _, found, inside = reference_name(name).partition(f"blocks.{index}.")
            if found and (whole or (half and inside.startswith(mlp))):
                tuned.add(reference_name(name))
    if blocks == 3:
        tuned |= {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert changed == tuned & {reference_name(name) for name in before}


@pytest.mark.parametrize("blocks", [0.0, 0.5, 1.0, 2.0])
def test_frozen_tokens_stand_for_the_images(blocks: float) -> None:
    backbone = tiny()
    backbone.set_drop_path(0.5)
    backbone.trainable_from(blocks)
    model = Classifier(backbone, 5, "mean", head_std=0.1).train()
    tokens = model.frozen_tokens(images())
    assert not tokens.requires_grad
    gradients = []
    for given in (images(), tokens):
        model.zero_grad()
        torch.manual_seed(3)
        model(given).square().sum().backward()
        gradients.append([param.grad for param in model.parameters() if param.requires_grad])
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert torch.equal(ours, theirs)
