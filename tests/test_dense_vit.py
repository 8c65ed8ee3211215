"""A plain ViT on large grids, against detectron2 and mmsegmentation as numbers, and against slow loops.

The numbers were printed in float64 with weights, images and gradients of `closed_form`: weights
`fill(model.state_dict())`, images `2 * numbers((2, 3, H, W), 1001)`, maps weighted with `numbers(shape, 1003)`
and summed, gradients of that sum weighted with `numbers(shape, 1004)`.

- facebookresearch/detectron2 at 02b5c4e295e990042a714712c21dc79b731e8833, detectron2/modeling/backbone/vit.py:
  ViT(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2, use_rel_pos=True, window_size=3,
  window_block_indexes=[0, 2], pretrain_img_size=20, norm_layer=partial(LayerNorm, eps=1e-6)); `detectron2._C`
  was an empty module.
- open-mmlab/mmsegmentation 1.2.2 (mmcv-lite 2.1.0, mmengine 0.10.7), mmseg/models/backbones/mae.py:
  MAE(img_size=(24, 16), patch_size=4, embed_dims=24, num_layers=4, num_heads=2, out_indices=[1, 3],
  init_values=1.0, norm_cfg=dict(type="LN", eps=1e-6)); the buffers `relative_position_index` were left out of
  `fill`, and 1 was added to gamma_1 and gamma_2; `mmcv._ext` was an empty module.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from timm.layers import Attention, DropPath, LayerScale
from torch import Tensor, nn
from torch.nn import functional as F

from mae_bench.backbones import Backbone, DenseViT, load_backbone, quarters
from mae_bench.backbones.attention import GridAttention
from mae_bench.backbones.kernels import HIDDEN, attend, widened
from mae_bench.backbones.relative import decomposed_terms, embeddings, table_biases
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.precision import suit_attention
from mae_bench.settings import OptimSettings
from tests.closed_form import fill, numbers

TINY = "random:vit_tiny_patch16_224?embed_dim=24&depth=4&num_heads=2&patch_size=4&img_size=20"
KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "no class token": {"class_token": False},
    "registers": {"reg_tokens": 4},
    "registers without positions": {"reg_tokens": 2, "no_embed_class": True},
    "LayerScale and norms of queries and keys": {"init_values": 0.5, "qk_norm": True},
    "pre-norm, no bias": {"pre_norm": True, "qkv_bias": False},
}
WINDOWS: dict[str, Any] = {"window": 3, "global_blocks": [1, 3]}

# size of the image -> map[1, :3, 2, 1] and the weighted sum: windows that fit; tables of the right size but
# windows that do not fit; native positions and interpolated tables; oblong
DETECTRON2 = {
    (24, 24): ((2.116892372969991, -1.5096278692489333, -0.30168729469351), -52.37149649491505),
    (32, 32): ((1.232863413511929, 0.030915920181260104, 1.486372425735647), -51.82249874440044),
    (20, 20): ((-0.3282655610499574, 1.8065148688268593, -0.2519373628687972), -39.699594919297944),
    (28, 44): ((5.528173436136695, 5.045850256932557, -0.26259844739947225), -127.57945446342157),
}
# at 28 x 44
DETECTRON2_GRADIENTS = {
    "blocks.0.attn.rel_pos_h": -27.633470839445703,
    "blocks.1.attn.rel_pos_w": 0.11358414264211092,
    "blocks.0.attn.qkv.bias": 4.145550713313039,
    "blocks.2.attn.qkv.bias": 4.8944922035042335,
    "patch_embed.proj.weight": 260.7961220751561,
    "pos_embed": 34.13821466550286,
}
# maps[i][1, :3, 2, 1] and the weighted sum, after blocks 1 and 3
MMSEG = [
    ((-0.4491946707128434, 0.7481667539455252, 0.40012757199932114), -15.23719500056638),
    ((-0.5676233923067933, 0.12365169123473932, 0.7868828026310852), -18.786491437357498),
]
MMSEG_GRADIENTS = {
    "layers.0.attn.relative_position_bias_table": -0.4005866230230697,
    "layers.2.attn.relative_position_bias_table": -0.42961719032926915,
    "layers.1.gamma_1": 1.6515601047572228,
    "cls_token": 0.0971199632385008,
    "pos_embed": 27.22520763591566,
}
MMSEG_NAMES = {
    "blocks": "layers",
    "norm1": "ln1",
    "norm2": "ln2",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
    "ls1.gamma": "gamma_1",
    "ls2.gamma": "gamma_2",
    "patch_embed.proj": "patch_embed.projection",
}


def tiny(**model_args: Any) -> Backbone:
    return load_backbone(TINY, model_args=model_args)


def lively(model: nn.Module) -> nn.Module:
    """Move the weights off zeros and ones, so that each of them matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=generator) * 0.2)
    return model.eval()


def dense(backbone: Backbone | None = None, **options: Any) -> DenseViT:
    made = lively(DenseViT(backbone or tiny(), **{"grid": (8, 8), **options}))
    assert isinstance(made, DenseViT)
    return made


def pictures(*size: int) -> Tensor:
    return 2 * numbers((2, 3, *size), 1001)


# ---------------------------------------------------------------- other implementations' numbers


def vitdet() -> DenseViT:
    """Our model with the weights that detectron2's had."""
    model = DenseViT(
        tiny(), grid=(8, 8), window_padding="attended", relative="decomposed", **WINDOWS
    ).double()
    state = {name.removeprefix("backbone.vit."): value for name, value in model.state_dict().items()}
    # Theirs keeps an entry for the class token among the positions, and does not use it.
    state["pos_embed"] = torch.zeros(1, 1 + 25, 24)
    weights = fill(state)
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    model.load_state_dict({f"backbone.vit.{name}": value for name, value in weights.items()})
    return model


@pytest.mark.parametrize("size", DETECTRON2)
def test_maps_are_detectron2s(size: tuple[int, int]) -> None:
    model, (few, weighted) = vitdet(), DETECTRON2[size]
    (found,) = model(pictures(*size), [3])
    assert found.shape == (2, 24, size[0] // 4, size[1] // 4)
    assert found[1, :3, 2, 1].tolist() == pytest.approx(few, rel=1e-10)
    assert (found * numbers(found.shape, 1003)).sum().item() == pytest.approx(weighted, rel=1e-10)
    (single,) = model.float()(pictures(*size).float(), [3])
    assert ((single - found).abs().max() / found.abs().max()).item() < 1e-5


def test_gradients_are_detectron2s() -> None:
    model = vitdet()
    (found,) = model(pictures(28, 44), [3])
    (found * numbers(found.shape, 1003)).sum().backward()
    assert_gradients(model, DETECTRON2_GRADIENTS, {})


def test_maps_and_gradients_are_mmsegmentations() -> None:
    model = DenseViT(
        tiny(), grid=(6, 4), relative="table", prefix_tokens="keep", resample="once", layer_scale=1.0
    ).double()
    names = {name: theirs(name, MMSEG_NAMES) for name in model.state_dict()}
    weights = fill({names[name]: value for name, value in model.state_dict().items()})
    weights = {name: value + 1 if "gamma" in name else value for name, value in weights.items()}
    model.load_state_dict({name: weights[other] for name, other in names.items()})
    maps = model(pictures(24, 16), [1, 3])
    for found, (few, weighted) in zip(maps, MMSEG, strict=True):
        assert found[1, :3, 2, 1].tolist() == pytest.approx(few, rel=1e-10)
        assert (found * numbers(found.shape, 1003)).sum().item() == pytest.approx(weighted, rel=1e-10)
    torch.stack([(found * numbers(found.shape, 1003)).sum() for found in maps]).sum().backward()
    assert_gradients(model, MMSEG_GRADIENTS, MMSEG_NAMES)


def theirs(name: str, renamed: Mapping[str, str]) -> str:
    name = name.removeprefix("backbone.vit.")
    for ours, other in renamed.items():
        name = name.replace(ours, other)
    return name


def assert_gradients(model: DenseViT, expected: Mapping[str, float], renamed: Mapping[str, str]) -> None:
    grads = {theirs(name, renamed): param.grad for name, param in model.named_parameters()}
    for name, value in expected.items():
        grad = grads[name]
        assert grad is not None
        assert (grad * numbers(grad.shape, 1004)).sum().item() == pytest.approx(value, rel=1e-9), name


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("pairs", [True, False])
@pytest.mark.parametrize("terms", [True, False])
def test_every_kernel_gives_softmax_attention_and_its_gradients(
    terms: bool, pairs: bool, prefix: int
) -> None:
    groups, heads, height, width, deep = 3, 2, 4, 5, 8
    count = prefix + height * width
    shapes = [(groups, heads, count, deep)] * 3
    shapes += [(groups, heads, count, height), (groups, heads, count, width), (heads, count, count)]
    given = [numbers(shape, 40 + place).requires_grad_() for place, shape in enumerate(shapes)]
    q, k, v, rows, columns, table = given

    scores = q @ k.transpose(2, 3) / deep**0.5
    if pairs:
        scores = scores + table
    if terms:
        of_patches = (rows[..., :, None] + columns[..., None, :]).flatten(3)
        scores = scores + F.pad(of_patches, (prefix, 0))
    expected = scores.softmax(-1) @ v
    weight = numbers(expected.shape, 50)
    wanted = torch.autograd.grad((expected * weight).sum(), given, allow_unused=True)

    options = {"terms": (rows, columns) if terms else None, "pairs": table if pairs else None}
    for fused in (True, False):
        out = attend(q, k, v, **options, fused=fused)
        torch.testing.assert_close(out, expected)
        found = torch.autograd.grad((out * weight).sum(), given, allow_unused=True)
        torch.testing.assert_close(found, wanted)
    wide_q, wide_k = widened(q, k, (rows, columns), multiple=8)
    assert wide_q.shape == wide_k.shape == (groups, heads, count, 24)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [True, False])
def test_kernels_in_half_precision(kind: torch.dtype, fused: bool) -> None:
    q, k, v = (numbers((2, 2, 6, 8), place) for place in range(3))
    rows, columns = numbers((2, 2, 6, 2), 3), numbers((2, 2, 6, 3), 4)
    columns[..., 2] = HIDDEN
    rows[..., 1] += HIDDEN  # the last patch is hidden twice
    expected = attend(q, k, v, terms=(rows, columns), fused=False)
    half = [x.to(kind) for x in (q, k, v, rows, columns)]
    found = attend(*half[:3], terms=(half[3], half[4]), fused=fused)
    assert found.dtype is kind
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.03)


def test_interpolated_embeddings_and_tables_keep_their_ends() -> None:
    table = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    torch.testing.assert_close(embeddings(table, 4)[:, 0, 0], torch.arange(4).double())
    longer = embeddings(table, 6)[..., 0]
    assert longer[0, 5].item() == -3
    assert longer[5, 0].item() == 3
    assert longer.diagonal().abs().max().item() == 0
    # The entries of prefix tokens stay out of the interpolation.
    flat = torch.cat([torch.full((15, 1), 2.0), torch.tensor([[7.0], [8.0], [9.0]])])
    biases = table_biases(flat, (2, 3), (4, 4), 1)[0]
    torch.testing.assert_close(biases[1:, 1:], torch.full((16, 16), 2.0))
    assert set(biases[0, 1:].tolist()) == {7.0}
    assert set(biases[1:, 0].tolist()) == {8.0}
    assert biases[0, 0].item() == 9


# ---------------------------------------------------------------- attention against loops


def by_hand(attn: GridAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """What `attn` gives, window by window, head by head and with scores written out."""
    (height, width), prefix, side = grid, attn.prefix, attn.window
    area = grid if side is None else (side, side)
    out = torch.zeros_like(x)
    first, patches = x[:, :prefix], x[:, prefix:].unflatten(1, grid)
    corners = [(0, 0)] if side is None else list(product(range(0, height, side), range(0, width, side)))
    heads = torch.zeros(*x.shape[:2], attn.num_heads * attn.head_dim, dtype=x.dtype)
    for top, left in corners:
        inside = patches[:, top : top + area[0], left : left + area[1]]
        missing = area[0] - inside.shape[1], area[1] - inside.shape[2]
        real = F.pad(torch.ones(inside.shape[1:3], dtype=torch.bool), (0, missing[1], 0, missing[0]))
        filled = F.pad(inside, (0, 0, 0, missing[1], 0, missing[0])).flatten(1, 2)
        tokens = torch.cat([first, filled], dim=1)
        parts = attn.qkv(tokens).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = attn.q_norm(parts[0]), attn.k_norm(parts[1]), parts[2]
        scores = q @ k.transpose(2, 3) / attn.head_dim**0.5
        if attn.rel_pos_h is not None:
            rows, columns = decomposed_terms(q, attn.rel_pos_h, attn.rel_pos_w, area)
            scores[..., prefix:] += (rows[..., :, None] + columns[..., None, :]).flatten(3)
        if attn.relative_position_bias_table is not None:
            scores = scores + table_biases(attn.relative_position_bias_table, attn.grid, area, prefix)
        if attn.hide_padding:
            scores[..., prefix:].masked_fill_(~real.flatten(), float("-inf"))
        found = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        heads[:, :prefix] += found[:, :prefix] / len(corners)
        back = found[:, prefix:].unflatten(1, area)[:, : inside.shape[1], : inside.shape[2]]
        heads[:, prefix:].unflatten(1, grid)[:, top : top + area[0], left : left + area[1]] = back
    out = attn.norm(heads)
    if attn.gate is not None:
        out = out * attn.gate(x).sigmoid()
    return attn.proj(out)


@pytest.mark.parametrize("relative", ["none", "decomposed", "table"])
@pytest.mark.parametrize("padding", ["masked", "attended"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_windows_is_what_loops_give(kind: str, padding: str, relative: str) -> None:
    model = dense(
        tiny(**KINDS[kind]), window_padding=padding, relative=relative, prefix_tokens="keep", **WINDOWS
    ).double()
    prefix = model.backbone.prefix_tokens
    for block, grid in product((0, 1), ((6, 3), (7, 4), (2, 5), (8, 8))):
        attn = model.backbone.vit.blocks[block].attn
        x = numbers((2, prefix + grid[0] * grid[1], 24), 7)
        torch.testing.assert_close(attn(x, grid), by_hand(attn, x, grid))


def test_gate_and_norm_of_the_heads_are_kept() -> None:
    own = Attention(24, num_heads=2, qkv_bias=True, scale_norm=True, gated=True, norm_layer=nn.LayerNorm)
    options: dict[str, Any] = {"window": 3, "hide_padding": True, "relative": "decomposed", "grid": (4, 4)}
    attn = lively(GridAttention(own, **options, prefix=1)).double()
    assert isinstance(attn, GridAttention)
    assert {name for name, _ in own.named_parameters()} < {name for name, _ in attn.named_parameters()}
    x = numbers((2, 1 + 20, 24), 7)
    torch.testing.assert_close(attn(x, (4, 5)), by_hand(attn, x, (4, 5)))


def test_masked_padding_has_no_influence_and_attended_padding_has() -> None:
    # A grid within one window: with the padding hidden it is the same as global attention.
    images = pictures(12, 8).float()
    maps = {
        padding: dense(window=7, window_padding=padding)(images, [3])[0] for padding in ("masked", "attended")
    }
    everywhere = dense()(images, [3])[0]
    torch.testing.assert_close(maps["masked"], everywhere, rtol=1e-4, atol=1e-5)
    assert (maps["attended"] - everywhere).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_without_windows_and_relative_positions_maps_are_the_backbones(kind: str) -> None:
    backbone = lively(tiny(**KINDS[kind]))
    assert isinstance(backbone, Backbone)
    images = pictures(20, 20).float()
    expected = backbone.maps(images, [1, 3])
    made = DenseViT(backbone, grid=(5, 5), prefix_tokens="keep", relative="decomposed", layer_scale=1.0)
    torch.testing.assert_close(made(images, [1, 3]), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(images, [3, 1]), expected[::-1], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- tokens, positions, scales


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_tokens_leave_no_parameter_behind(kind: str) -> None:
    backbone = tiny(**KINDS[kind])
    table = backbone.vit.pos_embed.detach().clone()
    model = dense(backbone, **WINDOWS)
    names = {name for name, _ in model.named_parameters()}
    assert not names & {"backbone.vit.cls_token", "backbone.vit.reg_token"}
    assert backbone.prefix_tokens == 0
    fresh = tiny(**KINDS[kind])
    kept = DenseViT(fresh, grid=(5, 5)).backbone.vit.pos_embed
    torch.testing.assert_close(kept.shape, torch.Size((1, 25, 24)))
    torch.testing.assert_close(kept.detach(), table[:, -25:])


@pytest.mark.parametrize("prefix", ["drop", "keep"])
@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("relative", ["decomposed", "table"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_a_layer(
    kind: str, relative: str, final_norm: bool, prefix: str
) -> None:
    model = dense(
        tiny(**KINDS[kind]),
        relative=relative,
        final_norm=final_norm,
        prefix_tokens=prefix,
        layer_scale=0.5,
        **WINDOWS,
    )
    model(pictures(28, 20).float(), [3])[0].square().sum().backward()
    missing = [name for name, param in model.named_parameters() if param.grad is None]
    # What only a prefix token of the last block reads has a gradient too, if one of zeros.
    assert missing == []
    layers = model.layer_names()
    assert len(layers) == 4 + 2
    assert sorted(name for layer in layers for name in layer) == sorted(dict(model.named_parameters()))
    assert bool(layers[-1]) is final_norm
    for index in range(4):
        assert f"backbone.vit.blocks.{index}.attn.qkv.weight" in layers[1 + index]
        assert any("rel_pos_w" in name or "bias_table" in name for name in layers[1 + index])
    exempt = model.no_weight_decay()
    assert "backbone.vit.pos_embed" in exempt
    assert ("backbone.vit.cls_token" in exempt) is (prefix == "keep" and KINDS[kind].get("class_token", True))
    groups = parameter_groups(model, OptimSettings(lr=1.0, layer_decay=0.5, weight_decay=0.1))
    assert sum(len(group["params"]) for group in groups) == len(dict(model.named_parameters()))


@pytest.mark.parametrize("kind", ["class token", "registers without positions"])
def test_positions_resampled_once_are_the_parameter(kind: str) -> None:
    backbone = tiny(**KINDS[kind])
    table = backbone.vit.pos_embed.detach().clone()
    model = DenseViT(backbone, grid=(8, 6), resample="once", prefix_tokens="keep").eval()
    own = table.shape[1] - 25
    patches = table[:, own:].reshape(1, 5, 5, 24).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(8, 6), mode="bicubic", align_corners=False)
    expected = torch.cat([table[:, :own], patches.flatten(2).transpose(1, 2)], dim=1)
    assert isinstance(model.backbone.vit.pos_embed, nn.Parameter)
    torch.testing.assert_close(model.backbone.vit.pos_embed.detach(), expected)
    assert backbone.image_size == (32, 24)
    each = DenseViT(tiny(**KINDS[kind]), grid=(8, 6), prefix_tokens="keep").eval()
    images = pictures(32, 24).float()
    torch.testing.assert_close(model(images, [3]), each(images, [3]))
    assert model(pictures(20, 40).float(), [3])[0].shape == (2, 24, 5, 10)


def test_layer_scale_is_kept_where_there_is_one_and_added_where_not() -> None:
    kept = DenseViT(tiny(init_values=0.25), grid=(5, 5), layer_scale=1.0).eval()
    block = kept.backbone.vit.blocks[2]
    assert set(block.ls1.gamma.tolist()) == {0.25}
    before = kept(pictures(20, 20).float(), [3])[0]
    with torch.no_grad():
        block.ls1.gamma *= 3
    assert (kept(pictures(20, 20).float(), [3])[0] - before).abs().max() > 1e-3
    added = DenseViT(tiny(), grid=(5, 5), layer_scale=0.5)
    for block in added.backbone.vit.blocks:
        assert isinstance(block.ls1, LayerScale)
        assert set(block.ls1.gamma.tolist()) == set(block.ls2.gamma.tolist()) == {0.5}
    assert isinstance(DenseViT(tiny(), grid=(5, 5)).backbone.vit.blocks[0].ls1, nn.Identity)


def test_final_norm_is_applied_to_every_map() -> None:
    images = pictures(20, 28).float()
    plain, normed = dense(), dense(final_norm=True)
    norm = normed.backbone.vit.norm
    expected = [norm(found.movedim(1, 3)).movedim(3, 1) for found in plain(images, [0, 3])]
    torch.testing.assert_close(normed(images, [0, 3]), expected)


def test_relative_positions_are_zero_at_first_and_frozen_with_their_block() -> None:
    backbone = tiny()
    backbone.freeze(2)
    model = DenseViT(backbone, grid=(8, 8), relative="decomposed", layer_scale=1.0, **WINDOWS)
    shapes = {0: (5, 12), 1: (15, 12)}
    for index, block in enumerate(model.backbone.vit.blocks):
        for name in ("rel_pos_h", "rel_pos_w"):
            param = getattr(block.attn, name)
            assert param.shape == shapes[index % 2]
            assert param.requires_grad is (index >= 2)
            assert not param.any()
        assert block.ls1.gamma.requires_grad is (index >= 2)
    assert not model.backbone.vit.pos_embed.requires_grad


# ---------------------------------------------------------------- training


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Counts the numbers that are saved for the way back."""

    def __init__(self) -> None:
        self.numbers = 0
        super().__init__(self.count, lambda x: x)

    def count(self, x: Tensor) -> Tensor:
        self.numbers += x.numel()
        return x


def test_checkpointing_changes_no_gradient_with_stochastic_depth() -> None:
    grads, sizes = [], []
    for checkpointing in (True, False):
        model = dense(relative="decomposed", checkpointing=checkpointing, **WINDOWS)
        model.backbone.set_drop_path(0.5)
        assert isinstance(model.backbone.vit.blocks[3].drop_path1, DropPath)
        model.train()
        torch.manual_seed(3)
        saved = Saved()
        with saved:
            loss = model(pictures(20, 28).float(), [1, 3])[1].square().sum()
        loss.backward()
        grads.append({name: param.grad for name, param in model.named_parameters()})
        sizes.append(saved.numbers)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    assert sizes[0] < sizes[1] / 3


def test_autocast_and_every_kernel_agree() -> None:
    images = pictures(28, 20).float()
    for relative in ("decomposed", "table"):
        model = dense(relative=relative, prefix_tokens="keep", **WINDOWS)
        suit_attention(model, torch.device("cpu"), "fp32")
        assert all(block.attn.fused_attn for block in model.backbone.vit.blocks)
        expected = model(images, [3])[0]
        suit_attention(model, torch.device("cpu"), "bf16")
        assert not any(block.attn.fused_attn for block in model.backbone.vit.blocks)
        torch.testing.assert_close(model(images, [3])[0], expected, rtol=1e-4, atol=1e-5)
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images, [3])[0]
        half.float().sum().backward()
        assert ((half - expected).norm() / expected.norm()).item() < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("relative", ["none", "decomposed", "table"])
def test_a_gpu_gives_what_a_cpu_gives(relative: str) -> None:
    model = dense(relative=relative, prefix_tokens="keep", **WINDOWS)
    images = pictures(28, 20).float()
    expected = model(images, [3])[0]
    model.cuda()
    found = model(images.cuda(), [3])[0]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-2)
    with torch.autocast("cuda", torch.bfloat16):
        half = model(images.cuda(), [3])[0]
    half.float().sum().backward()
    assert ((half.cpu() - expected).norm() / expected.norm()).item() < 0.02
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize("relative", ["decomposed", "table"])
def test_inference_mode_leaves_training_alone(relative: str) -> None:
    model = dense(relative=relative, **WINDOWS)
    images = pictures(44, 12).float()
    with torch.inference_mode():
        seen = model(images, [3])[0].clone()
    found = model(images, [3])[0]
    found.sum().backward()
    torch.testing.assert_close(found, seen)


def test_attention_dropout_works_in_training_alone() -> None:
    model = dense(relative="decomposed", **WINDOWS)
    for block in model.backbone.vit.blocks:
        block.attn.attn_drop.p = 0.5
    images = pictures(20, 20).float()
    torch.testing.assert_close(model(images, [3]), model(images, [3]), rtol=0, atol=0)
    model.train()
    assert (model(images, [3])[0] - model(images, [3])[0]).abs().max() > 1e-3


# ---------------------------------------------------------------- surface


def test_quarters() -> None:
    assert quarters(12) == [2, 5, 8, 11]
    assert quarters(24) == [5, 11, 17, 23]
    assert quarters(32) == [7, 15, 23, 31]
    with pytest.raises(MaeBenchError, match="a backbone of 3 blocks has no quarters"):
        quarters(3)


def test_attributes_are_the_backbones() -> None:
    backbone = tiny()
    model = DenseViT(backbone, grid=(5, 5))
    assert model.backbone is backbone
    assert (model.patch_size, model.width, model.depth) == ((4, 4), 24, 4)
    assert (model.mean, model.std) == (backbone.mean, backbone.std)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(MaeBenchError, match="has blocks 0 to 3, so none of number 4"):
        DenseViT(tiny(), grid=(5, 5), window=3, global_blocks=[1, 4])
    model = DenseViT(tiny(), grid=(5, 5))
    with pytest.raises(MaeBenchError, match="has blocks 0 to 3, so none of number -1"):
        model(pictures(20, 20).float(), [-1])
    with pytest.raises(MaeBenchError, match="20x22 pixels cannot be cut into patches of 4x4"):
        model(pictures(20, 22).float(), [3])


def test_blocks_of_an_unknown_make_attend_globally_and_it_is_said() -> None:
    spec = "random:vit_dlittle_patch16_reg1_gap_256?embed_dim=48&depth=2&num_heads=2&img_size=32"
    backbone = load_backbone(spec).eval()
    image = pictures(32, 48).float()
    with torch.no_grad():
        expected = backbone.maps(image, [0, 1])
        model = DenseViT(
            backbone, grid=(2, 3), window=1, relative="decomposed", layer_scale=1.0, prefix_tokens="drop"
        ).eval()
        found = model(image, [0, 1])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert model.departures == [
        f"{spec} is a vit_dlittle_patch16_reg1_gap_256, whose blocks cannot be taken apart, so it attends "
        "globally in every block, gets no relative positions and gets no LayerScale"
    ]
