"""The kNN vote against loops that anyone can check."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from downstream.classification.neighbours import hits, nearest, votes

CLASSES, KS, TEMPERATURE = 7, [1, 3, 10], 0.07


def features(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = normalize(torch.randn(count, 6, generator=generator), dim=1)
    return values, torch.randint(CLASSES, (count,), generator=generator)


def by_hand(query: Tensor, bank: Tensor, labels: Tensor, k: int) -> list[int]:
    """Classes with a vote, most weight first."""
    similarities = [sum(float(a) * float(b) for a, b in zip(query, row, strict=True)) for row in bank]
    order = sorted(range(len(bank)), key=lambda index: -similarities[index])[:k]
    ballots: dict[int, float] = {}
    for index in order:
        label = int(labels[index])
        ballots[label] = ballots.get(label, 0.0) + math.exp(similarities[index] / TEMPERATURE)
    return sorted(ballots, key=lambda label: -ballots[label])


def test_hits_equal_a_brute_force_loop() -> None:
    bank, bank_labels = features(150, 1)
    queries, truth = features(90, 2)
    expected = []
    for k in KS:
        named = [by_hand(query, bank, bank_labels, k) for query in queries]
        first = sum(classes[0] == int(label) for classes, label in zip(named, truth, strict=True))
        five = sum(int(label) in classes[:5] for classes, label in zip(named, truth, strict=True))
        expected.append([first, five])
    found = hits(queries, truth, bank, bank_labels, classes=CLASSES, ks=KS, temperature=TEMPERATURE)
    assert found.sum(dim=0).tolist() == expected
    assert 0 < expected[0][0] < len(queries)


@pytest.mark.parametrize("block_bytes", [1, 4 * 20 * 37, 2**20])
def test_blocks_do_not_change_the_neighbours(block_bytes: int) -> None:
    bank, _ = features(150, 3)
    queries, _ = features(20, 4)
    similarity, where = nearest(queries, bank, 11, block_bytes)
    expected = (queries @ bank.T).topk(11, dim=1)
    assert torch.equal(where, expected.indices)
    torch.testing.assert_close(similarity, expected.values)


def test_near_neighbours_outvote_many_far_ones() -> None:
    similarity = torch.tensor([[0.99, 0.5, 0.5, 0.5]])
    labels = torch.tensor([[2, 1, 1, 1]])
    ballots = votes(similarity, labels, 3, [4], TEMPERATURE)
    assert ballots[0, 0].argmax() == 2
    # With a temperature so high that all weigh the same, the majority has it.
    assert votes(similarity, labels, 3, [4], 1e6)[0, 0].argmax() == 1


def test_a_class_without_a_vote_is_not_named() -> None:
    bank = torch.eye(3)
    found = hits(
        bank, torch.tensor([4, 4, 4]), bank, torch.tensor([0, 1, 2]), classes=5, ks=[1], temperature=0.07
    )
    assert not found.any()
