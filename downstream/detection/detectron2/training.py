"""Carries a configuration of detectron2 out with detectron2's trainer, inside of a run of ours."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from downstream.detection.detectron2 import logs, presence
from downstream.detection.detectron2.checkpoints import checkpointer
from downstream.detection.detectron2.data import Readable
from downstream.detection.detectron2.hooks import FOLDER, Handling, Training, Watched, around
from mae_bench import checkpoints, precision, screen
from mae_bench.allocator import keep_freed_memory
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.norms import synchronised
from mae_bench.plan import Plan
from mae_bench.stopping import Stopper
from mae_bench.train import interrupted, seed_everything

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mae_bench.run import Run

LOG_FILE = "log.txt"
Evaluate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Work:
    """A training to carry out.

    Attributes:
        model: of detectron2, on the CPU.
        config: the configuration that it was made by.
        plan: how many steps, of which batches.
        handling: how often is logged, saved, evaluated.
        keep: how many checkpoints stay.
        evaluate: metrics of the model's weights as they are.
    """

    model: nn.Module
    config: DictConfig
    plan: Plan
    handling: Handling
    keep: int
    evaluate: Evaluate


def whole_batch(batch: int, micro_batch: Any, world: int) -> int:
    """Images of one process in a step.

    Raises:
        MaeBenchError: `micro_batch` is another number, as detectron2 accumulates no gradients; the processes
            do not divide the batch.
    """
    if batch % world:
        raise MaeBenchError(f"train.batch: {batch} is not divisible by the {world} processes")
    share = batch // world
    if micro_batch not in ("auto", share):
        raise MaeBenchError(
            f"train.micro_batch: detectron2 accumulates no gradients, so the {share} images of each process "
            f"(train.batch {batch} / {world} processes) go through at once; leave it at auto, take more "
            "processes, or use --engine torchvision"
        )
    return share


def prepared(model: nn.Module, run: Run) -> nn.Module:
    """The model on the run's device, with the attention that suits it and norms that processes share."""
    ready = synchronised(model).to(run.device)
    precision.suit_attention(ready, run.device, run.precision)
    return ready


def train(work: Work, run: Run) -> dict[str, float]:
    """Train to the last step, or go on from the newest checkpoint; evaluate and keep the last weights.

    Raises:
        MaeBenchError: an image that cannot be read, a loss that is not finite, too little memory.
        InterruptedRunError: SIGTERM or Ctrl-C; the state is saved.
    """
    with logs.kept_in(run.folder / FOLDER / LOG_FILE), presence.quiet(), Stopper() as stopper:
        model = _trained(work, run, stopper)
        stopper.deferring = False
        try:
            metrics = work.evaluate(model)
        except KeyboardInterrupt:
            steps = work.plan.total_steps
            raise interrupted(run, stopper.signal or signal.SIGINT, steps, steps) from None
        stopper.deferring = True
        run.log(work.plan.total_steps, {"eval": metrics})
    _keep_weights(model, run)
    return metrics


def _trained(work: Work, run: Run, stopper: Stopper) -> nn.Module:
    from detectron2.engine import create_ddp_model

    model, config, plan = prepared(work.model, run), work.config, work.plan
    if run.device.type == "cpu":
        keep_freed_memory()
    config.optimizer.params.model = model
    optimizer = made(config, "optimizer")
    devices = [run.device] if run.device.type == "cuda" else None
    watched = Watched(create_ddp_model(model, device_ids=devices, **_ddp(config)), run)
    keeper = checkpointer(model, run.folder / FOLDER, work.keep)
    trainer = _trainer(watched, optimizer, work, run)
    keeper.add_checkpointable("trainer", trainer)
    training = Training(run, plan, watched, stopper, work.handling, partial(_evaluate, work, model, run))
    trainer.register_hooks(around(training, optimizer, made(config, "lr_multiplier"), keeper))
    begin = _resumed(keeper, plan, run)
    if begin >= plan.total_steps:
        return model
    images = _training_images(config, begin * plan.batch)
    seed_everything(run.config.seed, begin, run.rank)  # of loader processes, if there are any
    trainer.data_loader = Readable(images)
    with screen.progress(run.config.recipe, plan.total_steps, "steps", start=begin) as training.work:
        try:
            trainer.train(begin, plan.total_steps)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(training) from error
    return model


def _resumed(keeper: Any, plan: Plan, run: Run) -> int:
    """Load the newest checkpoint, if there is one; after how many steps it was saved."""
    begin, elapsed = keeper.newest()
    run.rewind_log(begin)
    if begin:
        run.elapsed_before(elapsed)
        screen.say(f"resuming at step {begin:,} of {plan.total_steps:,}")
    return int(begin)


def _training_images(config: DictConfig, start: int) -> Any:
    """The configuration's training loader, from image `start` on of all that it gives."""
    order = config.dataloader.train.sampler
    if "start" in order:
        order.start = start
    elif start:
        screen.warn("the file's own sampler begins its order of images anew, as it cannot be entered later")
    return made(config, "dataloader.train")


def made(config: DictConfig, part: str) -> Any:
    """What a part of the configuration describes.

    Raises:
        MaeBenchError: detectron2 cannot make it; the file asks for what is not there.
    """
    from detectron2.config import instantiate
    from omegaconf import OmegaConf

    try:
        return instantiate(OmegaConf.select(config, part))
    except (ImportError, AttributeError, TypeError, ValueError, AssertionError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
        raise MaeBenchError(f"detectron2 cannot make '{part}' of its configuration ({why})") from error


def _ddp(config: DictConfig) -> dict[str, Any]:
    """How the configuration wants the model distributed."""
    return dict(config.train.get("ddp", {}))


def _trainer(watched: Watched, optimizer: torch.optim.Optimizer, work: Work, run: Run) -> Any:
    """detectron2's trainer: with scaled gradients for fp16, else the simple one; the model autocasts."""
    from detectron2.engine import AMPTrainer, SimpleTrainer

    every = work.handling.log_every_steps
    if run.precision == "fp16":
        scaler = torch.amp.GradScaler("cuda")
        return AMPTrainer(
            watched, None, optimizer, gather_metric_period=every, grad_scaler=scaler, precision=torch.float16
        )
    return SimpleTrainer(watched, None, optimizer, gather_metric_period=every)


def _evaluate(work: Work, model: nn.Module, run: Run, step: int) -> None:
    metrics = work.evaluate(model)
    model.train()
    run.log(step, {"eval": metrics})


def _out_of_memory(training: Training) -> MaeBenchError:
    share = training.plan.micro_batch
    return MaeBenchError(
        f"memory ran out at step {training.step:,} with {share} images in each process. "
        f"{training.last_good()} detectron2 accumulates no gradients: take more processes or a smaller "
        "train.batch, give model.checkpointing=true, or use --engine torchvision with a smaller "
        "train.micro_batch."
    )


def _keep_weights(model: nn.Module, run: Run) -> None:
    """Leave the reported weights as `model.safetensors`, under detectron2's names, and one checkpoint."""
    if run.is_main:
        from safetensors.torch import save

        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        write_atomic(run.folder / "model.safetensors", save(state))
        checkpoints.drop_all_but(Path(run.folder / FOLDER), 1)
    run.barrier()
