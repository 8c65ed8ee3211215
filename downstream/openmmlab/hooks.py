"""What a run of ours sees of mmengine's loop: every step is logged, shown and agreed upon, some are saved.

`Watch` does it; the hook that mmengine calls only hands over to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch import Tensor

from downstream.openmmlab.checkpoints import write
from mae_bench import checkpoints
from mae_bench.errors import MaeBenchError
from mae_bench.stopping import Stopper
from mae_bench.train import interrupted, seed_everything

if TYPE_CHECKING:
    from torch import nn

    from mae_bench.run import Run
    from mae_bench.screen import Work


class Handling(Protocol):
    """How a training is carried out; `mae_bench.settings.TrainSettings` is one."""

    @property
    def log_every_steps(self) -> int: ...
    @property
    def save_every_minutes(self) -> float: ...
    @property
    def save_every_steps(self) -> int | None: ...
    @property
    def keep_checkpoints(self) -> int: ...


class Watch:
    """Follows the loop of a runner; see `hook_of`.

    Attributes:
        step: optimiser steps that are done.
        total: optimiser steps of the whole training.
        iterations: iterations of the loop in one step.
    """

    def __init__(
        self,
        run: Run,
        handling: Handling,
        folder: Path,
        *,
        images: int,
        batch: int,
        iterations: int,
        total: int,
        evaluate: Callable[[nn.Module], object],
        evaluate_every: int | None,
    ) -> None:
        self.run, self.handling, self.folder = run, handling, folder
        self.images, self.batch = images, batch
        self.iterations, self.total = iterations, total
        self.evaluate, self.evaluate_every = evaluate, evaluate_every
        self.stopper = Stopper()
        self.work: Work | None = None
        self.step = 0
        self.losses: list[Tensor] = []
        self.loss_sum, self.loss_count = 0.0, 0
        self.last_save = time.monotonic()

    # ------------------------------------------------------------ called by the hook

    def begin(self, runner: Any) -> None:
        """The loop begins, at the start or where a checkpoint ended."""
        seed_everything(self.run.config.seed, self.step, 0, self.run.rank)
        loop = runner.train_loop
        if hasattr(loop, "dataloader_iterator"):
            # The batch sampler has left out what is done already, so there is nothing to read and throw away.
            loop.dataloader_iterator = _AlreadyThere(loop.dataloader_iterator, runner.iter)

    def after(self, runner: Any, outputs: Mapping[str, Tensor]) -> None:
        """An iteration is done, its gradients are in, and at the end of a step the weights have moved."""
        self.losses.append(outputs["loss"].detach().float())
        done = runner.iter + 1
        if done % self.iterations and done != runner.max_iters:
            return
        self.step = math.ceil(done / self.iterations)
        loss, stop, save = self._agree()
        if not math.isfinite(loss):
            self._not_finite()
        assert self.work is not None
        self.work.note(f"loss {loss:.4f}")
        self.work.advance()
        self._log(runner, loss, outputs)
        last = self.step >= self.total
        due = self.evaluate_every is not None and self.step % self.evaluate_every == 0
        if last or stop or save:
            self.save(runner)
        if stop:
            self.leave(stop)
        if due and not last:
            self.evaluate(unwrapped(runner.model))

    def state(self, runner: Any) -> dict[str, Any]:
        """What a checkpoint holds beside mmengine's own state."""
        return {
            "step": self.step,
            "iterations": self.iterations,
            # An iteration-based loop is one epoch to mmengine, number 0.
            "batches": runner.iter + 1 - runner.epoch * len(runner.train_dataloader),
            "elapsed": self.run.elapsed,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
        }

    # ------------------------------------------------------------ steps

    def _agree(self) -> tuple[float, int, bool]:
        """Over all processes: the mean loss of the step, the largest signal, whether any wants to save."""
        mean = torch.stack(self.losses).mean().double()
        self.losses = []
        asked = torch.tensor([float(self.stopper.signal or 0), float(self._save_due())]).to(mean)
        everyone = self.run.gather(torch.cat([mean[None], asked])[None])
        return float(everyone[:, 0].mean()), int(everyone[:, 1].max()), bool(everyone[:, 2].max())

    def _log(self, runner: Any, loss: float, outputs: Mapping[str, Any]) -> None:
        self.loss_sum += loss
        self.loss_count += 1
        if self.step % self.handling.log_every_steps and self.step != self.total:
            return
        assert self.work is not None
        parts = {name: _number(value) for name, value in outputs.items() if name != "loss" and _scalar(value)}
        told = runner.message_hub.log_scalars  # the rate there is the one that this step was made with
        norm = told.get("train/grad_norm")
        values = {
            "epoch": round(self.step * self.batch / self.images, 4),
            "loss": self.loss_sum / self.loss_count,
            "lr": _number((told.get("train/base_lr") or told["train/lr"]).current()),
            **parts,
            **({"grad_norm": _number(norm.current())} if norm is not None else {}),
            "images_per_s": round(self.work.rate * self.batch, 3),
        }
        self.run.log(self.step, values)
        self.loss_sum, self.loss_count = 0.0, 0

    def _save_due(self) -> bool:
        every = self.handling.save_every_steps
        if every is not None:
            return self.step % every == 0
        return time.monotonic() - self.last_save >= 60 * self.handling.save_every_minutes

    def save(self, runner: Any) -> None:
        """Write a checkpoint (main process only), unless the weights are broken."""
        trained = [param for param in runner.model.parameters() if param.requires_grad]
        advice = "Try precision=fp32 or a lower learning rate."
        checkpoints.refuse_broken(trained, self.step, self.folder, advice)
        if self.run.is_main:
            keep = self.handling.keep_checkpoints
            checkpoints.put(self.folder, self.step, lambda path: write(runner, path), keep)
        self.run.barrier()
        self.last_save = time.monotonic()

    # ------------------------------------------------------------ ending before the end

    def leave(self, stop: int) -> NoReturn:
        """Tell that the run was stopped; everything is saved."""
        raise interrupted(self.run, stop, self.step, self.total)

    def _not_finite(self) -> NoReturn:
        raise MaeBenchError(
            f"the loss is not finite at step {self.step:,}. {checkpoints.last_good(self.folder)} Try "
            "precision=fp32, a lower learning rate or a smaller largest gradient (train.clip_grad)."
        )


def hook_of(watch: Watch) -> Any:
    """The hook by which mmengine tells `watch` what happens; the last of all hooks in every place."""
    from mmengine.hooks import Hook

    class Told(Hook):
        priority = "LOWEST"

        def before_train(self, runner: Any) -> None:
            watch.begin(runner)

        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            watch.after(runner, outputs)

        def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
            checkpoint["mae_bench"] = watch.state(runner)

    return Told()


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without what distributed training puts around it."""
    from mmengine.model import is_model_wrapper

    inner: nn.Module = model.module if is_model_wrapper(model) else model  # type: ignore[assignment]
    return inner


class _AlreadyThere:
    """An iterator whose first `passed` items are asked for only to be thrown away, and so are nothing."""

    def __init__(self, batches: Any, passed: int) -> None:
        self.batches, self.passed = batches, passed

    def __next__(self) -> Any:
        if self.passed:
            self.passed -= 1
            return None
        return next(self.batches)


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def _scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
