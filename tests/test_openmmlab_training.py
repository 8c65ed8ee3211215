"""Our recipes as mmengine carries them out: rates, accumulation, checkpoints, stopping, going on, two processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mae_bench
from downstream.openmmlab import checkpoints as safe
from downstream.openmmlab import recipe as native_recipe
from downstream.openmmlab.hooks import Watch
from downstream.openmmlab.presence import ready
from downstream.openmmlab.runner import plain_errors
from mae_bench import checkpoints
from mae_bench.errors import MaeBenchError
from mae_bench.optim import scheduled_lr
from mae_bench.plan import peak_lr
from mae_bench.recipe import resolve
from mae_bench.stopping import InterruptedRunError
from tests.launch import finish, on_two_processes

pytestmark = pytest.mark.engine

BACKBONE = "random:vit_tiny_patch16_224?patch_size=8&embed_dim=16&depth=4&num_heads=2&img_size=32"
SMALL = [
    "data.root=generated/tiny-scenes/ade20k",
    "precision=fp32",
    "train.steps=10",
    "train.batch=4",
    "train.log_every_steps=1",
    "optim.warmup_steps=3",
    "model.channels=8",
    "model.auxiliary_channels=8",
    "data.workers=0",
]


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    ready("mmseg")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated data, and an uninterrupted run as `runs/whole`."""
    place = tmp_path_factory.mktemp("mmengine")
    train(place, "whole")
    return place


def train(place: Path, name: str, *overrides: str) -> Any:
    roots = {"data_root": place / "data", "runs_root": place / "runs"}
    return mae_bench.run("demo/ade20k", BACKBONE, small(*overrides), **roots, name=name, engine="mmseg")


def small(*overrides: str) -> list[str]:
    """The overrides of a short run, and more, which win."""
    return list({text.partition("=")[0]: text for text in (*SMALL, *overrides)}.values())


def config_of(*overrides: str) -> Any:
    return resolve("demo/ade20k", small(*overrides), engine="mmseg").config


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- schedules

SCHEDULES = {
    "cosine": ["optim.schedule=cosine", "optim.min_lr=1.0e-3"],
    "constant": ["optim.schedule=constant"],
    "multistep": ["optim.schedule=multistep", "optim.milestones=[40,70,71]", "optim.gamma=0.3"],
    "poly": ["optim.schedule=poly", "optim.power=0.9"],
}


@pytest.mark.parametrize("warmup", [[0, 0.0], [1, 0.0], [13, 0.0], [13, 0.1]], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_are_ours_step_by_step(schedule: str, warmup: list[float]) -> None:
    from mmengine.registry import PARAM_SCHEDULERS

    steps, factor = warmup
    if schedule == "poly" and steps == 1:
        steps = 2
    config = config_of(
        "train.steps=100",
        f"optim.warmup_steps={steps}",
        f"optim.warmup_factor={factor}",
        *SCHEDULES[schedule],
    )
    plan = native_recipe.plan(config, 100, 1)
    peak = plan.peak_lr
    optimizer = torch.optim.SGD(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": peak * scale} for scale in (1.0, 0.25)], lr=peak
    )
    schedulers = [
        PARAM_SCHEDULERS.build({**values, "optimizer": optimizer})
        for values in native_recipe.param_scheduler(config, plan)
    ]
    for step in range(100):
        expected = scheduled_lr(config.optim, step, 100, peak=peak, warmup_steps=steps)
        for group, scale in zip(optimizer.param_groups, (1.0, 0.25), strict=True):
            assert group["lr"] == pytest.approx(scale * expected, rel=1e-7, abs=1e-11 * peak), step
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_an_accumulated_step_is_several_iterations() -> None:
    config = config_of("train.micro_batch=1", "optim.schedule=multistep", "optim.milestones=[5,7]")
    plan = native_recipe.plan(config, 24, 2)
    assert (plan.micro_batch, plan.accumulate) == (1, 2)
    assert native_recipe.train_cfg(plan)["max_iters"] == 20
    warmup, decay = native_recipe.param_scheduler(config, plan)
    assert (warmup["end"], decay["milestones"]) == (7, [10, 14])
    assert native_recipe.optim_wrapper(config, plan, "fp32", "cpu")["accumulative_counts"] == 2


@pytest.mark.parametrize(
    ("precision", "device", "kind"),
    [
        ("fp32", "cuda", "OptimWrapper"),
        ("bf16", "cuda", "AmpOptimWrapper"),
        ("fp16", "cuda", "AmpOptimWrapper"),
        ("bf16", "cpu", "MaeBenchAutocast"),
    ],
)
def test_precision_is_the_engines_where_it_has_it(precision: str, device: str, kind: str) -> None:
    config = config_of()
    wrapper = native_recipe.optim_wrapper(config, native_recipe.plan(config, 24, 1), precision, device)
    assert wrapper["type"] == kind


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.batch=5"], "train.batch: 5 is not divisible by 2 processes"),
        (["train.micro_batch=3"], "train.micro_batch: 3 images on 2 processes do not divide the batch of 4"),
        (["train.batch=26"], "train.batch: 26 is more than the 24 training images"),
        (["optim.warmup_steps=2.5"], "the warm-up is 2.5 steps long, but mmengine counts whole ones"),
        (["optim.warmup_steps=1"], "the warm-up is 1 step long"),
        (["optim.schedule=multistep", "optim.milestones=[2]"], "step 2 lies within the warm-up of 3 steps"),
    ],
)
def test_a_plan_that_mmengine_cannot_have(overrides: list[str], sentence: str) -> None:
    with pytest.raises(MaeBenchError, match=sentence):
        native_recipe.plan(config_of(*overrides), 24, 2)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.ema=0.9", "train.ema: averaged weights: the engine mmseg cannot do that"),
        ("train.compile=true", "train.compile"),
        ("optim.name=lars", "optim.name: LARS"),
        ("data.channels=1", "data.channels: images that are not RGB"),
        ("data.max_bad_images=1", "data.max_bad_images"),
        ("optim.min_lr=1.0e-5", "optim.min_lr above 0 with schedule=poly and layer_decay"),
    ],
)
def test_values_that_mmengine_cannot_do_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(MaeBenchError, match=sentence):
        config_of(override)


# ---------------------------------------------------------------- a run


def test_a_whole_run_is_logged_and_leaves_its_weights(place: Path) -> None:
    folder = place / "runs/whole"
    entries = logged(folder)
    assert [entry["step"] for entry in entries] == [*range(1, 11), 10]
    assert list(entries[-1]) == ["step", "eval"]
    config = config_of()
    for entry in entries[:-1]:
        rate = scheduled_lr(config.optim, entry["step"] - 1, 10, peak=peak_lr(config), warmup_steps=3)
        assert entry["lr"] == pytest.approx(rate, rel=1e-7)
        assert {"epoch", "loss", "images_per_s", "decode.loss_ce", "aux.loss_ce", "grad_norm"} <= set(entry)
    assert entries[9]["loss"] < entries[0]["loss"]
    assert entries[5]["epoch"] == 1.0
    (checkpoint,) = checkpoints.listed(folder / "mmengine")
    assert checkpoint[0] == 10
    saved = torch.load(checkpoint[1], weights_only=False)["state_dict"]
    kept = load_file(folder / "model.safetensors")
    assert set(saved) == set(kept)
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


def test_the_engines_log_stays_in_its_file(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(place, "quiet", "train.steps=2", "optim.warmup_steps=0")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "warning" not in shown.err
    (log,) = (place / "runs/quiet/mmengine").glob("*/*.log")
    assert "Iter(train) [2/2]" in log.read_text()


def test_nothing_of_the_process_is_left_changed(place: Path) -> None:
    import cv2
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope

    cv2.setNumThreads(2)
    before = multiprocessing.get_start_method(allow_none=True), torch.backends.cudnn.benchmark
    held = [set(cls._instance_dict) for cls in (MMLogger, MessageHub, DefaultScope)]
    train(place, "tidy", "train.steps=2", "data.workers=2", "optim.warmup_steps=0")
    assert (multiprocessing.get_start_method(allow_none=True), torch.backends.cudnn.benchmark) == before
    assert [set(cls._instance_dict) for cls in (MMLogger, MessageHub, DefaultScope)] == held
    assert cv2.getNumThreads() == 2
    assert multiprocessing.active_children() == []


def test_bf16_trains_in_autocast_and_keeps_its_weights_in_fp32(place: Path) -> None:
    result = train(place, "bf16", "precision=bf16", "train.steps=2", "optim.warmup_steps=0")
    assert result.precision == "bf16"
    kept = load_file(place / "runs/bf16/model.safetensors")
    assert {value.dtype for value in kept.values() if value.is_floating_point()} == {torch.float32}
    loss = [entry["loss"] for entry in logged(place / "runs/bf16") if "loss" in entry]
    exact = [entry["loss"] for entry in logged(place / "runs/whole") if "loss" in entry]
    assert loss[0] == pytest.approx(exact[0], rel=0.02)
    assert loss[0] != exact[0]


# ---------------------------------------------------------------- stopping and going on


class _KilledError(Exception):
    """As if the process had gone."""


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, what: Any) -> None:
    """Do `what` when `step` has been made and, where it is due, saved."""
    after = Watch.after

    def stopped(self: Watch, runner: Any, outputs: Any) -> None:
        if runner.iter + 1 == step and what is signal:
            os.kill(os.getpid(), signal.SIGTERM)
        after(self, runner, outputs)
        if runner.iter + 1 == step and what is not signal:
            raise what

    monkeypatch.setattr(Watch, "after", stopped)


def test_sigterm_saves_and_the_same_command_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, signal)
        with pytest.raises(
            InterruptedRunError, match=r"stopped by SIGTERM at step 4 of 10; everything is saved"
        ):
            train(place, "stopped", "data.workers=1")
    assert multiprocessing.active_children() == []
    assert [step for step, _ in checkpoints.listed(place / "runs/stopped/mmengine")] == [4]
    train(place, "stopped", "data.workers=1")
    entries = logged(place / "runs/stopped")
    assert [entry["step"] for entry in entries] == [*range(1, 11), 10]
    whole = logged(place / "runs/whole")
    assert [entry.get("lr") for entry in entries] == [entry.get("lr") for entry in whole]


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 8, _KilledError())
        with pytest.raises(_KilledError):
            train(place, "killed", "train.save_every_steps=3")
    folder = place / "runs/killed"
    assert [entry["step"] for entry in logged(folder)] == [*range(1, 9)]
    assert [step for step, _ in checkpoints.listed(folder / "mmengine")] == [6, 3]
    before = logged(folder)[5]
    newest = checkpoints.listed(folder / "mmengine")[0][1]
    half = newest.read_bytes()
    newest.write_bytes(half[: len(half) // 2])
    capfd.readouterr()
    train(place, "killed", "train.save_every_steps=3")
    shown = capfd.readouterr().err
    assert "is damaged (its content does not match its digest); trying the one before" in shown
    assert "resuming at step 3 of 10" in shown
    entries = logged(folder)
    assert [entry["step"] for entry in entries] == [*range(1, 11), 10]
    assert entries[5] != before  # made again
    assert json.loads((folder / "result.json").read_text())["steps"] == 10


def test_what_has_been_seen_is_not_seen_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmseg.datasets import BaseSegDataset

    seen: list[int] = []
    fetch = BaseSegDataset.__getitem__

    def watched(self: Any, index: int) -> Any:
        if not self.test_mode:
            seen.append(index)
        return fetch(self, index)

    monkeypatch.setattr(BaseSegDataset, "__getitem__", watched)
    train(place, "order", "seed=3")
    whole, seen[:] = list(seen), []
    with monkeypatch.context() as patch:
        at_step(patch, 4, signal)
        with pytest.raises(InterruptedRunError):
            train(place, "order-stopped", "seed=3")
    train(place, "order-stopped", "seed=3")
    trained = 10 * 4
    assert seen[:16] + seen[len(seen) - (len(whole) - 16) :] == whole
    assert len(set(whole[:24])) == 24
    assert len(whole) >= trained


def test_other_iterations_a_step_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, signal)
        with pytest.raises(InterruptedRunError):
            train(place, "micro")
    with pytest.raises(MaeBenchError, match="began with 1 iterations a step, and now there are 2"):
        train(place, "micro", "train.micro_batch=2")


def test_accumulated_steps_are_counted_as_steps(place: Path) -> None:
    result = train(place, "accumulated", "train.micro_batch=2", "train.steps=4", "optim.warmup_steps=2")
    entries = logged(place / "runs/accumulated")
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 4]
    assert (result.steps, result.images_seen, result.batch, result.micro_batch) == (4, 16, 4, 2)


def test_a_loss_that_is_not_finite_ends_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = Watch.after

    def broken(self: Watch, runner: Any, outputs: Any) -> None:
        bad = {**outputs, "loss": torch.tensor(float("nan"))} if runner.iter == 4 else outputs
        after(self, runner, bad)

    monkeypatch.setattr(Watch, "after", broken)
    with pytest.raises(
        MaeBenchError, match=r"the loss is not finite at step 5\. The last good checkpoint is"
    ):
        train(place, "nan", "train.save_every_steps=4")
    assert [step for step, _ in checkpoints.listed(place / "runs/nan/mmengine")] == [4]


@pytest.mark.slow
def test_two_processes_share_a_run(place: Path) -> None:
    arguments = [
        "-m",
        "mae_bench",
        "run",
        "--task",
        "demo/ade20k",
        "--engine",
        "mmseg",
        "--backbone",
        BACKBONE,
    ]
    more = ["--data-root", str(place / "data"), "--runs", str(place / "runs"), "--name", "two"]
    finish(on_two_processes([*arguments, *more, *small("train.steps=4")]), place)
    folder = place / "runs/two"
    result = json.loads((folder / "result.json").read_text())
    assert (result["batch"], result["micro_batch"], result["hardware"]["processes"]) == (4, 2, 2)
    assert [entry["step"] for entry in logged(folder)] == [1, 2, 3, 4, 4]
    assert len(list((folder / "predictions").rglob("*.png"))) == 8
    assert result["details"]["batch_norm_images"] == 4


# ---------------------------------------------------------------- reading checkpoints


class _Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def test_a_checkpoint_that_would_run_something_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "harmful.pt"
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": _Harmful()}, path)
    sentence = r"asks for more than tensors and numbers \(it names posix\.system\)"
    with pytest.raises(MaeBenchError, match=sentence), safe.safe_globals():
        torch.load(path, weights_only=True)


class _Reaching:
    """Asks for an attribute of what a checkpoint may name, to call it."""

    def __reduce__(self) -> tuple[Any, tuple[Any, str]]:
        return getattr, (np.ndarray, "tofile")


def test_a_checkpoint_reaches_no_attributes(tmp_path: Path) -> None:
    path = tmp_path / "reaching.pt"
    torch.save({"meta": _Reaching()}, path)
    with pytest.raises(MaeBenchError, match=r"asks for more .*getattr"), safe.safe_globals():
        torch.load(path, weights_only=True)


def test_a_run_refuses_a_checkpoint_that_was_exchanged(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 4, signal)
        with pytest.raises(InterruptedRunError):
            train(place, "exchanged")
    folder = place / "runs/exchanged/mmengine"
    state = torch.load(checkpoints.listed(folder)[0][1], weights_only=False)
    checkpoints.put(folder, 5, lambda path: torch.save({**state, "more": _Harmful()}, path), 1)
    with pytest.raises(
        MaeBenchError, match=r"asks for more than tensors and numbers \(it names posix\.system\)"
    ):
        train(place, "exchanged")


def test_mmengines_own_history_is_read(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    buffer = HistoryBuffer()
    for value in (1.0, 2.0):
        buffer.update(value)
    numbers = {"f": np.float64(0.5), "i": np.int64(3), "a": np.arange(3.0), "single": np.float32(2)}
    path = tmp_path / "history.pt"
    torch.save({"log": buffer, **numbers}, path)
    with safe.safe_globals():
        read = torch.load(path, weights_only=True)
    assert read["log"].mean() == 1.5
    assert read["i"] == 3
    assert read["a"].tolist() == [0.0, 1.0, 2.0]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "memory ran out in a step; take less"),
        (AssertionError("failed to load image: a/b.jpg"), "a/b.jpg cannot be read as an image"),
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed."), "a loader process died"),
        (
            MaeBenchError(
                "Caught MaeBenchError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "  File x\nmae_bench.errors.MaeBenchError: label map a.png holds 7\n"
            ),
            "^label map a.png holds 7$",
        ),
    ],
    ids=["memory", "image", "worker", "pasted"],
)
def test_errors_are_told_in_a_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(MaeBenchError, match=sentence), plain_errors("a step", "take less"):
        raise error


def test_faults_of_a_program_stay_what_they_are() -> None:
    with pytest.raises(AssertionError, match="something else"), plain_errors("a step"):
        raise AssertionError("something else")
