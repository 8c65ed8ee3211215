"""Our recipes in mmengine's own words: optimiser, schedule, loop and loaders as parts of its configs.

mmengine counts iterations. Without accumulation one is an optimiser step and every value below is ours to the
rounding; with `train.micro_batch` smaller than a process's share of the batch, a step is several iterations,
and the rate also moves between them. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from pathlib import Path

    from mae_bench.data import Samples
    from mae_bench.plan import Plan
    from mae_bench.settings import FitConfig

Native = dict[str, Any]
"""A part of a native config: plain values only."""

# mmengine's LinearLR multiplies what is there, so it cannot begin at nothing.
_NEARLY_NOTHING = 1e-12


def refuse(config: FitConfig, engine: str) -> None:
    """Raise ValueError, as a validator does, for a value that no engine of OpenMMLab can carry out.

    Args:
        engine: as ``--engine`` names it, for the message.
    """
    train, optim, data = config.train, config.optim, config.data
    refused = [
        (train.ema is not None, "train.ema: averaged weights", "set it to null"),
        (train.compile, "train.compile", "set it to false"),
        (optim.name == "lars", "optim.name: LARS", "take adamw or sgd"),
        (data.channels != 3, "data.channels: images that are not RGB", "set it to 3"),
        (data.max_bad_images > 0, "data.max_bad_images: unreadable images", "set it to 0"),
        (
            optim.schedule == "poly" and optim.min_lr > 0 and optim.layer_decay is not None,
            "optim.min_lr above 0 with schedule=poly and layer_decay",
            "set min_lr to 0",
        ),
    ]
    for refuses, what, instead in refused:
        if refuses:
            raise ValueError(f"{what}: the engine {engine} cannot do that; {instead}, or leave --engine out")


def plan(config: FitConfig, images: int, world: int) -> Plan:
    """How many steps there are, and of how many images an iteration of one process is.

    `train.micro_batch=auto` is a process's whole share of the batch: mmengine has no trial of what fits.

    Args:
        images: in the training set.
        world: number of processes.

    Raises:
        MaeBenchError: a batch that does not divide or is larger than the training set; a warm-up that the
            native schedules cannot have.
    """
    from mae_bench.plan import Plan

    batch, micro = config.train.batch, config.train.micro_batch
    if batch % world:
        raise MaeBenchError(f"train.batch: {batch} is not divisible by {world} processes")
    size = batch // world if micro == "auto" else micro
    if batch % (world * size):
        raise MaeBenchError(
            f"train.micro_batch: {size} images on {world} processes do not divide the batch of {batch}"
        )
    made = Plan.of(config, images, size, world)
    if made.warmup_steps != int(made.warmup_steps):
        raise MaeBenchError(
            f"the warm-up is {made.warmup_steps:g} steps long, but mmengine counts whole ones: give "
            f"optim.warmup_steps={round(made.warmup_steps)} and optim.warmup_epochs=null"
        )
    if made.warmup_steps == 1 and config.optim.schedule == "poly":
        raise MaeBenchError(
            "the warm-up is 1 step long, which mmengine cannot have before its PolyLR: give "
            "optim.warmup_steps=0 or 2"
        )
    early = [one for one in config.optim.milestones if one < made.warmup_steps]
    if early:
        raise MaeBenchError(
            f"optim.milestones: step {early[0]} lies within the warm-up of {made.warmup_steps:g} steps, "
            "where mmengine would decay the warm-up itself; put it behind"
        )
    return made


def optim_wrapper(
    config: FitConfig, plan: Plan, precision: str, device: str, *, decayed_types: Sequence[str] = ()
) -> Native:
    """`optim_wrapper`: our optimiser over our parameter groups, in the precision of the run.

    The constructor and the wrapper for CPUs are those of `downstream.openmmlab.modules`.

    Args:
        plan: of `plan`.
        precision: ``bf16``, ``fp16`` or ``fp32``.
        device: type of the device, ``cuda`` or ``cpu``.
        decayed_types: class names of norms whose gains and biases are decayed in any case.
    """
    optim = config.optim
    optimizer: Native = {"lr": plan.peak_lr, "weight_decay": optim.weight_decay}
    if optim.name == "adamw":
        optimizer = {"type": "AdamW", **optimizer, "betas": tuple(optim.betas)}
    else:
        optimizer = {"type": "SGD", **optimizer, "momentum": optim.momentum}
    wrapper: Native = {**_amp(precision, device), "optimizer": optimizer, "constructor": "MaeBenchGroups"}
    wrapper["paramwise_cfg"] = {
        "layer_decay": optim.layer_decay,
        "decay_biases": optim.decay_biases,
        "decay_norms": optim.decay_norms,
        "decay_positions": optim.decay_positions,
        "decayed_types": list(decayed_types),
    }
    if config.train.clip_grad is not None:
        wrapper["clip_grad"] = {"max_norm": config.train.clip_grad, "norm_type": 2}
    if plan.accumulate > 1:
        wrapper["accumulative_counts"] = plan.accumulate
    return wrapper


def use_precision(wrapper: Any, precision: str, device: str) -> None:
    """Let the `optim_wrapper` of a config of the engine's own compute in another precision.

    A wrapper of another kind than mmengine's two stays as it is.
    """
    if wrapper.get("type") in ("OptimWrapper", "AmpOptimWrapper"):
        for key in ("type", "dtype", "loss_scale"):
            wrapper.pop(key, None)
        wrapper.update(_amp(precision, device))


def precision_of(wrapper: Any, device: str, path: Path) -> str:
    """``bf16``, ``fp16`` or ``fp32``: what an `optim_wrapper` computes in.

    Args:
        path: of the config, for the message.

    Raises:
        MaeBenchError: mixed precision by mmengine's own wrapper on a device without it.
    """
    kind = wrapper.get("type")
    if kind == "AmpOptimWrapper" and device != "cuda":
        raise MaeBenchError(
            f"native: {path} trains in mixed precision, which mmengine has on GPUs alone; give "
            "precision=bf16 or precision=fp32"
        )
    if kind not in ("AmpOptimWrapper", "MaeBenchAutocast"):
        return "fp32"
    return "bf16" if wrapper.get("dtype") == "bfloat16" else "fp16"


def _amp(precision: str, device: str) -> Native:
    if precision == "fp32":
        return {"type": "OptimWrapper"}
    if precision == "fp16":
        return {"type": "AmpOptimWrapper", "dtype": "float16", "loss_scale": "dynamic"}
    if device == "cuda":
        # bf16 has the range of fp32 and needs no scaling of the loss.
        return {"type": "AmpOptimWrapper", "dtype": "bfloat16", "loss_scale": {"enabled": False}}
    return {"type": "MaeBenchAutocast", "dtype": "bfloat16"}


def param_scheduler(config: FitConfig, plan: Plan) -> list[Native]:
    """`param_scheduler`: warm-up and schedule, counted in iterations; see `mae_bench.optim.lr_at`."""
    optim, each = config.optim, plan.accumulate
    total, warmup = plan.total_steps * each, int(plan.warmup_steps) * each
    schedulers: list[Native] = []
    # PolyLR and a warm-up before it are complete on their last iteration, the others on the one after it.
    reaches = warmup if optim.schedule == "poly" else warmup + 1
    if warmup:
        factor = max(optim.warmup_factor, _NEARLY_NOTHING)
        schedulers.append(_scheduler("LinearLR", start_factor=factor, begin=0, end=reaches))
    if optim.schedule == "cosine" and total > warmup:
        schedulers.append(
            _scheduler(
                "CosineAnnealingLR",
                T_max=total - warmup,
                eta_min_ratio=optim.min_lr / plan.peak_lr,
                begin=warmup,
                end=total,
            )
        )
    elif optim.schedule == "poly" and total > warmup:
        schedulers.append(
            _scheduler("PolyLR", power=optim.power, eta_min=optim.min_lr, begin=warmup, end=total)
        )
    elif optim.schedule == "multistep":
        milestones = [step * each for step in optim.milestones]
        schedulers.append(_scheduler("MultiStepLR", milestones=milestones, gamma=optim.gamma))
    return schedulers


def _scheduler(kind: str, **values: Any) -> Native:
    return {"type": kind, **values, "by_epoch": False}


def train_cfg(plan: Plan) -> Native:
    """`train_cfg`: the recipe's steps times the iterations of a step; validated at the end."""
    iterations = plan.total_steps * plan.accumulate
    return {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_interval": iterations}


def loader_workers(config: FitConfig, samples: Samples, world: int) -> int:
    """Loader processes of a training process; `samples` is the default engine's training set."""
    from mae_bench.data.loaders import loader_processes

    return loader_processes(config.data.workers, samples, world)


def train_dataloader(dataset: Native, plan: Plan, workers: int, seed: int, **more: Any) -> Native:
    """`train_dataloader`: endless, shuffled by `seed`, in batches of one process and iteration.

    Args:
        dataset: the native dataset.
        more: further keys, such as ``batch_sampler``.
    """
    return {
        "batch_size": plan.micro_batch,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "InfiniteSampler", "shuffle": True, "seed": seed},
        **more,
        "dataset": dataset,
    }


def test_dataloader(dataset: Native, workers: int) -> Native:
    """`val_dataloader` and `test_dataloader`: one image at a time, each once over all processes, in order."""
    return {
        "batch_size": 1,
        "num_workers": workers,
        "persistent_workers": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False, "round_up": False},
        "dataset": dataset,
    }


def surroundings(config: FitConfig, scope: str) -> Native:
    """The top-level values that every native config of a recipe has: scope, hooks, seed, processes, log.

    When we run it, our own hook takes the checkpoint hook's place; that one is for the engine's own tools.
    """
    every = config.train.log_every_steps
    return {
        "default_scope": scope,
        "default_hooks": {
            "timer": {"type": "IterTimerHook"},
            "logger": {"type": "LoggerHook", "interval": every, "log_metric_by_epoch": False},
            "param_scheduler": {"type": "ParamSchedulerHook"},
            "checkpoint": {
                "type": "CheckpointHook",
                "by_epoch": False,
                "interval": config.train.save_every_steps or 5000,
                "max_keep_ckpts": config.train.keep_checkpoints,
            },
            "sampler_seed": {"type": "DistSamplerSeedHook"},
        },
        "env_cfg": {
            "cudnn_benchmark": True,
            "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0},
            "dist_cfg": {"backend": "nccl"},
        },
        "log_processor": {"by_epoch": False, "window_size": every},
        "log_level": "INFO",
        "randomness": {"seed": config.seed},
        "load_from": None,
        "resume": False,
    }
