"""A native config of mmengine, carried out inside a run of ours.

The native config says what is computed; the run says where files go, what is shown, when to save and to stop.
Its validation and test parts are for the engine's own tools: evaluation here is ours, by the task's judge.

    native = mmengine.Config({...})                    # see downstream.openmmlab.recipe
    write_config(native, run.folder / "mmseg_config.py", "what made it")
    with supplying(run.backbone(...)):                 # see downstream.openmmlab.modules
        model = build_model(native, seed=config.seed)
    metrics = fit(native, model, run, config.train, evaluate)
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from downstream.openmmlab.checkpoints import progress_of, safe_globals
from downstream.openmmlab.hooks import Handling, Watch, hook_of, unwrapped
from downstream.openmmlab.modules import register
from downstream.openmmlab.native import with_text
from downstream.openmmlab.runner import building, numbers, plain_errors, runner_class, undisturbed
from mae_bench import checkpoints, precision, screen
from mae_bench.allocator import keep_freed_memory
from mae_bench.data.loaders import leave_signals_to_parent
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    import torch

    from mae_bench.run import Run

FOLDER = "mmengine"
"""Below the run's folder: mmengine's logs and checkpoints."""


def fit(
    native: Any,
    model: nn.Module,
    run: Run,
    handling: Handling,
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    *,
    evaluate_every_epochs: float | None = None,
) -> dict[str, float]:
    """Train `model` by mmengine's Runner as `native` says, evaluate the last weights, keep them.

    Goes on from the newest intact checkpoint in ``RUN/mmengine``. Afterwards ``model.safetensors`` holds the
    reported weights (the averaged ones where the config has an EMAHook), under the engine's names. Steps,
    batch, images and epochs are recorded; a step is an update of the weights, over all processes and
    accumulated iterations.

    Args:
        native: a `mmengine.Config`; its val and test parts, checkpoint hook and work_dir are not used.
        model: of `build_model`, with the weights to begin with; on any device.
        handling: when to log and to save; ``config.train`` is one.
        evaluate: metrics of the unwrapped model, in evaluation mode, without gradients; the same on every
            process.
        evaluate_every_epochs: also evaluate during training, for the curve.

    Returns:
        What `evaluate` says of the last weights.

    Raises:
        MaeBenchError: data that cannot be read, a loss that is not finite, memory that runs out, a checkpoint
            that does not fit.
        InterruptedRunError: SIGTERM or Ctrl-C; the state is saved.
    """
    register()
    try:
        with undisturbed():
            return _Training(native, model, run, handling, evaluate, evaluate_every_epochs).go()
    except MaeBenchError:
        if run.is_main and not (run.folder / "metrics.jsonl").exists():
            # Not a step was made, so that there is nothing to go on with.
            shutil.rmtree(run.folder / FOLDER, ignore_errors=True)
        raise


class _Training:
    def __init__(
        self,
        native: Any,
        model: nn.Module,
        run: Run,
        handling: Handling,
        evaluate: Callable[[nn.Module], Mapping[str, float]],
        evaluate_every_epochs: float | None,
    ) -> None:
        self.run, self.handling, self.measure = run, handling, evaluate
        self.native = with_text(native)
        self.folder = run.folder / FOLDER
        self.iterations = int(self.native.optim_wrapper.get("accumulative_counts", 1))
        found = checkpoints.newest_intact(self.folder)
        self.done = self._progress(found) if found is not None else {}
        precision.suit_attention(model, run.device, run.precision)
        if run.device.type == "cpu":
            keep_freed_memory()
        with building("the training of the config"):
            self.runner = self._runner(model, found)
            loop = self.runner.train_loop  # built now, with its data
            self.runner.optim_wrapper = self.runner.build_optim_wrapper(self.runner.optim_wrapper)
        images = len(loop.dataloader.dataset)
        batch = _batch_of(loop.dataloader) * run.world * self.iterations
        self.watch = Watch(
            run,
            handling,
            self.folder,
            images=images,
            batch=batch,
            iterations=self.iterations,
            total=-(-self.runner.max_iters // self.iterations),
            evaluate=self._evaluate,
            evaluate_every=(
                max(1, round(evaluate_every_epochs * images / batch)) if evaluate_every_epochs else None
            ),
        )
        self.runner.register_hook(hook_of(self.watch))
        self._record(images, batch)

    def _progress(self, found: Path) -> dict[str, Any]:
        done = progress_of(found)
        if done["iterations"] != self.iterations:
            raise MaeBenchError(
                f"this run began with {done['iterations']} iterations a step, and now there are "
                f"{self.iterations}: take the same train.micro_batch and number of processes, or --force"
            )
        return done

    def _runner(self, model: nn.Module, found: Path | None) -> Any:
        native, seed = self.native, self.run.config.seed
        randomness = {**native.get("randomness", {}), "seed": seed}
        visualizer = dict(native.get("visualizer") or {})
        visualizer.pop("name", None)  # a name of its own for each run, or mmengine takes the last one's
        return runner_class()(
            model=model,
            work_dir=str(self.folder),
            train_dataloader=self._batches(seed),
            train_cfg=native.train_cfg,
            optim_wrapper=native.optim_wrapper,
            param_scheduler=native.get("param_scheduler"),
            auto_scale_lr=native.get("auto_scale_lr"),
            default_hooks={**native.get("default_hooks", {}), "checkpoint": None},
            custom_hooks=native.get("custom_hooks"),
            load_from=native.get("load_from") if found is None else str(found),
            resume=found is not None,
            launcher="pytorch" if self.run.world > 1 else "none",
            env_cfg=native.get("env_cfg", {}),
            log_processor=native.get("log_processor"),
            visualizer=visualizer or None,
            default_scope=native.get("default_scope", "mmengine"),
            randomness=randomness,
            experiment_name=f"mae-bench-{next(numbers)}",
            cfg=native,
        )

    def _batches(self, seed: int) -> dict[str, Any]:
        """The native `train_dataloader` from where the run stands; its processes leave signals to us."""
        values: dict[str, Any] = copy.deepcopy(self.native.train_dataloader.to_dict())
        if isinstance(values.get("sampler"), dict):
            values["sampler"].setdefault("seed", seed)
        if self.done:
            values["batch_sampler"] = {
                "type": "MaeBenchBatchesFrom",
                "first": self.done["batches"],
                "drop_last": values.pop("drop_last", False),
                "inner": values.get("batch_sampler"),
            }
        if "worker_init_fn" not in values:
            # Else the loader processes of a run that goes on would draw again what they drew at the start.
            begun = seed + self.done.get("iter", 0)
            workers = {"num_workers": values.get("num_workers", 0), "rank": self.run.rank, "seed": begun}
            values["worker_init_fn"] = {"type": partial(_begin_worker), **workers}
        return values

    def _record(self, images: int, batch: int) -> None:
        steps = self.watch.total
        self.run.record(
            steps=steps,
            images_seen=steps * batch,
            epochs=round(steps * batch / images, 4),
            batch=batch,
            micro_batch=batch // (self.run.world * self.iterations),
            selection="last step",
        )

    # ------------------------------------------------------------ going

    def go(self) -> dict[str, float]:
        """Train what is left, then evaluate and keep the weights."""
        watch, run, done = self.watch, self.run, self.done
        watch.step = done.get("step", 0)
        run.rewind_log(watch.step)
        if done:
            watch.loss_sum, watch.loss_count = done["loss_sum"], done["loss_count"]
            run.elapsed_before(done["elapsed"])
            screen.say(f"resuming at step {watch.step:,} of {watch.total:,}")
        with ExitStack() as stack:
            stack.callback(_close, self.runner.train_loop)
            stack.enter_context(watch.stopper)
            watch.work = stack.enter_context(
                screen.progress(run.config.recipe, watch.total, "steps", start=watch.step)
            )
            with plain_errors("a training step", advice=self._smaller()), safe_globals():
                self.runner.train()
            _close(self.runner.train_loop)
            with self._averaged():
                metrics = self._evaluate(unwrapped(self.runner.model))
                self._keep_weights(unwrapped(self.runner.model))
        return metrics

    def _smaller(self) -> str:
        return (
            f"give a train.micro_batch (or batch_size) smaller than {_batch_of(self.runner.train_dataloader)}"
        )

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of the weights as they are, logged; nothing changes here, so it may be interrupted."""
        import signal

        import torch

        training, watch = model.training, self.watch
        model.eval()
        watch.stopper.deferring = False
        try:
            with torch.no_grad():
                metrics = dict(self.measure(model))
        except KeyboardInterrupt:
            watch.leave(watch.stopper.signal or signal.SIGINT)
        watch.stopper.deferring = True
        model.train(training)
        self.run.log(watch.step, {"eval": metrics})
        return metrics

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """With the averaged weights in place, where the config has a hook that averages."""
        from mmengine.hooks import EMAHook

        averaging = [hook for hook in self.runner.hooks if isinstance(hook, EMAHook)]
        for hook in averaging:
            hook.before_test_epoch(self.runner)
        yield
        for hook in averaging:
            hook.after_test_epoch(self.runner)

    def _keep_weights(self, model: nn.Module) -> None:
        """Leave the reported weights as `model.safetensors`, and one checkpoint."""
        if self.run.is_main:
            from safetensors.torch import save

            state: dict[str, torch.Tensor] = {
                name: value.detach().to("cpu", copy=True).contiguous()  # names may share a tensor
                for name, value in model.state_dict().items()
            }
            write_atomic(self.run.folder / "model.safetensors", save(state))
            checkpoints.drop_all_but(self.folder, 1)
        self.run.barrier()


def _begin_worker(worker_id: int, **values: Any) -> None:
    """What mmengine does in a loader process, and signals left to the parent."""
    from mmengine.dataset import worker_init_fn

    leave_signals_to_parent(worker_id)
    worker_init_fn(worker_id, **values)


def _batch_of(loader: Any) -> int:
    return int(loader.batch_size or loader.batch_sampler.batch_size)


def _close(loop: Any) -> None:
    """End the loader processes of a loop now; with the last reference they would end some time."""
    endless = getattr(loop, "dataloader_iterator", None)
    for holder in (getattr(endless, "batches", endless), loop.dataloader):
        stop = getattr(getattr(holder, "_iterator", None), "_shutdown_workers", None)
        if stop is not None:
            stop()
