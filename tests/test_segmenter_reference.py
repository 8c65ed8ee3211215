"""UperNet over the MAE backbone, its loss, groups and learning rates against mmsegmentation, as numbers.

The numbers were printed by mmsegmentation 1.2.2 with mmengine 0.10.7 and mmcv-lite 2.1.0 on torch 2.15, CPU,
float64: the model of its configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py with SyncBN replaced by
BN and made small (backbone img_size 64, patch 16, embed_dims 32, num_layers 4, num_heads 2, drop_path_rate 0,
out_indices 0 to 3; neck embed_dim 32; heads' in_channels 32, channels 16 and 8, 5 classes, dropout_ratio 0).
It got the weights `weights()` gives, each under the name that its own code has for the parameter. Logits are
decode_head(neck(backbone(IMAGES))) and auxiliary_head(the same), losses those of the heads' loss_by_feat on
`target()`, gradients those of their sum. Sums are weighted with `numbers(shape, stream)`, so that places
matter: stream 2002 for logits, 2003 for auxiliary ones, 2004 for gradients, 2005 for running statistics.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from downstream.segmentation.segmenter import Segmenter, build, loss
from downstream.segmentation.settings import SegmenterSettings
from mae_bench.backbones import load_backbone
from mae_bench.optim import parameter_groups, scheduled_lr
from mae_bench.settings import OptimSettings
from tests.closed_form import fill, numbers

BACKBONE = "random:vit_base_patch16_224?embed_dim=32&depth=4&num_heads=2"
IMAGES = 2 * numbers((2, 3, 64, 64), 2001)
CLASSES = 5

# Mode -> logits of image 1 at row 3, column 7, and the weighted sum of all.
LOGITS = {
    "eval": (
        [
            0.13893003644891713,
            0.3076868314083471,
            -0.12539220947034846,
            -0.15712871795681282,
            -0.06328891720209198,
        ],
        6.179983779187056,
    ),
    "train": (
        [
            -0.7976421067852196,
            0.4204974707671849,
            -0.5926924233463091,
            0.0661784386617768,
            0.6076619100026982,
        ],
        1.170272317937361,
    ),
}
# Logits of the auxiliary head in training for image 1 at row 2, column 1, and the weighted sum of all.
AUXILIARY = (
    [0.42949663590653053, 0.16723114141057627, -0.4392061625737769, 0.3495999642255403, -0.23044429194047708],
    -2.6750345990508624,
)
# In training: the head's loss, and the auxiliary head's with its weight of 0.4.
LOSSES = (1.462878160725712, 0.5739607701727452)
GRADIENTS = {
    "backbone.backbone.vit.patch_embed.proj.weight": -0.08185031013157365,
    "backbone.backbone.vit.blocks.1.attn.relative_position_bias_table": -0.0006099299631960681,
    "backbone.backbone.vit.blocks.2.ls1.gamma": -0.0030738190879818416,
    "rescaling.quadrupled.0.weight": -0.01812149361493884,
    "head.pooling.branches.2.conv.weight": -0.003787148407262254,
    "head.pooling.fuse.conv.weight": -0.8172248165384804,
    "head.laterals.1.norm.weight": 0.0027755879127798443,
    "head.smooths.0.conv.weight": 0.06601435808575398,
    "head.fuse.conv.weight": -0.6500189491666806,
    "head.classify.conv.weight": 0.00846330983280251,
    "auxiliary.conv.conv.weight": -0.04236936204198091,
}
RUNNING = {
    "head.fuse.norm.running_mean": 0.04361086723194499,
    "head.pooling.branches.0.norm.running_var": -1.292405645344267,
}
# (lr_scale, weight_decay) that LayerDecayOptimizerConstructor (num_layers 4, layer_decay_rate 0.65, AdamW,
# weight_decay 0.05) gives to the small model's parameters; and how many parameters it gives each pair to. It
# does mean to leave positions and class token undecayed, but looks for their names without `backbone.`.
GROUPS = {
    "backbone.backbone.vit.cls_token": (0.11602906250000002, 0.05),
    "backbone.backbone.vit.pos_embed": (0.11602906250000002, 0.05),
    "backbone.backbone.vit.patch_embed.proj.bias": (0.11602906250000002, 0.0),
    "backbone.backbone.vit.blocks.0.attn.qkv.weight": (0.17850625000000003, 0.05),
    "backbone.backbone.vit.blocks.1.attn.relative_position_bias_table": (0.274625, 0.05),
    "backbone.backbone.vit.blocks.2.ls2.gamma": (0.42250000000000004, 0.0),
    "backbone.backbone.vit.blocks.3.norm1.weight": (0.65, 0.0),
    "rescaling.quadrupled.1.weight": (1.0, 0.0),
    "rescaling.doubled.weight": (1.0, 0.05),
    "head.fuse.conv.weight": (1.0, 0.05),
    "head.fuse.norm.bias": (1.0, 0.0),
    "auxiliary.classify.conv.weight": (1.0, 0.05),
}
COUNTS = {
    (0.11602906250000002, 0.0): 1,
    (0.11602906250000002, 0.05): 3,
    (0.17850625000000003, 0.0): 10,
    (0.17850625000000003, 0.05): 5,
    (0.274625, 0.0): 10,
    (0.274625, 0.05): 5,
    (0.42250000000000004, 0.0): 10,
    (0.42250000000000004, 0.05): 5,
    (0.65, 0.0): 10,
    (0.65, 0.05): 5,
    (1.0, 0.0): 33,
    (1.0, 0.05): 18,
}
# Iteration -> learning rate of LinearLR(start_factor=1e-6, begin=0, end=1500) and PolyLR(power=1, begin=1500,
# end=160000), both by iteration, from 1e-4, stepped one by one.
RATES = {
    0: 1e-10,
    1: 6.681107404936625e-08,
    2: 1.335221480987325e-07,
    749: 4.996669446297539e-05,
    1498: 9.993328892595024e-05,
    1499: 9.999999999999961e-05,
    1500: 9.999999999999961e-05,
    1501: 9.999936908119256e-05,
    1502: 9.99987381623855e-05,
    80000: 5.0472873645912775e-05,
    159998: 6.309188070585382e-10,
    159999: 0.0,
}
OPTIM = OptimSettings(
    lr=1e-4,
    weight_decay=0.05,
    layer_decay=0.65,
    decay_positions=True,
    schedule="poly",
    power=1.0,
    warmup_steps=1500,
    warmup_factor=1e-6,
)


def segmenter() -> Segmenter:
    """The small model."""
    config = SegmenterSettings(
        blocks=[0, 1, 2, 3], channels=16, auxiliary_channels=8, dropout=0.0, layer_scale=1.0
    )
    return build(load_backbone(BACKBONE), CLASSES, config, (64, 64))


def weights(model: Segmenter) -> dict[str, Tensor]:
    """`fill`, but for the variances of batch norms, which must be positive."""
    state = model.state_dict()
    counts = [name for name in state if name.endswith("num_batches_tracked")]
    new = fill(state, fixed=counts)
    for name in new:
        if name.endswith("running_var"):
            new[name] = 1 + new[name]
    return new


def target() -> Tensor:
    """Classes 0..4 in blocks of 3 x 5 pixels; a seventh of the pixels ignored."""
    row, column = torch.arange(64)[:, None], torch.arange(64)[None]
    labels = torch.stack([(row // 3 + column // 5 + image) % CLASSES for image in range(2)])
    return torch.where((row * 5 + column * 3) % 7 == 0, 255, labels)


def weighted(x: Tensor, stream: int) -> float:
    return float((x.detach() * numbers(x.shape, stream)).sum())


@pytest.fixture
def model() -> Segmenter:
    made = segmenter().double()
    made.load_state_dict(weights(made))
    return made


def test_logits_equal_the_reference(model: Segmenter) -> None:
    with torch.no_grad():
        main, auxiliary = model.eval()(IMAGES)
    point, total = LOGITS["eval"]
    assert main.shape == (2, CLASSES, 16, 16)
    assert auxiliary is None
    assert main[1, :, 3, 7].tolist() == pytest.approx(point, abs=1e-9)
    assert weighted(main, 2002) == pytest.approx(total, abs=1e-8)


def test_training_equals_the_reference_to_the_gradients(model: Segmenter) -> None:
    logits = model.train()(IMAGES)
    point, total = LOGITS["train"]
    assert logits.main[1, :, 3, 7].tolist() == pytest.approx(point, abs=1e-9)
    assert weighted(logits.main, 2002) == pytest.approx(total, abs=1e-8)
    assert logits.auxiliary is not None
    assert logits.auxiliary[1, :, 2, 1].tolist() == pytest.approx(AUXILIARY[0], abs=1e-9)
    assert weighted(logits.auxiliary, 2003) == pytest.approx(AUXILIARY[1], abs=1e-8)
    losses = loss(logits, target(), 0.4)
    assert losses["main"].item() == pytest.approx(LOSSES[0], rel=1e-6)
    assert losses["loss"].item() == pytest.approx(sum(LOSSES), rel=1e-6)
    losses["loss"].backward()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for name, value in GRADIENTS.items():
        gradient = parameters[name].grad
        assert gradient is not None
        assert weighted(gradient, 2004) == pytest.approx(value, rel=2e-5, abs=1e-7), name
    for name, value in RUNNING.items():
        assert weighted(buffers[name], 2005) == pytest.approx(value, rel=1e-9), name


def test_single_precision_stays_close_to_the_reference(model: Segmenter) -> None:
    with torch.no_grad():
        main = model.float().eval()(IMAGES.float()).main
    assert main[1, :, 3, 7].tolist() == pytest.approx(LOGITS["eval"][0], abs=1e-5)


def test_parameter_groups_equal_the_reference(model: Segmenter) -> None:
    groups = parameter_groups(model, OPTIM)
    found = {name: (group["lr_scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert {name: found[name] for name in GROUPS} == GROUPS
    assert {pair: list(found.values()).count(pair) for pair in found.values()} == COUNTS


@pytest.mark.parametrize("step", RATES)
def test_learning_rate_equals_the_reference(step: int) -> None:
    rate = scheduled_lr(OPTIM, step, 160_000, peak=1e-4, warmup_steps=1500)
    assert rate == pytest.approx(RATES[step], rel=1e-10, abs=1e-20)
