"""The optimiser of a recipe as detectron2's configurations make one: groups with rates of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from downstream.detection.detectron2.model import Grouped, plain
from mae_bench.optim import build_optimizer, parameter_groups
from mae_bench.settings import OptimSettings


def build(
    *, params: Mapping[str, Any], lr: float, clip_grad: float | None, settings: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """The target of ``optimizer``: our parameter groups, each at its share of the peak rate.

    Args:
        params: ``model``: the model, which detectron2's tools put in.
        lr: peak of the schedule.
        clip_grad: largest L2 norm of the whole gradient.
        settings: what a recipe has under ``optim``.
    """
    optim = OptimSettings.model_validate(plain(settings))
    groups = parameter_groups(cast(nn.Module, Grouped(params["model"])), optim)
    optimizer = build_optimizer(groups, optim)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    if clip_grad is not None:
        optimizer.register_step_pre_hook(_Clip(clip_grad))
    return optimizer


class _Clip:
    """Clips the gradient before a step, and leaves its norm on the optimiser as `grad_norm`."""

    def __init__(self, largest: float) -> None:
        self.largest = largest

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        # A fused kernel takes gradients that a scaler has not unscaled yet, and the scale with them.
        scale = getattr(optimizer, "grad_scale", None)
        factor = 1.0 if scale is None else float(scale)
        norm = nn.utils.clip_grad_norm_(params, self.largest * factor)
        vars(optimizer)["grad_norm"] = norm.detach() / factor
