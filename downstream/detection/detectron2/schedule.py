"""Optimiser, schedule and length of a recipe's training in a configuration of detectron2 (LazyConfig)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from downstream.detection.detectron2.settings import Detectron2Config
from mae_bench.errors import MaeBenchError
from mae_bench.plan import Plan

if TYPE_CHECKING:
    from omegaconf import DictConfig


def optimizer(config: Detectron2Config, plan: Plan) -> DictConfig:
    """``optimizer``: that of the recipe; detectron2's tools put the model into ``params``."""
    from detectron2.config import LazyCall as Lazy

    return Lazy("downstream.detection.detectron2.optimizer.build")(
        params={"model": None},
        lr=plan.peak_lr,
        clip_grad=config.train.clip_grad,
        settings=config.optim.model_dump(mode="json"),
    )


def lr_multiplier(config: Detectron2Config, plan: Plan) -> DictConfig:
    """``lr_multiplier``: the recipe's schedule in detectron2's and fvcore's terms.

    Raises:
        MaeBenchError: the rate falls within the warm-up, which detectron2 would end at the lower rate.
    """
    from detectron2.config import LazyCall as Lazy
    from detectron2.solver import WarmupParamScheduler
    from fvcore.common import param_scheduler

    optim, total, warmup = config.optim, plan.total_steps, plan.warmup_steps
    if warmup >= total:
        # All of the training is warm-up, and ends on the way.
        end = optim.warmup_factor + (1 - optim.warmup_factor) * total / warmup
        return Lazy(param_scheduler.LinearParamScheduler)(start_value=optim.warmup_factor, end_value=end)
    if optim.schedule == "cosine":
        schedule = Lazy(param_scheduler.CosineParamScheduler)(
            start_value=1.0, end_value=optim.min_lr / plan.peak_lr
        )
    else:
        # fvcore refuses a milestone that is never reached. Without any the rate is constant; its scheduler of
        # that name raises after the last step.
        reached = [milestone for milestone in optim.milestones if milestone < total]
        if reached and reached[0] <= warmup:
            raise MaeBenchError(
                f"optim.milestones: {reached[0]} lies within the warm-up of {warmup:g} steps, which "
                "detectron2 cannot do; let the warm-up end before"
            )
        schedule = Lazy(param_scheduler.MultiStepParamScheduler)(
            values=[optim.gamma**count for count in range(len(reached) + 1)],
            milestones=reached,
            num_updates=total,
        )
    if not warmup:
        return schedule
    return Lazy(WarmupParamScheduler)(
        scheduler=schedule,
        warmup_factor=optim.warmup_factor,
        warmup_length=warmup / total,
        # Half a cosine begins where the warm-up ends; milestones are counted from the first step on.
        rescale_interval=optim.schedule == "cosine",
    )


def training(config: Detectron2Config, plan: Plan, folder: Path, precision: str, device: str) -> DictConfig:
    """``train``: what detectron2's ``tools/lazyconfig_train_net.py`` reads besides."""
    from omegaconf import OmegaConf

    every = config.train.save_every_steps or max(plan.total_steps // 20, 1)
    return OmegaConf.create(
        {
            "output_dir": str(folder.resolve()),
            "init_checkpoint": "",
            "max_iter": plan.total_steps,
            "seed": config.seed,
            "amp": {"enabled": precision != "fp32" and device == "cuda"},
            "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
            "checkpointer": {"period": every, "max_to_keep": config.train.keep_checkpoints},
            "eval_period": plan.total_steps,
            "log_period": config.train.log_every_steps,
            "device": device,
        }
    )
