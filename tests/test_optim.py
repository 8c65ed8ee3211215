"""Learning rate, LARS and groups against numbers of the reference implementation.

The numbers marked REFERENCE came from running facebookresearch/mae (commit efb2a80) once:
`util/lr_sched.py: adjust_learning_rate` with lr 2.4e-3, min_lr 1e-6, 5 of 20 epochs of warm-up, 7 steps an
epoch; and `util/lars.py: LARS` for three steps on the tensors of `wave` below.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mae_bench.errors import MaeBenchError
from mae_bench.optim import LARS, build_optimizer, lr_at, parameter_groups
from mae_bench.settings import OptimSettings

REFERENCE_LR = {
    0: 0.0,
    1: 6.857142857142855e-05,
    20: 0.0013714285714285714,
    34: 0.002331428571428571,
    35: 0.0024,
    36: 0.0023994631425240617,
    80: 0.0014674138602805988,
    139: 1.5368574759377644e-06,
}
REFERENCE_LARS_WEIGHT = [
    0.7642111173880402, 0.8637687327384764, 0.1765059610035671, -0.7063174006789174,
    -0.9519471800796813, -0.29711547491923207, 0.643730047782552, 0.976625013530572,
    0.4028687025181155, -0.5328616235916152, -0.9779718204590429, -0.528241707359151,
]  # fmt: skip
REFERENCE_LARS_BIAS = [-57.70177676772113, -80.90855086971568, -56.41947510533522]


def wave(*shape: int, k: float = 1.0) -> Tensor:
    count = int(torch.Size(shape).numel())
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * k).reshape(shape)


def test_learning_rate_is_the_reference_curve() -> None:
    ours = {
        step: lr_at(step, 140, peak=2.4e-3, min_lr=1e-6, warmup_steps=35, schedule="cosine")
        for step in REFERENCE_LR
    }
    assert ours == pytest.approx(REFERENCE_LR, rel=1e-12)


def test_constant_schedule_and_no_warmup() -> None:
    assert [lr_at(step, 10, peak=0.5, schedule="constant") for step in (0, 9)] == [0.5, 0.5]
    assert lr_at(0, 10, peak=0.5) == 0.5
    assert lr_at(10, 10, peak=0.5, min_lr=0.1) == pytest.approx(0.1)


def test_lars_makes_the_reference_steps() -> None:
    weight, bias = nn.Parameter(wave(3, 4)), nn.Parameter(wave(3, k=0.5))
    optimizer = LARS([weight, bias], weight_decay=0.01, momentum=0.9, trust_coefficient=0.001)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 6.4 * (step + 1)
        weight.grad, bias.grad = wave(3, 4, k=1.0 + 0.3 * step), wave(3, k=0.7 + 0.1 * step)
        optimizer.step()
    assert weight.detach().flatten().tolist() == pytest.approx(REFERENCE_LARS_WEIGHT, rel=1e-12)
    assert bias.detach().tolist() == pytest.approx(REFERENCE_LARS_BIAS, rel=1e-12)


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.block = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def no_weight_decay(self) -> set[str]:
        return {"token"}

    def layer_names(self) -> list[list[str]]:
        return [
            ["token"],
            ["block.weight", "block.bias"],
            ["norm.weight", "norm.bias", "head.weight", "head.bias"],
        ]


def test_groups_carry_layer_decay_and_exemptions() -> None:
    groups = parameter_groups(Layered(), OptimSettings(lr=1.0, weight_decay=0.05, layer_decay=0.5))
    found = {name: (g["lr_scale"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert found == {
        "token": (0.25, 0.0),
        "block.weight": (0.5, 0.05),
        "block.bias": (0.5, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
        "head.weight": (1.0, 0.05),
        "head.bias": (1.0, 0.0),
    }


def test_frozen_parameters_are_in_no_group() -> None:
    model = Layered()
    model.block.requires_grad_(False)
    groups = parameter_groups(model, OptimSettings(lr=1.0))
    assert {name for g in groups for name in g["names"]}.isdisjoint({"block.weight", "block.bias"})


def test_layer_decay_needs_named_layers() -> None:
    with pytest.raises(MaeBenchError, match=r"optim.layer_decay: Linear does not name its layers"):
        parameter_groups(nn.Linear(2, 2), OptimSettings(lr=1.0, layer_decay=0.7))
    incomplete = Layered()
    incomplete.layer_names = lambda: [["token"], ["block.weight", "block.bias"]]  # type: ignore[method-assign]
    with pytest.raises(MaeBenchError, match=r"no layer holds the parameter norm.weight"):
        parameter_groups(incomplete, OptimSettings(lr=1.0, layer_decay=0.7))


@pytest.mark.parametrize(
    ("name", "kind", "lr"),
    [("adamw", torch.optim.AdamW, 0.05), ("sgd", torch.optim.SGD, 0.05), ("lars", LARS, 10.0)],
)
def test_every_optimiser_descends(name: str, kind: type[torch.optim.Optimizer], lr: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    inputs = torch.randn(32, 3)
    target = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    settings = OptimSettings(name=name, lr=1.0, weight_decay=0.0)  # type: ignore[arg-type]
    optimizer = build_optimizer(parameter_groups(model, settings), settings)
    assert type(optimizer) is kind
    losses = []
    for _ in range(30):
        loss = ((model(inputs) - target) ** 2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
