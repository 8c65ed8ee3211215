"""The one loop: exact resuming, accumulation, averaging, stopping, and what it leaves on disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mae_bench import checkpoints
from mae_bench.averaging import Average
from mae_bench.errors import MaeBenchError
from mae_bench.optim import lr_at
from mae_bench.run import Run
from mae_bench.stopping import InterruptedRunError
from mae_bench.train import fit, seed_everything
from tests.toy import Toy, toy_config, toy_run


def weights(run: Run) -> dict[str, Tensor]:
    return load_file(run.folder / "model.safetensors")


def log(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def train(root: Path, adapter: Toy) -> Run:
    run = toy_run(root, adapter)
    try:
        fit(adapter, run)
    finally:
        run.close()
    return run


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Dropped(Toy):
    dropout = 0.3


def test_two_runs_are_bit_identical_and_the_loss_falls(tmp_path: Path) -> None:
    first = train(tmp_path / "a", Dropped(toy_config(train__steps=60)))
    second = train(tmp_path / "b", Dropped(toy_config(train__steps=60)))
    assert same(weights(first), weights(second))
    losses = [entry["loss"] for entry in log(first) if "loss" in entry]
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    first = train(tmp_path, Toy(toy_config()))
    second = train(tmp_path, Toy(toy_config(seed=1)))
    assert first.folder != second.folder
    assert not same(weights(first), weights(second))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resuming_from_every_checkpoint_ends_in_the_same_bits(tmp_path: Path, ema: float | None) -> None:
    whole = train(tmp_path / "whole", Dropped(toy_config(train__ema=ema)))

    class Killed(Dropped):
        pass

    for calls in (2, 6, 10, 12):
        root = tmp_path / f"killed-{calls}"
        killed = Killed(toy_config(train__ema=ema, train__micro_batch=8))
        killed.raised_at = calls
        with pytest.raises(KeyboardInterrupt):
            train(root, killed)
        resumed = train(root, Dropped(toy_config(train__ema=ema)))
        assert same(weights(whole), weights(resumed))
        entries = log(resumed)
        assert [e["step"] for e in entries if "loss" in e] == list(range(1, 13))
        assert [e["loss"] for e in entries if "loss" in e] == [e["loss"] for e in log(whole) if "loss" in e]


def test_learning_rate_and_epoch_are_logged(tmp_path: Path) -> None:
    run = train(tmp_path, Toy(toy_config()))
    entries = [entry for entry in log(run) if "loss" in entry]
    assert [e["lr"] for e in entries] == [lr_at(step, 12, peak=0.05, warmup_steps=2) for step in range(12)]
    assert entries[4]["epoch"] == 1.0
    assert entries[0]["half"] == pytest.approx(entries[0]["loss"] / 2)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulated_micro_batches_make_the_same_step(tmp_path: Path, micro: int) -> None:
    whole = train(tmp_path / "whole", Toy(toy_config(train__micro_batch=8)))
    split = train(tmp_path / "split", Toy(toy_config(train__micro_batch=micro)))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], value, rtol=1e-4, atol=1e-5)


def test_auto_micro_batch_backs_off_to_a_divisor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = Toy(toy_config(train__batch=12))
    adapter.memory = 5
    run = train(tmp_path, adapter)
    saved = checkpoints.load_newest(run.folder / "checkpoints")
    assert saved is not None
    assert saved["micro_batch"] == 4
    assert "do not fit in memory; trying fewer" in capsys.readouterr().err


def test_auto_micro_batch_gives_up_at_none(tmp_path: Path) -> None:
    adapter = Toy(toy_config())
    adapter.memory = 0
    with pytest.raises(MaeBenchError, match="not even one image fits"):
        train(tmp_path, adapter)


def test_memory_that_runs_out_later_loses_no_step(tmp_path: Path) -> None:
    """A step may need more than the trial did, as where images hold more objects."""

    class Later(Toy):
        def step(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
            self.memory = 4 if self.calls >= 6 else None
            return super().step(model, batch)

    with pytest.raises(MaeBenchError) as caught:
        train(tmp_path, Later(toy_config(train__micro_batch=8, train__save_every_steps=100)))
    assert "memory ran out at step 6 with micro-batches of 8. The last good checkpoint is" in str(
        caught.value
    )
    assert "Give the same command with a train.micro_batch that divides 8 and is at most 4." in str(
        caught.value
    )
    run = train(tmp_path, Later(toy_config(train__micro_batch=4, train__save_every_steps=100)))
    steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 13), 12]


def test_micro_batch_must_divide(tmp_path: Path) -> None:
    with pytest.raises(
        MaeBenchError, match=r"train.micro_batch: 3 does not divide the 8 images .* use one of 8, 4, 2, 1"
    ):
        train(tmp_path, Toy(toy_config(train__micro_batch=3)))


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path: Path) -> None:
    adapter = Toy(toy_config(train__micro_batch=4))
    adapter.poison_step = (
        13  # two micro-batches a step: the last good step is the sixth, and step 4 was saved
    )
    with pytest.raises(MaeBenchError) as caught:
        train(tmp_path, adapter)
    message = str(caught.value)
    assert "the loss is not finite at step 6 (samples: point-" in message
    assert "The last good checkpoint is" in message
    assert "step-00000004-" in message
    (listing,) = tmp_path.rglob("not-finite-step-6-rank-0.json")
    samples = json.loads(listing.read_text())["samples"]
    assert len(samples) == 4
    assert all(name.startswith("point-") for name in samples)
    folder = next(tmp_path.rglob("checkpoints"))
    newest = checkpoints.load_newest(folder)
    assert newest is not None
    assert all(torch.isfinite(value).all() for value in newest["model"].values())


def test_broken_weights_are_never_saved(tmp_path: Path) -> None:
    class Exploding(Toy):
        def step(self, model, batch):  # type: ignore[no-untyped-def]
            out = super().step(model, batch)
            if self.calls > 7:
                with torch.no_grad():
                    next(iter(model.parameters())).fill_(float("inf"))
            return out

    with pytest.raises(MaeBenchError, match=r"the (weights|loss) (are|is) not finite"):
        train(tmp_path, Exploding(toy_config(train__micro_batch=8)))
    newest = checkpoints.load_newest(next(tmp_path.rglob("checkpoints")))
    assert newest is not None
    assert newest["progress"]["step"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    class Signalled(Dropped):
        def step(self, model, batch):  # type: ignore[no-untyped-def]
            if self.calls == 6:
                os.kill(os.getpid(), number)
            return super().step(model, batch)

    whole = train(tmp_path / "whole", Dropped(toy_config()))
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRunError) as caught:
        train(tmp_path / "cut", Signalled(toy_config(train__micro_batch=8)))
    assert caught.value.status == 128 + number
    assert f"stopped by {number.name} at step" in str(caught.value)
    assert "mae-bench pretrain --recipe" in str(caught.value)
    assert signal.getsignal(number) == before
    assert not list(tmp_path.glob("cut/**/result.json"))
    assert same(weights(whole), weights(train(tmp_path / "cut", Dropped(toy_config()))))


def test_averaged_weights_are_the_reported_ones(tmp_path: Path) -> None:
    adapter = Toy(toy_config(train__ema=0.5))
    run = toy_run(tmp_path, adapter)
    metrics = fit(adapter, run)
    assert set(metrics) == {"mse", "raw_mse"}
    assert metrics["mse"] != metrics["raw_mse"]
    saved = checkpoints.load_newest(run.folder / "checkpoints")
    assert saved is not None
    assert same(weights(run), saved["average"])
    assert not same(weights(run), saved["model"])


def test_average_follows_its_formula() -> None:
    model = torch.nn.Linear(2, 1)
    average = Average(model, 0.9)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1.0
    average.update(model)
    torch.testing.assert_close(average.weights["weight"], before + 0.1)
    with average.in_place_of(model):
        torch.testing.assert_close(model.weight.detach(), before + 0.1)
    torch.testing.assert_close(model.weight.detach(), before + 1.0)


def test_gradient_clipping_bounds_the_update(tmp_path: Path) -> None:
    config = toy_config(train__clip_grad=1e-3, optim__name="sgd", optim__momentum=0.0, train__steps=1)
    run = train(tmp_path, Toy(config))
    (entry,) = [entry for entry in log(run) if "loss" in entry]
    assert entry["grad_norm"] > 1e-3


def test_evaluation_along_the_way_changes_nothing(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", Dropped(toy_config()))
    watched = train(tmp_path / "watched", Dropped(toy_config(train__evaluate_every_epochs=1.0)))
    assert same(weights(plain), weights(watched))
    assert [entry["step"] for entry in log(watched) if "eval" in entry] == [5, 10, 12]


def test_seeds_depend_on_every_part() -> None:
    draws = set()
    for parts in [(0, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1), (1, 1, 0, 0)]:
        seed_everything(*parts)
        draws.add(float(torch.rand(())))
    assert len(draws) == 5


def test_checkpoints_rotate_and_survive_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"step": step, "tensor": torch.full((100,), float(step))}, keep=2)
    assert [step for step, _ in checkpoints.listed(tmp_path)] == [3, 2]
    newest = checkpoints.listed(tmp_path)[0][1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    state = checkpoints.load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 2
    assert f"{newest} is damaged" in capsys.readouterr().err.replace("\n", "")
    other = checkpoints.listed(tmp_path)[1][1]
    other.write_bytes(other.read_bytes()[:50])
    with pytest.raises(MaeBenchError, match=r"no checkpoint in .* is intact"):
        checkpoints.load_newest(tmp_path)


def test_a_failed_write_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.save(tmp_path, 1, {"step": 1}, keep=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        MaeBenchError, match=r"checkpoint of step 2 .*the disk is full.*earlier checkpoints are intact"
    ):
        checkpoints.save(tmp_path, 2, {"step": 2}, keep=2)
    assert [path.name.split("-")[1] for path in tmp_path.iterdir()] == ["00000001"]


def test_steps_of_a_recipe(tmp_path: Path) -> None:
    run = train(tmp_path, Toy(toy_config(train__steps=None, train__epochs=2.0, train__batch=16)))
    assert [e["step"] for e in log(run) if "loss" in e] == [1, 2, 3, 4]  # 40 points make two steps an epoch
    assert [entry["epoch"] for entry in log(run) if "loss" in entry] == [0.5, 1.0, 1.5, 2.0]
    assert log(run)[-1]["step"] == 4
    assert "eval" in log(run)[-1]
