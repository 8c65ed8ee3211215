"""Masks: exact counts, uniform and reproducible choices, the three ways of choosing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mae_bench.errors import MaeBenchError
from mae_bench.keys import Draws, key_of
from mae_bench.pretrain import masking
from mae_bench.pretrain.masking import Masking

KINDS: list[Masking] = ["random", "block", "grid"]
MASK64 = (1 << 64) - 1


def keys(count: int, seed: int = 0) -> Tensor:
    return torch.tensor([key_of(seed, 0, index) for index in range(count)])


def hidden_map(kind: Masking, count: int, grid: tuple[int, int], ratio: float) -> Tensor:
    """bool (count, rows, columns)."""
    patches = grid[0] * grid[1]
    kept = masking.kept_count(patches, ratio)
    _, hidden = masking.split(masking.noise(kind, keys(count), grid, ratio), kept)
    return torch.zeros(count, patches, dtype=torch.bool).scatter_(1, hidden, True).view(count, *grid)


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"),
    [(196, 0.75, 49), (256, 0.75, 64), (36, 0.6, 14), (10, 0.33, 6), (4, 0.75, 1)],
)
def test_kept_count(patches: int, ratio: float, kept: int) -> None:
    assert masking.kept_count(patches, ratio) == kept


@pytest.mark.parametrize(("patches", "ratio"), [(4, 0.9), (196, 0.999), (4, 0.0)])
def test_kept_count_refuses_all_and_nothing(patches: int, ratio: float) -> None:
    with pytest.raises(MaeBenchError, match=r"mask_ratio: .* patches visible"):
        masking.kept_count(patches, ratio)


# ---------------------------------------------------------------- the hash


def mixed(value: int) -> int:
    """The finaliser of SplitMix64 in Python's own integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK64
    return value ^ (value >> 31)


def test_the_hash_is_splitmix64() -> None:
    some = [0, 1, 2**62 + 12345, key_of(3, 7, 11), 2**63 - 1]
    found = masking.uniform(torch.tensor(some), 5)
    for row, key in enumerate(some):
        start = mixed(key ^ 0x6D61736B696E67)
        for place in range(5):
            bits = mixed((start + (place + 1) * 0x9E3779B97F4A7C15) & MASK64)
            assert found[row, place].item() == (bits >> 40) / 2**24


def test_numbers_are_uniform() -> None:
    values = masking.uniform(keys(4000), 64)
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert values.max() < 1
    count = values.numel()
    # Three standard errors for mean and variance of a uniform distribution.
    assert abs(values.double().mean() - 0.5) < 3 * (1 / 12 / count) ** 0.5
    assert abs(values.double().var() - 1 / 12) < 3 * (1 / 180 / count) ** 0.5
    bins = torch.histc(values, 64, 0, 1).double()
    chi_squared = ((bins - count / 64) ** 2 / (count / 64)).sum()
    assert 30 < chi_squared < 110  # 63 degrees of freedom: 99.98 % lie between


@pytest.mark.parametrize("given", [keys(4000), torch.arange(4000)], ids=["keys", "consecutive"])
def test_numbers_are_unrelated(given: Tensor) -> None:
    values = masking.uniform(given, 16).double() - 0.5
    limit = 4 / 12 / (values.numel() ** 0.5)
    assert abs((values[1:] * values[:-1]).mean()) < limit  # from image to image
    assert abs((values[:, 1:] * values[:, :-1]).mean()) < limit  # from patch to patch


def test_numbers_differ_from_those_of_augmentation() -> None:
    key = key_of(0, 0, 5)
    draws = Draws(key)
    augmentation = {round(draws.uniform(), 6) for _ in range(64)}
    assert not augmentation & {round(v, 6) for v in masking.uniform(torch.tensor([key]), 64)[0].tolist()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_masked_alike_in_any_batch(kind: Masking) -> None:
    whole = masking.noise(kind, keys(12), (6, 4), 0.75)
    parts = [masking.noise(kind, part, (6, 4), 0.75) for part in keys(12).split([1, 5, 6])]
    assert torch.equal(torch.cat(parts), whole)


# ---------------------------------------------------------------- the masks


def test_split_takes_the_smallest_and_equals_in_order() -> None:
    visible, hidden = masking.split(torch.tensor([[0.5, 0.1, 0.5, 0.1, 0.9]]), 3)
    assert visible.tolist() == [[1, 3, 0]]
    assert hidden.tolist() == [[2, 4]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (2, 2), (6, 10), (16, 4)])
def test_the_ratio_is_exact(kind: Masking, grid: tuple[int, int]) -> None:
    found = hidden_map(kind, 50, grid, 0.75)
    patches = grid[0] * grid[1]
    assert (found.flatten(1).sum(1) == patches - masking.kept_count(patches, 0.75)).all()


@pytest.mark.parametrize("ratio", [0.1, 0.33, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["random", "block"])
def test_any_ratio_on_an_odd_grid(kind: Masking, ratio: float) -> None:
    found = hidden_map(kind, 50, (7, 5), ratio)
    assert (found.flatten(1).sum(1) == 35 - masking.kept_count(35, ratio)).all()


@pytest.mark.parametrize("kind", ["random", "grid"])
def test_every_patch_is_hidden_equally_often(kind: Masking) -> None:
    often = hidden_map(kind, 4000, (4, 6), 0.75).double().mean(0)
    assert (often - 0.75).abs().max() < 4 * (0.75 * 0.25 / 4000) ** 0.5


def test_random_masks_differ() -> None:
    found = hidden_map("random", 200, (8, 8), 0.75).flatten(1)
    assert len(torch.unique(found, dim=0)) == 200


def test_grid_keeps_one_of_every_four() -> None:
    found = hidden_map("grid", 100, (6, 8), 0.75)
    corners = (~found).view(100, 3, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(100, 12, 4)
    assert (corners.sum(-1) == 1).all()
    assert (corners == corners[:, :1]).all()  # the same one all over an image
    assert set(corners[:, 0].long().argmax(-1).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(("grid", "ratio"), [((8, 8), 0.5), ((7, 8), 0.75), ((8, 7), 0.75)])
def test_grid_refuses_what_is_not_a_quarter(grid: tuple[int, int], ratio: float) -> None:
    with pytest.raises(MaeBenchError, match="grid-wise masking"):
        masking.check("grid", grid, ratio)
    masking.check("random", grid, ratio)


def hidden_neighbours(found: Tensor) -> float:
    """Share of the right and lower neighbours of hidden patches that are hidden too."""
    right = found[:, :, :-1] & found[:, :, 1:]
    below = found[:, :-1] & found[:, 1:]
    return float(right.sum() + below.sum()) / float(found[:, :, :-1].sum() + found[:, :-1].sum())


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_blocks_lie_together(ratio: float) -> None:
    blocks = hidden_neighbours(hidden_map("block", 500, (14, 14), ratio))
    random = hidden_neighbours(hidden_map("random", 500, (14, 14), ratio))
    assert random == pytest.approx(ratio, abs=0.01)
    assert blocks > ratio + 0.6 * (1 - ratio)


def test_blocks_reach_the_share_by_themselves() -> None:
    values = masking.noise("block", keys(2000), (14, 14), 0.75)
    never = (values == values.min()).sum(1)
    assert (never <= masking.kept_count(196, 0.75)).double().mean() > 0.995


def test_a_single_block_is_a_rectangle() -> None:
    # A twentieth of 14 x 14 is less than the least block: one rectangle, cut, is all that is hidden.
    for image in hidden_map("block", 100, (14, 14), 0.05):
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        assert len(rows) == rows.max() - rows.min() + 1
        assert len(columns) == columns.max() - columns.min() + 1
        full_rows = image[rows.min() + 1 : rows.max() + 1, columns.min() : columns.max() + 1]
        assert full_rows.all()  # only the first of its rows may be cut
