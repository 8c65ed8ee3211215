"""What depends on the grid or the patch: position embeddings, tables of relative positions, patch kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from mae_bench.backbones import DenseViT, load_backbone
from mae_bench.backbones.relative import resized_table, table_for
from mae_bench.backbones.resizing import resized_kernel
from mae_bench.errors import MaeBenchError
from tests.closed_form import numbers

# A small ViT-H/14 of sorts: 28-pixel images, 14-pixel patches.
SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 2, "num_heads": 2}
FILE_ARGS = "embed_dim=16&depth=2&num_heads=2"


def saved(path: Path, arch: str = "vit_huge_patch14_224", **options: Any) -> dict[str, Tensor]:
    model = timm.create_model(arch, num_classes=0, **{**SMALL, "img_size": 56, **options})
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(tensor.shape, generator=generator) for name, tensor in model.state_dict().items()
    }
    torch.save(state, path)
    return state


# ---------------------------------------------------------------- patch kernels


def cubic(distance: float) -> float:
    """Keys' kernel of cubic convolution with a = -0.75, as torch has it without antialiasing."""
    x, a = abs(distance), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def test_a_kernel_is_interpolated_as_an_image_is() -> None:
    kernel = numbers((3, 2, 14, 14), 1)
    shares = torch.zeros(16, 14, dtype=torch.float64)
    for new in range(16):
        place = (new + 0.5) * 14 / 16 - 0.5
        for old in range(-3, 17):
            shares[new, min(max(old, 0), 13)] += cubic(place - old)
    found = resized_kernel(kernel.float(), (16, 16))
    torch.testing.assert_close(found, (shares @ kernel @ shares.T).float())
    assert resized_kernel(kernel, (14, 14)) is kernel
    half = resized_kernel(kernel.to(torch.bfloat16), (16, 16))
    assert half.dtype == torch.bfloat16


def test_fourteen_becomes_sixteen_when_it_is_asked_for(tmp_path: Path) -> None:
    state = saved(tmp_path / "h14.pth")
    spec = f"file:{tmp_path}/h14.pth?arch=vit_huge_patch14_224&{FILE_ARGS}&img_size=64&patch_size=16"
    backbone: Any = load_backbone(spec)
    assert backbone.patch_size == (16, 16)
    assert backbone.image_size == (64, 64)
    own = backbone.vit.state_dict()
    torch.testing.assert_close(
        own["patch_embed.proj.weight"],
        F.interpolate(state["patch_embed.proj.weight"], size=(16, 16), mode="bicubic"),
    )
    assert torch.equal(own["pos_embed"], state["pos_embed"])  # four patches a side, as before
    (entry,) = backbone.report.resized
    assert (entry.name, entry.note) == ("patch_embed.proj.weight", "patches 14x14 -> 16x16")
    assert entry.shape == (16, 3, 16, 16)
    assert backbone.report.coverage == 100
    assert backbone.report.digest_before != backbone.report.digest_after


def test_another_patch_is_refused_and_the_way_out_named(tmp_path: Path) -> None:
    saved(tmp_path / "h14.pth")
    with pytest.raises(
        MaeBenchError,
        match="with 14x14 patches of 3 channels, vit_base_patch16_224 is 16 wide and 2 deep with 16x16 patches "
        "of 3 channels; patch_size=16 behind the question mark resamples its kernel",
    ):
        load_backbone(f"file:{tmp_path}/h14.pth?arch=vit_base_patch16_224&{FILE_ARGS}&img_size=64")
    # Another width is another model, whatever is asked for.
    with pytest.raises(MaeBenchError, match="the checkpoint is 16 wide and 2 deep"):
        load_backbone(
            f"file:{tmp_path}/h14.pth?arch=vit_base_patch16_224&embed_dim=32&depth=2&num_heads=2&patch_size=16"
        )


def test_weights_of_timm_take_another_patch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def cached(name: str, pretrained: bool = False, **options: Any) -> Any:
        model = create(name.partition(".")[0], pretrained=False, **{**SMALL, **options})
        if pretrained:
            model.pretrained_cfg = {
                **model.pretrained_cfg,
                "architecture": "vit_small_patch14_dinov2",
                "tag": "lvd142m",
            }
            model.load_state_dict(create(name.partition(".")[0], **SMALL).state_dict())
        return model

    monkeypatch.setattr(timm, "create_model", cached)
    backbone: Any = load_backbone("timm:vit_small_patch14_dinov2.lvd142m?patch_size=16&img_size=64")
    assert backbone.patch_size == (16, 16)
    notes = {entry.name: entry.note for entry in backbone.report.resized}
    assert notes == {"pos_embed": "37x37 -> 4x4", "patch_embed.proj.weight": "patches 14x14 -> 16x16"}
    with pytest.raises(MaeBenchError, match="takes no 'depth'; its weights settle that"):
        load_backbone("timm:vit_small_patch14_dinov2.lvd142m?depth=3")


# ---------------------------------------------------------------- tables of relative positions


def test_a_table_is_stretched_so_that_near_distances_stay() -> None:
    # A bias that is a function of the distance alone, on a grid of 5: 9 distances a side.
    distances = torch.arange(-4.0, 5.0)
    patches = (distances[:, None] * 10 + distances).flatten()[:, None]
    table = torch.cat([patches, torch.tensor([[7.0], [8.0], [9.0]])])
    found = resized_table(table, (5, 5), (9, 9))
    assert found.shape == (17 * 17 + 3, 1)
    assert found[-3:, 0].tolist() == [7, 8, 9]
    grid = found[:-3, 0].unflatten(0, (17, 17))
    # The middle and its neighbours keep their values, and the farthest reach as far as before.
    torch.testing.assert_close(grid[7:10, 7:10], (distances[3:6, None] * 10 + distances[3:6]))
    torch.testing.assert_close(grid[0, 0], torch.tensor(-44.0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(resized_table(table, (5, 5), (5, 5)), table)


def test_windows_take_the_entries_of_their_distances_and_images_are_stretched() -> None:
    table = torch.randn(7 * 7 + 3, 2)
    inside = table_for(table, (4, 4), (2, 3), whole=False)
    patches = table[:-3].unflatten(0, (7, 7))
    assert torch.equal(inside, torch.cat([patches[2:5, 1:6].flatten(0, 1), table[-3:]]))
    assert torch.equal(table_for(table, (4, 4), (2, 3), whole=True), resized_table(table, (4, 4), (2, 3)))
    assert torch.equal(table_for(table, (4, 4), (6, 6), whole=False), resized_table(table, (4, 4), (6, 6)))
    assert torch.equal(table_for(table, (4, 4), (4, 4), whole=True), table)


def test_a_beit_file_loads_at_another_size_and_says_so(tmp_path: Path) -> None:
    state = saved(tmp_path / "beit.pth", "beit_base_patch16_224", img_size=64)
    spec = f"file:{tmp_path}/beit.pth?arch=beit_base_patch16_224&{FILE_ARGS}&img_size=64"
    backbone: Any = load_backbone(spec, image_size=(96, 64))
    notes = {entry.name: entry.note for entry in backbone.report.resized}
    assert notes == {f"blocks.{index}.attn.relative_position_bias_table": "4x4 -> 6x4" for index in range(2)}
    own = backbone.vit.state_dict()
    for name in notes:
        assert torch.equal(own[name], resized_table(state[name], (4, 4), (6, 4)))
    assert backbone.report.coverage == 100
    # The same weights at run time: nothing was resampled when they were loaded.
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        late = load_backbone(spec).eval().tokens(images)
        torch.testing.assert_close(backbone.eval().tokens(images), late)


def test_a_beits_own_tables_go_into_windows_and_stay_trainable() -> None:
    backbone: Any = load_backbone("random:beit_base_patch16_224?embed_dim=24&depth=4&num_heads=2&img_size=64")
    with torch.no_grad():
        for block in backbone.vit.blocks:
            torch.nn.init.normal_(block.attn.relative_position_bias_table)
    before = [block.attn.relative_position_bias_table.detach().clone() for block in backbone.vit.blocks]
    model = DenseViT(backbone, grid=(6, 8), window=3, global_blocks=[3], prefix_tokens="drop")
    tables = [block.attn.relative_position_bias_table for block in backbone.vit.blocks]
    assert [len(table) for table in tables] == [25, 25, 25, 11 * 15]
    assert torch.equal(tables[0], table_for(before[0], (4, 4), (3, 3), whole=False)[:-3])
    assert torch.equal(tables[3], resized_table(before[3], (4, 4), (6, 8))[:-3])
    (found,) = model(torch.randn(1, 3, 96, 128), [3])
    found.square().sum().backward()
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in tables)


def test_positions_of_an_oblong_file_need_their_size(tmp_path: Path) -> None:
    saved(tmp_path / "oblong.pth", "vit_huge_patch14_224", img_size=(42, 56))
    spec = f"file:{tmp_path}/oblong.pth?arch=vit_huge_patch14_224&{FILE_ARGS}"
    with pytest.raises(MaeBenchError, match="12 are no square grid, so say which image size it was made for"):
        load_backbone(spec)
    assert load_backbone(f"{spec}&img_size=42x56").image_size == (42, 56)
