"""The masked autoencoder: patches, positions, what each part sees, gradients, initial weights, key formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mae_bench import load_backbone
from mae_bench.backbones.architecture import build, checked_arguments
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.pretrain import masking
from mae_bench.pretrain.export import load_official, official_state, save_official
from mae_bench.pretrain.model import MaskedAutoencoder
from mae_bench.pretrain.positions import sincos_2d
from mae_bench.pretrain.targets import denormalise_patches, normalise_patches, patchify, unpatchify
from mae_bench.settings import OptimSettings
from tests.closed_form import numbers

TINY = {"img_size": (16, 24), "patch_size": (4, 6), "embed_dim": 24, "depth": 2, "num_heads": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "no class token": {"class_token": False},
    "registers": {"reg_tokens": 2},
    "registers without position": {"reg_tokens": 2, "no_embed_class": True},
    "only registers": {"reg_tokens": 2, "class_token": False},
    "norm before the blocks": {"pre_norm": True},
    "LayerScale and normed queries": {"init_values": 0.1, "qk_norm": True},
}


def tiny(channels: int = 3, arguments: dict[str, Any] | None = None, **options: Any) -> MaskedAutoencoder:
    values = checked_arguments({**TINY, **(arguments or {})}, "test")
    encoder = build("vit_tiny_patch16_224", values, channels=channels, where="test")
    sizes = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
    torch.manual_seed(0)
    return MaskedAutoencoder(encoder, **{**sizes, **options}).double()


def images(count: int = 3, channels: int = 3) -> Tensor:
    return 2 * numbers((count, channels, 16, 24), 7)


def noise(count: int = 3, patches: int = 16) -> Tensor:
    return numbers((count, patches), 8)


# ---------------------------------------------------------------- patches and positions


def test_patchify_and_back() -> None:
    pictures = numbers((2, 5, 6, 20), 1)
    patches = patchify(pictures, (3, 4))
    assert patches.shape == (2, 10, 60)
    assert torch.equal(unpatchify(patches, (3, 4), (2, 5)), pictures)


def test_a_patch_holds_its_pixels_row_by_row_channels_last() -> None:
    pictures = numbers((1, 2, 6, 8), 1)
    patch = patchify(pictures, (3, 4))[0, 3]  # second row, second column of 2 x 2
    assert torch.equal(patch.view(3, 4, 2), pictures[0, :, 3:6, 4:8].permute(1, 2, 0))


def test_normalised_patches() -> None:
    patches = 5 + 3 * numbers((2, 4, 12), 2)
    found = normalise_patches(patches)
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 4, dtype=torch.float64))
    # Unbiased: the squares sum to V - 1, less what epsilon takes.
    torch.testing.assert_close(
        found.square().sum(-1) / 11, torch.ones(2, 4, dtype=torch.float64), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(denormalise_patches(found, patches), patches)
    assert torch.equal(normalise_patches(torch.full((1, 1, 12), 3.0)), torch.zeros(1, 1, 12))


def test_positions_of_a_grid_that_is_not_square() -> None:
    table = sincos_2d(8, (3, 5)).view(3, 5, 8)
    assert torch.equal(table[0, 0], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]))
    assert torch.equal(table[:, 2, :4], table[:1, 2, :4].expand(3, -1))  # the first half tells the column
    assert torch.equal(table[2, :, 4:], table[2, :1, 4:].expand(5, -1))  # the second half tells the row
    assert table[0, 3, 0].item() == pytest.approx(torch.tensor(3.0).sin().item(), rel=1e-6)
    assert table[2, 0, 5].item() == pytest.approx(torch.tensor(0.02).sin().item(), rel=1e-6)
    assert len(torch.unique(table.view(15, 8), dim=0)) == 15


def test_positions_need_a_width_divisible_by_four() -> None:
    with pytest.raises(MaeBenchError, match="divisible by 4, not 6"):
        sincos_2d(6, (2, 2))


# ---------------------------------------------------------------- what each part sees


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_encoder_is_timms_on_the_visible_patches(arguments: dict[str, Any]) -> None:
    model = tiny(arguments=arguments)
    vit = model.encoder
    visible, _ = masking.split(noise(), model.kept)
    # timm's own way: embed and place all patches, then leave some out.
    tokens = vit._pos_embed(vit.patch_embed(images()))
    prefix = vit.num_prefix_tokens
    chosen = tokens[:, prefix:].gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
    expected = vit.norm(vit.blocks(vit.norm_pre(torch.cat([tokens[:, :prefix], chosen], dim=1))))
    assert expected.shape == (3, prefix + 4, 24)
    torch.testing.assert_close(model.encode(images(), noise=noise()), expected)


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_order_of_the_tokens_does_not_matter(arguments: dict[str, Any]) -> None:
    model = tiny(arguments=arguments, norm_pix=False)
    decoder, prefix = model.decoder, model.encoder.num_prefix_tokens
    visible, _ = masking.split(noise(), model.kept)
    # The decoder as the paper draws it: mask tokens put at their places among the others.
    embedded = decoder.embed(model.encode(images(), noise=noise()))
    full = decoder.mask_token.expand(3, 16, -1).clone()
    full = full.scatter(1, visible[..., None].expand(-1, -1, 16), embedded[:, prefix:])
    full = torch.cat([embedded[:, :prefix], full], dim=1) + decoder.pos_embed
    predicted = decoder.pred(decoder.norm(decoder.blocks(full)))[:, prefix:]
    found = model.reconstruct(images(), noise=noise())
    torch.testing.assert_close(found.prediction, predicted)
    assert torch.equal(found.hidden.sum(1), torch.full((3,), 12))
    torch.testing.assert_close(found.images, unpatchify(predicted, (4, 6), (4, 4)))
    target = patchify(images(), (4, 6))
    squares = (predicted - target).square().mean(-1)
    by_hand = (squares * found.hidden).sum() / found.hidden.sum()
    torch.testing.assert_close(model(images(), noise=noise()), by_hand)
    model.loss_on = "all"
    torch.testing.assert_close(model(images(), noise=noise()), squares.mean())


def test_hidden_pixels_are_not_seen() -> None:
    model = tiny()
    before = images()
    hidden = model.reconstruct(before, noise=noise()).hidden
    where = unpatchify(hidden[..., None].expand(-1, -1, 72), (4, 6), (4, 4))
    after = torch.where(where, before.flip(0) + 5, before)
    assert torch.equal(model.encode(after, noise=noise()), model.encode(before, noise=noise()))
    assert model(after, noise=noise()) != model(before, noise=noise())


@pytest.mark.parametrize(("loss_on", "predicted"), [("masked", 12), ("all", 16)])
def test_work_is_done_only_where_it_counts(loss_on: Any, predicted: int) -> None:
    model = tiny(loss_on=loss_on)
    seen: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Any:
        def note(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            seen[name] = tuple(given[0].shape)

        return note

    parts = {"encoder": model.encoder.blocks[0], "decoder": model.decoder.blocks[0]}
    for name, module in {**parts, "norm": model.decoder.norm, "pred": model.decoder.pred}.items():
        module.register_forward_hook(watch(name))
    model(images(), noise=noise())
    assert seen == {
        "encoder": (3, 1 + 4, 24),
        "decoder": (3, 1 + 16, 16),
        "norm": (3, predicted, 16),
        "pred": (3, predicted, 16),
    }


def test_normalisation_of_the_target_is_undone_in_the_pictures() -> None:
    model = tiny(norm_pix=True)
    found = model.reconstruct(images(), noise=noise())
    patches = patchify(images(), (4, 6))
    expected = denormalise_patches(found.prediction, patches)
    torch.testing.assert_close(patchify(found.images, (4, 6)), expected)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channel_counts(channels: int) -> None:
    model = tiny(channels)
    assert model.decoder.pred.out_features == 4 * 6 * channels
    model(images(3, channels), noise=noise()).backward()


def test_masks_follow_from_keys() -> None:
    model = tiny()
    keys = torch.tensor([5, 6, 7])
    drawn = masking.noise("random", keys, (4, 4), 0.75)
    losses = model.losses(images(), keys)
    assert torch.equal(losses, model.losses(images(), noise=drawn))
    alone = torch.cat([model.losses(images()[i : i + 1], keys[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, losses)
    with pytest.raises(ValueError, match="one of the two"):
        model(images())


def test_bf16_is_near() -> None:
    model = tiny().float()
    exact = model(images().float(), noise=noise())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images().float(), noise=noise())
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=5e-3)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_weight_learns_and_positions_stay(arguments: dict[str, Any]) -> None:
    model = tiny(arguments=arguments)
    model(images(), noise=noise()).backward()
    without = {name for name, param in model.named_parameters() if param.grad is None}
    assert without == {"encoder.pos_embed", "decoder.pos_embed"}
    assert model.no_weight_decay() == set()


def test_learned_positions() -> None:
    model = tiny(positions="learned")
    model(images(), noise=noise()).backward()
    assert all(param.grad is not None for param in model.parameters())
    assert model.encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.no_weight_decay() == {"encoder.pos_embed", "decoder.pos_embed"}


def test_weight_decay_exempts_biases_and_norms_alone() -> None:
    model = tiny()
    groups = parameter_groups(model, OptimSettings(lr=1e-3, weight_decay=0.05))
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    exempt = {name for group in groups if not group["weight_decay"] for name in group["names"]}
    assert {"encoder.cls_token", "decoder.mask_token", "encoder.patch_embed.proj.weight"} <= decayed
    assert all("norm" in name or name.endswith("bias") for name in exempt)
    assert not any("norm" in name or name.endswith("bias") for name in decayed)
    assert len(decayed) + len(exempt) == len(list(model.parameters())) - 2  # without the positions


def test_initial_weights() -> None:
    encoder = build("vit_tiny_patch16_224", {"img_size": (32, 32), "depth": 2}, channels=3, where="test")
    model = MaskedAutoencoder(encoder, decoder_dim=128, decoder_depth=1, decoder_heads=2)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            limit = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.98 * limit < module.weight.abs().max() <= limit, name
            assert module.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.05), name
            assert not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6, name
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    kernel = encoder.patch_embed.proj.weight
    limit = (6 / (3 * 16 * 16 + 192)) ** 0.5
    assert 0.98 * limit < kernel.abs().max() <= limit
    assert model.decoder.mask_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert encoder.cls_token is not None
    assert encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    for table, width in ((encoder.pos_embed, 192), (model.decoder.pos_embed, 128)):
        assert table is not None
        assert torch.equal(table[0, 0], torch.zeros(width))
        assert torch.equal(table[0, 1:], sincos_2d(width, (2, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_heads": 3}, "decoder.dim: 16 is not divisible by decoder.heads 3"),
        ({"decoder_dim": 18}, "divisible by 4, not 18"),
        ({"mask_ratio": 0.99}, "leaves 0 of 16 patches"),
        ({"kind": "grid", "mask_ratio": 0.5}, "grid-wise"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        tiny(**options)


# ---------------------------------------------------------------- the authors' key format


def test_official_names() -> None:
    names = set(official_state(tiny()))
    assert {"cls_token", "pos_embed", "mask_token", "decoder_pos_embed", "decoder_embed.weight"} <= names
    assert {"blocks.1.attn.qkv.weight", "decoder_blocks.1.mlp.fc2.bias", "decoder_norm.weight"} <= names
    assert {"norm.bias", "decoder_pred.bias", "patch_embed.proj.weight"} <= names
    assert not any(name.startswith(("encoder", "decoder.")) for name in names)


def test_official_file_and_back(tmp_path: Path) -> None:
    model, other = tiny().float(), tiny(arguments={"qkv_bias": True}).float()
    with torch.no_grad():
        for param in other.parameters():
            param.add_(1)
    path = save_official(model, tmp_path / "mae_official.pth")
    load_official(other, torch.load(path, weights_only=True)["model"])
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_official_file_is_a_backbone(tmp_path: Path) -> None:
    model = tiny(arguments={"img_size": (16, 16), "patch_size": 4}).float().eval()
    path = save_official(model, tmp_path / "mae_official.pth")
    backbone = load_backbone(
        f"file:{path}?arch=vit_tiny_patch16_224&img_size=16&patch_size=4&embed_dim=24&depth=2&num_heads=3"
    )
    pictures = numbers((2, 3, 16, 16), 3).float()
    prefix, patches = backbone.eval().tokens(pictures)
    expected = model.encoder.forward_features(pictures)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), expected)


def test_official_format_has_no_registers() -> None:
    with pytest.raises(MaeBenchError, match="no registers"):
        official_state(tiny(arguments={"reg_tokens": 1}))


def test_official_weights_of_another_size_are_refused() -> None:
    state = official_state(tiny())
    with pytest.raises(MaeBenchError, match="mask_token is"):
        load_official(tiny(decoder_dim=20), state)
    state.pop("mask_token")
    with pytest.raises(MaeBenchError, match=r"missing \['mask_token'\]"):
        load_official(tiny(), state)
