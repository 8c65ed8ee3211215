"""Our loss, predictions, gradients and positions against the authors' code, as numbers.

The numbers were printed by facebookresearch/mae at commit efb2a8062c206524e35e47d04501ed4f544c0ae8, run
unchanged but for what current libraries need (timm's Block made to accept `qk_scale`, `numpy.float` given
back), in float64 on the weights, images and noise of `closed_form`: models_mae.MaskedAutoencoderViT with
img_size 24, patch 4, encoder 32 wide, 3 blocks, 4 heads, decoder 24 wide, 2 blocks, 3 heads, LayerNorm eps
1e-6; weights `fill(model.state_dict(), fixed=[both position tables])`, images `2 * numbers((4, 3, 24, 24),
1001)`; torch.rand was made to return the noise `(numbers((4, 36), 1002) + 1) / 2`. Sums are weighted with
`numbers(shape, 1003)` (predictions), 1004 (gradients), 1005 (position tables), so that places matter.
"""

from __future__ import annotations

import pytest
import torch

from mae_bench.backbones.architecture import build
from mae_bench.pretrain.export import load_official, official_state
from mae_bench.pretrain.model import MaskedAutoencoder
from mae_bench.pretrain.positions import sincos_2d
from tests.closed_form import fill, numbers

IMAGES = 2 * numbers((4, 3, 24, 24), 1001)
NOISE = (numbers((4, 36), 1002) + 1) / 2
ARCH = {"img_size": (24, 24), "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4}

# (norm_pix, mask ratio) -> loss
LOSS = {
    (True, 0.75): 2.0263495997011636,
    (True, 0.6): 1.9842448821812733,
    (False, 0.75): 2.3663212264465425,
    (False, 0.6): 2.3277163543652986,
}
# mask ratio -> the first three values predicted for patch 5 of image 1, and the weighted sum of all
PREDICTION = {
    0.75: ((-1.6796250357486253, 0.7540254638739659, 0.7761090007356803), -40.88023320544736),
    0.6: ((-2.126179786014979, 0.5895200402647871, 1.0023291983073999), -3.208454943269098),
}
# mask ratio -> the patches hidden in image 0
HIDDEN = {
    0.75: [
        0,
        1,
        2,
        3,
        5,
        6,
        7,
        11,
        12,
        13,
        15,
        17,
        18,
        19,
        20,
        21,
        22,
        23,
        25,
        26,
        27,
        28,
        29,
        30,
        32,
        33,
        35,
    ],
    0.6: [0, 2, 3, 5, 6, 7, 11, 12, 13, 17, 18, 19, 20, 21, 22, 23, 26, 27, 28, 32, 33, 35],
}
# Weighted sums of gradients with norm_pix, mask ratio 0.75.
GRADIENTS = {
    "encoder.patch_embed.proj.weight": 0.08368183306586119,
    "encoder.cls_token": 0.10567981404952927,
    "decoder.mask_token": -0.32180062770135254,
    "encoder.blocks.1.attn.qkv.weight": 0.0037134789690018224,
    "decoder.pred.weight": 0.3221404189749693,
    "encoder.norm.bias": 0.044297012730555856,
}
# (width, side of the grid) -> weighted sum of util/pos_embed.py's table without the class token
TABLES = {(16, 3): 0.6053015793725305, (768, 14): 58.84910906976393, (512, 16): -134.18958556188156}


def model(norm_pix: bool, ratio: float, dtype: torch.dtype = torch.float64) -> MaskedAutoencoder:
    encoder = build("vit_base_patch16_224", ARCH, channels=3, where="test")
    made = MaskedAutoencoder(
        encoder, decoder_dim=24, decoder_depth=2, decoder_heads=3, mask_ratio=ratio, norm_pix=norm_pix
    )
    made = made.double()
    load_official(made, fill(official_state(made), fixed=("pos_embed", "decoder_pos_embed")))
    return made.to(dtype)


@pytest.mark.parametrize(("norm_pix", "ratio"), LOSS)
def test_loss_in_double_precision(norm_pix: bool, ratio: float) -> None:
    loss = model(norm_pix, ratio)(IMAGES, noise=NOISE)
    assert loss.item() == pytest.approx(LOSS[norm_pix, ratio], rel=1e-12)


@pytest.mark.parametrize(("norm_pix", "ratio"), LOSS)
def test_loss_in_single_precision(norm_pix: bool, ratio: float) -> None:
    loss = model(norm_pix, ratio, torch.float32)(IMAGES.float(), noise=NOISE)
    assert loss.item() == pytest.approx(LOSS[norm_pix, ratio], rel=1e-6)


@pytest.mark.parametrize("ratio", PREDICTION)
def test_predictions_and_masks(ratio: float) -> None:
    found = model(True, ratio).reconstruct(IMAGES, noise=NOISE)
    few, weighted = PREDICTION[ratio]
    assert found.prediction[1, 5, :3].tolist() == pytest.approx(few, rel=1e-11)
    assert (found.prediction * numbers(found.prediction.shape, 1003)).sum().item() == pytest.approx(
        weighted, rel=1e-10
    )
    assert found.hidden[0].nonzero().flatten().tolist() == HIDDEN[ratio]


def test_gradients() -> None:
    made = model(True, 0.75)
    made(IMAGES, noise=NOISE).backward()
    params = dict(made.named_parameters())
    for name, expected in GRADIENTS.items():
        grad = params[name].grad
        assert grad is not None
        assert (grad * numbers(grad.shape, 1004)).sum().item() == pytest.approx(expected, rel=1e-8), name


@pytest.mark.parametrize(("width", "side"), TABLES)
def test_position_tables(width: int, side: int) -> None:
    table = sincos_2d(width, (side, side)).double()
    # Ours is float32, as is theirs once it is in the model.
    assert (table * numbers(table.shape, 1005)).sum().item() == pytest.approx(TABLES[width, side], rel=1e-6)
