"""Runs that are killed for real, in processes of their own, and end as if they had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mae_bench.backbones.weights import digest
from mae_bench.files import sha256_file
from tests.launch import finish, on_two_processes, start

RECIPE = """
task: mae
data:
  name: generated-tiny
  root: generated/tiny
  train: unlabeled
  image_size: [32, 32]
  augment:
    crop: {kind: random_resized, scale: [0.5, 1.0]}
  evaluation: {resize: null}
  workers: 0
model:
  arch: vit_tiny_patch16_224
  args: {patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}
decoder: {dim: 16, depth: 1, heads: 2}
train:
  steps: 60
  batch: 8
  ema: 0.9
  save_every_steps: 7
  log_every_steps: 1
optim: {lr: 1.0e-3, warmup_steps: 5}
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, and with an uninterrupted run of it as `runs/whole`."""
    folder = tmp_path_factory.mktemp("killing")
    (folder / "mae.yaml").write_text(RECIPE)
    finish(command("whole"), folder)
    return folder


def command(name: str, *more: str) -> list[str]:
    return ["-m", "mae_bench", "pretrain", "--recipe", "mae.yaml", "--name", name, *more]


def kill_at(folder: Path, name: str, step: int, number: signal.Signals) -> subprocess.Popen[str]:
    """Start the run, and send the signal as soon as `step` is in its log."""
    process = start(command(name), folder)
    log = folder / "runs" / name / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and f'"step": {step},' in log.read_text()):
        assert process.poll() is None, f"ended by itself: {process.communicate()}"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)
    os.kill(process.pid, number)
    return process


def outcome(folder: Path, name: str) -> tuple[str, str, float, list[float]]:
    run = folder / "runs" / name
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (
        sha256_file(run / "model.safetensors"),
        digest(load_file(run / "encoder.safetensors")),
        json.loads((run / "result.json").read_text())["metrics"]["loss"],
        [entry["loss"] for entry in entries if "loss" in entry],
    )


@pytest.mark.slow
def test_sigkill_at_random_steps_changes_no_bit(workplace: Path) -> None:
    for step in sorted(random.Random(5).sample(range(2, 55), 2)):
        process = kill_at(workplace, "killed", step, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (workplace / "runs" / "killed" / "result.json").exists()
    done = finish(command("killed"), workplace)
    assert "resuming at step" in done.stderr
    assert outcome(workplace, "killed") == outcome(workplace, "whole")


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_its_own_status(workplace: Path) -> None:
    process = kill_at(workplace, "stopped", 10, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step" in errors
    assert "Traceback" not in errors
    resume = errors[errors.index("or: mae-bench ") + len("or: mae-bench ") :].split()
    finish(["-m", "mae_bench", *resume], workplace)
    assert outcome(workplace, "stopped") == outcome(workplace, "whole")


@pytest.mark.slow
def test_two_processes_see_the_same_losses(workplace: Path) -> None:
    finish(on_two_processes(command("both", "precision=fp32")), workplace)
    finish(command("alone", "precision=fp32"), workplace)
    both, alone = outcome(workplace, "both"), outcome(workplace, "alone")
    assert both[3] == pytest.approx(alone[3], rel=1e-4)
    assert both[2] == pytest.approx(alone[2], rel=1e-4)


@pytest.mark.slow
def test_a_second_process_is_kept_out(workplace: Path) -> None:
    process = start(command("shared", "train.steps=100000"), workplace)
    log = workplace / "runs" / "shared" / "metrics.jsonl"
    while not log.exists():
        assert process.poll() is None, f"ended by itself: {process.communicate()}"
        time.sleep(0.02)
    other = start(command("shared", "train.steps=100000"), workplace)
    _, errors = other.communicate(timeout=120)
    process.kill()
    process.communicate()
    assert other.returncode == 2
    assert "another process is working on this run" in errors
    assert "Traceback" not in errors
