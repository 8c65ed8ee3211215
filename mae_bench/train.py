"""`fit`: the one training loop. It knows batches, steps and checkpoints, and nothing of the task.

Everything random in a step follows from (seed, step, micro-batch, rank), and everything random about a
sample from (seed, epoch, index): so a run's state is its weights, its optimiser and its step number, and
a run killed anywhere goes on to the same result bit for bit on the same machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import signal
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mae_bench import checkpoints, data, optim, precision, screen
from mae_bench.allocator import keep_freed_memory
from mae_bench.averaging import Average
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.microbatch import choose_micro_batch
from mae_bench.plan import Plan
from mae_bench.settings import FitConfig
from mae_bench.stopping import InterruptedRunError, Stopper

if TYPE_CHECKING:
    from mae_bench.adapter import TrainedAdapter
    from mae_bench.run import Run

T = TypeVar("T", bound=FitConfig)


def seed_everything(*parts: int) -> None:
    """Seed Python's, NumPy's and torch's generators from `parts` (seed, step, micro-batch, rank)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little") >> 1
    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value)


@dataclass
class Progress:
    """What a checkpoint must hold besides tensors."""

    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    elapsed: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


def fit(adapter: TrainedAdapter[T], run: Run) -> dict[str, float]:
    """Train the adapter's model as its recipe says, and evaluate the weights of the last step.

    With `train.ema` the averaged weights are the ones evaluated and kept; metrics of the raw ones come
    along as ``raw_*``.

    Returns:
        The adapter's metrics, the same on every process.

    Raises:
        MaeBenchError: bad data or weights, a batch that does not divide, a loss that is not finite.
        InterruptedRunError: SIGTERM or Ctrl-C; the state is saved.
    """
    return _Fit(adapter, run).go()


class _Fit:
    def __init__(self, adapter: TrainedAdapter[Any], run: Run) -> None:
        self.adapter, self.run, self.config = adapter, run, adapter.config
        self.folder = run.folder / "checkpoints"
        self.stopper = Stopper()
        seed_everything(self.config.seed)
        backbone = adapter.backbone(run)
        self.model = adapter.model(backbone, run).to(run.device).train()
        precision.suit_attention(self.model, run.device, run.precision)
        if run.device.type == "cpu":
            keep_freed_memory()
        self.train_set = adapter.train_set(run)
        saved = checkpoints.load_newest(self.folder, run.device)
        as_before = saved and saved["world"] == run.world and self.config.train.micro_batch == "auto"
        micro = saved["micro_batch"] if saved and as_before else self._micro_batch()
        self.plan = Plan.of(self.config, len(self.train_set), micro, run.world)
        self.optimizer = optim.build_optimizer(adapter.groups(self.model), self.config.optim)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.precision == "fp16")
        self.average = Average(self.model, self.config.train.ema) if self.config.train.ema else None
        self.at = Progress()
        if saved is not None:
            self._restore(saved)
        else:
            run.rewind_log(0)
        if self.config.train.compile:
            self.model.compile()
        self.wrapped = self._wrap()
        self.last_save = time.monotonic()
        self._record()

    # ------------------------------------------------------------ setting up

    def _micro_batch(self) -> int:
        return choose_micro_batch(
            self.config.train.batch,
            self.config.train.micro_batch,
            run=self.run,
            model=self.model,
            step=self.adapter.step,
            samples=self.train_set,
        )

    def _wrap(self) -> nn.Module:
        if self.run.world == 1:
            return self.model
        wrapped: nn.Module = self.run.accelerator.prepare_model(self.model)
        return wrapped

    def _record(self) -> None:
        source = self.train_set.source
        self.run.record(
            dataset={
                "name": self.config.data.name,
                "fingerprint": source.fingerprint(),
                "train_images": len(self.train_set),
                "classes": len(source.classes),
            },
            steps=self.plan.total_steps,
            images_seen=self.plan.total_steps * self.plan.batch,
            epochs=round(self.plan.total_steps / self.plan.steps_per_epoch, 4),
            batch=self.plan.batch,
            micro_batch=self.plan.micro_batch,
            selection="last step",
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average is not None:
            self.average.weights = saved["average"]
        self.at = Progress(**saved["progress"])
        self.run.rewind_log(self.at.step)
        self.run.elapsed_before(self.at.elapsed)
        screen.say(f"resuming at step {self.at.step:,} of {self.plan.total_steps:,}")

    def save(self) -> None:
        """Write a checkpoint (main process only), unless the weights are broken."""
        self._weights_are_finite()
        if self.run.is_main:
            self.at.elapsed = self.run.elapsed
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.weights if self.average is not None else None,
                "progress": vars(self.at),
                "micro_batch": self.plan.micro_batch,
                "world": self.run.world,
            }
            checkpoints.save(self.folder, self.at.step, state, self.config.train.keep_checkpoints)
        self.last_save = time.monotonic()

    # ------------------------------------------------------------ the loop

    def go(self) -> dict[str, float]:
        plan, settings = self.plan, self.config.train
        begun_at = self.at.step
        evaluate_every = (
            round(settings.evaluate_every_epochs * plan.steps_per_epoch)
            if settings.evaluate_every_epochs
            else None
        )
        batches = data.training_batches(
            self.train_set,
            batch=plan.batch,
            micro_batch=plan.micro_batch,
            rank=self.run.rank,
            world=self.run.world,
            start_step=begun_at,
            workers=self.config.data.workers,
            seed=self.config.seed,
        )
        with (
            self.stopper,
            screen.progress(self.config.recipe, plan.total_steps, "steps", start=begun_at) as work,
        ):
            self.model.train()
            while True:
                last = self.at.step >= plan.total_steps
                fresh = self.at.step > begun_at
                if fresh and (last or self._save_due()):
                    self.save()
                if last:
                    break
                if fresh and evaluate_every and self.at.step % max(evaluate_every, 1) == 0:
                    self._evaluate()
                try:
                    loss, stop = self._step(batches)
                except torch.OutOfMemoryError as error:
                    raise self._out_of_memory() from error
                work.note(f"loss {loss:.4f}")
                work.advance()
                self._log(loss, work.rate * plan.batch)
                if stop:
                    self._leave(stop)
            batches.close()
            self._tell_unreadable()
            metrics = self._evaluate()
        self._keep_weights()
        return metrics

    def _step(self, batches: Iterator[dict[str, Any]]) -> tuple[float, int]:
        """One optimiser step over its micro-batches; returns the mean loss of all and a signal or 0."""
        step, plan, run = self.at.step, self.plan, self.run
        lr = optim.scheduled_lr(
            self.config.optim, step, plan.total_steps, peak=plan.peak_lr, warmup_steps=plan.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        losses: list[Tensor] = []
        indices: list[Tensor] = []
        extras: dict[str, float] = {}
        for micro in range(plan.accumulate):
            batch = data.to_device(next(batches), run.device)
            seed_everything(self.config.seed, step, micro, run.rank)
            last = micro == plan.accumulate - 1
            alone = nullcontext() if last or run.world == 1 else self.wrapped.no_sync()  # type: ignore[operator]
            with alone:
                with run.autocast():
                    out = self.adapter.step(self.wrapped, batch)
                loss = out["loss"] / plan.accumulate
                self.scaler.scale(loss).backward()
            losses.append(out["loss"].detach().float())
            indices.append(batch["index"])
            if last and self._log_due(step + 1):
                extras = {name: float(value.detach()) for name, value in out.items() if name != "loss"}
        mean, stop = self._agree(torch.stack(losses))
        if not math.isfinite(mean):
            self._not_finite(torch.stack(losses), indices)
        if self.config.train.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            params = [param for group in self.optimizer.param_groups for param in group["params"]]
            extras["grad_norm"] = float(nn.utils.clip_grad_norm_(params, self.config.train.clip_grad))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        self.at.step = step + 1
        self.at.extra = {"lr": lr, **extras}
        return mean, stop

    def _agree(self, losses: Tensor) -> tuple[float, int]:
        """Mean loss over all processes and the largest signal any of them got."""
        local = torch.stack(
            [losses.mean().double(), torch.tensor(float(self.stopper.signal or 0)).to(losses.device)]
        )
        if self.run.world == 1:
            return float(local[0]), int(local[1])
        everyone = self.run.gather(local[None])
        return float(everyone[:, 0].mean()), int(everyone[:, 1].max())

    def _log_due(self, step: int) -> bool:
        return step % self.config.train.log_every_steps == 0 or step == self.plan.total_steps

    def _log(self, loss: float, images_per_second: float) -> None:
        self.at.loss_sum += loss
        self.at.loss_count += 1
        if not self._log_due(self.at.step):
            return
        values = {
            "epoch": round(self.at.step / self.plan.steps_per_epoch, 4),
            "loss": self.at.loss_sum / self.at.loss_count,
            **self.at.extra,
            "images_per_s": round(images_per_second, 3),
        }
        self.run.log(self.at.step, values)
        self.at.loss_sum, self.at.loss_count = 0.0, 0

    def _save_due(self) -> bool:
        every = self.config.train.save_every_steps
        if every is not None:
            return self.at.step % every == 0
        return time.monotonic() - self.last_save >= 60 * self.config.train.save_every_minutes

    # ------------------------------------------------------------ evaluating and ending

    def _evaluate(self) -> dict[str, float]:
        """Metrics of the weights as they are, logged; nothing changes here, so it may be interrupted."""
        self.stopper.deferring = False
        try:
            metrics = self._metrics()
        except KeyboardInterrupt:
            self._leave(self.stopper.signal or signal.SIGINT)
        self.stopper.deferring = True
        self.run.log(self.at.step, {"eval": metrics})
        return metrics

    def _metrics(self) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            if self.average is not None:
                raw = self.adapter.evaluate(self.model, self.run)
                with self.average.in_place_of(self.model):
                    metrics = dict(self.adapter.evaluate(self.model, self.run))
                metrics |= {f"raw_{name}": value for name, value in raw.items()}
            else:
                metrics = dict(self.adapter.evaluate(self.model, self.run))
        self.model.train()
        return metrics

    def _tell_unreadable(self) -> None:
        """Name the images that were replaced by a neighbour, and put them on record."""
        bad = self.train_set.bad_images()
        if bad:
            screen.warn(
                f"{len(bad)} training images could not be read and were replaced by a neighbour: {bad[0]}"
            )
            self.run.record(details={"unreadable_images": dict.fromkeys(bad, True)})

    def _keep_weights(self) -> None:
        """Leave the reported weights as `model.safetensors` and what else the task leaves."""
        if self.run.is_main:
            from safetensors.torch import save

            reported = self.average.in_place_of(self.model) if self.average is not None else nullcontext()
            with reported:
                state = {
                    name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()
                }
                content = save(state)
                write_atomic(self.run.folder / "model.safetensors", content)
                # Whoever uses them later can tell that they are the ones that were reported.
                self.run.record(details={"model_sha256": hashlib.sha256(content).hexdigest()})
                self.adapter.finish(self.model, self.run)
            # The optimiser's state has done its service; one checkpoint stays, for going on with more steps.
            checkpoints.drop_all_but(self.folder, 1)
        self.run.barrier()

    def _leave(self, stop: int) -> NoReturn:
        self.save()
        self.run.barrier()
        raise interrupted(self.run, stop, self.at.step, self.plan.total_steps)

    def _out_of_memory(self) -> MaeBenchError:
        """What to say, and to save, when a step met more than the trial before the first one showed."""
        if self.run.world == 1 and self.at.step:
            self.save()
        smaller = self.plan.micro_batch // 2
        advice = (
            f"Give the same command with a train.micro_batch that divides {self.plan.batch} and is at most "
            f"{smaller}"
            if smaller
            else "Not even one image fits: take a smaller backbone or image, or more memory"
        )
        return MaeBenchError(
            f"memory ran out at step {self.at.step:,} with micro-batches of {self.plan.micro_batch}. "
            f"{self._last_good()} {advice}."
        )

    def _not_finite(self, losses: Tensor, indices: list[Tensor]) -> NoReturn:
        """Stop, naming the samples of the micro-batches whose loss is not a number."""
        bad = [index for loss, index in zip(losses, indices, strict=True) if not bool(torch.isfinite(loss))]
        names = [self.train_set.source.name(int(i)) for index in bad for i in index]
        path = self.run.folder / f"not-finite-step-{self.at.step}-rank-{self.run.rank}.json"
        if names:
            write_atomic(path, json.dumps({"step": self.at.step, "samples": names}, indent=2) + "\n")
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more in {path}" if len(names) > 4 else "")
        raise MaeBenchError(
            f"the loss is not finite at step {self.at.step:,} (samples: {shown or 'of another process'}). "
            f"{self._last_good()} Try precision=fp32, a lower learning rate or train.clip_grad=1."
        )

    def _weights_are_finite(self) -> None:
        checkpoints.refuse_broken(
            (param for param in self.model.parameters() if param.requires_grad),
            self.at.step,
            self.folder,
            "Try precision=fp32, a lower learning rate or train.clip_grad=1.",
        )

    def _last_good(self) -> str:
        return checkpoints.last_good(self.folder)


def interrupted(run: Run, stop: int, step: int, total: int) -> InterruptedRunError:
    """What to raise when a signal has stopped a run at `step` of `total`, and everything is saved."""
    return InterruptedRunError(
        f"stopped by {signal.Signals(stop).name} at step {step:,} of {total:,}; everything is saved in "
        f"{run.folder}. To go on, give the same command again, or: {resume_command(run)}",
        status=128 + stop,
    )


def resume_command(run: Run) -> str:
    """A command that goes on with this run, whatever the first one was."""
    verb = "pretrain --recipe" if not run.adapter.needs_backbone else "run --task"
    return (
        f"mae-bench {verb} {run.folder / 'config.yaml'} --data-root {run.data_root} --runs {run.runs_root} "
        f"--name {run.folder.relative_to(run.runs_root)}"
    )
