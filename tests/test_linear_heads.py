"""The grid of linear classifiers: each as if trained alone, and none in the way of another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from downstream.classification.heads import HeadGrid, StepNorm, grid_losses
from mae_bench.optim import LARS

RATES = [0.3, 1.0, 4.0]


def separable() -> tuple[Tensor, Tensor]:
    """Sixty features of four classes, far apart, on scales that differ a thousandfold."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 4
    centres = torch.randn(4, 8, generator=generator) * 4
    values = centres[labels] + torch.randn(60, 8, generator=generator)
    return values * torch.logspace(-2, 1, 8), labels


def trained(rates: list[float], base: float, steps: int = 25, norm_batch: int = 30) -> HeadGrid:
    features, labels = separable()
    torch.manual_seed(1)
    grid = HeadGrid(8, 4, len(rates), norm_batch).train()
    groups = [
        {"params": list(head.parameters()), "lr_scale": rate / base}
        for head, rate in zip(grid.heads, rates, strict=True)
    ]
    optimizer = LARS(groups, momentum=0.9)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = base * (1 - step / steps) * group["lr_scale"]
        optimizer.zero_grad()
        grid_losses(grid(features), labels).sum().backward()
        optimizer.step()
    return grid.eval()


def test_separable_features_are_learnt_completely() -> None:
    features, labels = separable()
    grid = trained([3.0], 3.0, steps=400)
    assert float((grid(features)[:, 0].argmax(dim=1) == labels).float().mean()) == 1.0


def test_a_grid_equals_separate_runs() -> None:
    together = trained(RATES, RATES[0])
    for index, rate in enumerate(RATES):
        alone = trained([rate], rate)
        for ours, theirs in zip(together.heads[index].parameters(), alone.heads[0].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(together.norm.running_mean, alone.norm.running_mean)


def test_all_classifiers_start_from_the_same_weights() -> None:
    torch.manual_seed(0)
    grid = HeadGrid(200, 100, 3, 10)
    assert torch.equal(grid.heads[0].weight, grid.heads[2].weight)  # type: ignore[arg-type]
    assert float(grid.heads[0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)  # type: ignore[operator, arg-type]


def test_statistics_come_from_norm_batch_features() -> None:
    features, _ = separable()
    grid = HeadGrid(8, 4, 1, 30).train()
    logits = grid(features)[:, 0]
    for half in (slice(0, 30), slice(30, 60)):
        part = features[half]
        standard = (part - part.mean(dim=0)) / (part.var(dim=0, unbiased=False) + 1e-6).sqrt()
        expected = F.linear(standard, *grid.heads[0].parameters())
        torch.testing.assert_close(logits[half], expected, rtol=1e-4, atol=1e-5)


def test_with_one_group_a_step_it_is_torchs_batch_norm() -> None:
    ours, theirs = StepNorm(8, 30).train(), nn.BatchNorm1d(8, affine=False, eps=1e-6).train()
    for part in separable()[0].split(30):
        torch.testing.assert_close(ours(part), theirs(part))
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(part), F.batch_norm(part, ours.running_mean, ours.running_var, eps=1e-6))


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_running_statistics_do_not_depend_on_how_a_step_is_divided(passes: int) -> None:
    """Two steps of four groups: each moves by a tenth towards the mean of what its groups have."""
    features, _ = separable()
    norm = StepNorm(8, 7, passes).train()
    mean, var = torch.zeros(8), torch.ones(8)
    for step in (features[:28], features[28:56]):
        for part in step.chunk(passes):
            norm(part)
        groups = step.view(4, 7, 8)
        mean = 0.9 * mean + 0.1 * groups.mean(dim=1).mean(dim=0)
        var = 0.9 * var + 0.1 * groups.var(dim=1).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)


def test_a_diverged_classifier_leaves_the_others_alone() -> None:
    features, labels = separable()
    grid = HeadGrid(8, 4, 2, 30).train()
    with torch.no_grad():
        grid.heads[1].weight.mul_(1e12)  # type: ignore[operator, union-attr]
    losses = grid_losses(grid(features), labels)
    losses.sum().backward()
    assert grid.diverged.tolist() == [False, True]
    assert torch.isfinite(losses).all()
    assert grid.heads[0].weight.grad.any()  # type: ignore[union-attr]
    assert not grid.heads[1].weight.grad.any()  # type: ignore[union-attr]


def test_a_single_classifier_may_stop_the_run() -> None:
    grid = HeadGrid(8, 4, 1, 30).train()
    with torch.no_grad():
        grid.heads[0].weight.fill_(float("inf"))  # type: ignore[operator, union-attr]
    features, labels = separable()
    assert not torch.isfinite(grid_losses(grid(features), labels)).any()


def test_the_classifiers_compute_in_fp32_under_autocast() -> None:
    features, _ = separable()
    grid = HeadGrid(8, 4, 2, 30).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = grid(features.bfloat16())
    assert under.dtype == torch.float32
    assert torch.equal(under, grid(features.bfloat16().float()))
