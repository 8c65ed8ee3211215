"""What a training of detectron2 does for our run between its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from mae_bench import checkpoints
from mae_bench.errors import MaeBenchError
from mae_bench.stopping import Stopper
from mae_bench.train import interrupted, seed_everything

if TYPE_CHECKING:
    from mae_bench.plan import Plan
    from mae_bench.run import Run
    from mae_bench.screen import Work

ADVICE = "Try precision=fp32, a lower learning rate or train.clip_grad=1."


class Handling(Protocol):
    """What of a recipe's ``train`` says how a training is carried out."""

    @property
    def log_every_steps(self) -> int: ...
    @property
    def save_every_steps(self) -> int | None: ...
    @property
    def save_every_minutes(self) -> float: ...
    @property
    def evaluate_every_epochs(self) -> float | None: ...


class Watched:
    """The model as a trainer of detectron2 calls it: in the run's precision, its losses remembered.

    Attributes:
        losses: those of the last batch, float32.
        files: images of the last batch.
    """

    def __init__(self, model: nn.Module, run: Run) -> None:
        self._model, self._run = model, run
        self.losses: dict[str, Tensor] = {}
        self.files: list[str] = []

    @property
    def training(self) -> bool:
        return self._model.training

    def train(self) -> None:
        self._model.train()

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        with self._run.autocast():
            losses: dict[str, Tensor] = self._model(batch)
        self.losses = {name: loss.detach().float() for name, loss in losses.items()}
        self.files = [str(image["file_name"]) for image in batch]
        return losses


class Training:
    """What the hooks of one training share.

    Attributes:
        step: how many steps there have been, earlier parts of a resumed run included.
        work: shows the progress.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        watched: Watched,
        stopper: Stopper,
        settings: Handling,
        evaluate: Callable[[int], None],
    ) -> None:
        self.run, self.plan, self.watched, self.stopper = run, plan, watched, stopper
        self.settings, self._evaluate = settings, evaluate
        self._evaluate_every = round((settings.evaluate_every_epochs or 0) * plan.steps_per_epoch)
        self.work: Work | None = None
        self.step = 0
        self.stop = 0
        self.loss = math.nan
        self._sum, self._count = 0.0, 0
        self._last_save = time.monotonic()

    # ------------------------------------------------------------ each step

    def begin(self, step: int) -> None:
        """Before a step: whatever is random in it follows from the seed and its number."""
        self.step = step
        seed_everything(self.run.config.seed, step, 0, self.run.rank)

    def judge_loss(self) -> None:
        """After the backward pass, before the weights change: stop everywhere if the loss is no number."""
        loss = torch.stack(list(self.watched.losses.values())).sum().double()
        told = torch.stack([loss, torch.tensor(float(self.stopper.signal or 0)).to(loss)])
        everyone = self.run.gather(told[None])
        self.loss, self.stop = float(everyone[:, 0].mean()), int(everyone[:, 1].max())
        if not math.isfinite(self.loss):
            own = "of another process" if math.isfinite(float(loss)) else ", ".join(self.watched.files[:4])
            raise MaeBenchError(
                f"the loss is not finite at step {self.step:,} (samples: {own}). {self.last_good()} {ADVICE}"
            )

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        """After a step, before the rate changes: tell of it."""
        self.step += 1
        self._sum, self._count = self._sum + self.loss, self._count + 1
        assert self.work is not None
        self.work.note(f"loss {self.loss:.4f}")
        self.work.advance()
        if self.step % self.settings.log_every_steps and self.step != self.plan.total_steps:
            return
        values = {
            "epoch": round(self.step / self.plan.steps_per_epoch, 4),
            "loss": self._sum / self._count,
            # Of the layers behind the backbone, whose share of the rate is 1.
            "lr": max(group["lr"] for group in optimizer.param_groups),
            **{name: float(loss) for name, loss in self.watched.losses.items()},
            **({"grad_norm": float(optimizer.grad_norm)} if hasattr(optimizer, "grad_norm") else {}),
            "images_per_s": round(self.work.rate * self.plan.batch, 3),
        }
        self.run.log(self.step, values)
        self._sum, self._count = 0.0, 0

    # ------------------------------------------------------------ keeping

    def save(self, checkpointer: Any) -> None:
        """Write a checkpoint (main process only), unless the weights are broken."""
        params = [param for param in checkpointer.model.parameters() if param.requires_grad]
        checkpoints.refuse_broken(params, self.step, self.run.folder / FOLDER, ADVICE)
        if self.run.is_main:
            checkpointer.save_step(self.step, self.run.elapsed)
        self._last_save = time.monotonic()

    def save_due(self) -> bool:
        """Whether a checkpoint is due; the same on every process is not needed, as only one writes."""
        if self.step == self.plan.total_steps:
            return True
        if self.settings.save_every_steps is not None:
            return self.step % self.settings.save_every_steps == 0
        return time.monotonic() - self._last_save >= 60 * self.settings.save_every_minutes

    def evaluate_if_due(self) -> None:
        """Judge the weights for the curve, as often as the recipe asks for it; not after the last step."""
        if self.settings.evaluate_every_epochs is None or self.step == self.plan.total_steps:
            return
        if self.step % max(self._evaluate_every, 1) == 0:
            self._evaluate(self.step)

    def leave(self, checkpointer: Any) -> None:
        """Save and stop, as a signal asked for."""
        self.save(checkpointer)
        self.run.barrier()
        raise interrupted(self.run, self.stop, self.step, self.plan.total_steps)

    def last_good(self) -> str:
        return checkpoints.last_good(self.run.folder / FOLDER)


FOLDER = "detectron2"
"""Folder of what detectron2 writes, in the run's."""


def around(
    training: Training, optimizer: torch.optim.Optimizer, scheduler: Any, checkpointer: Any
) -> list[Any]:
    """The hooks of a training, in order: ours, detectron2's for the schedule, and ours for what is kept."""
    from detectron2.engine import hooks

    before, after = _kinds()
    return [
        before(training, optimizer),
        hooks.LRScheduler(optimizer, scheduler),
        after(training, checkpointer),
    ]


@cache
def _kinds() -> tuple[Any, Any]:
    from detectron2.engine import HookBase

    class Before(HookBase):
        """Seeds each step, looks at its loss, tells of it at the rate that it was made with."""

        def __init__(self, training: Training, optimizer: torch.optim.Optimizer) -> None:
            self._training, self._optimizer = training, optimizer

        def before_step(self) -> None:
            self._training.begin(self.trainer.iter)

        def after_backward(self) -> None:
            self._training.judge_loss()

        def after_step(self) -> None:
            self._training.end(self._optimizer)

    class After(HookBase):
        """Saves when it is due, and leaves when asked to, with the rate of the next step in place."""

        def __init__(self, training: Training, checkpointer: Any) -> None:
            self._training, self._checkpointer = training, checkpointer

        def after_step(self) -> None:
            if self._training.stop:
                self._training.leave(self._checkpointer)
            if self._training.save_due():
                self._training.save(self._checkpointer)
            self._training.evaluate_if_due()

    return Before, After
