"""Two processes do what one does: the same losses, the same metric on a set that two does not divide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.launch import finish, on_two_processes


def losses(root: Path) -> list[float]:
    (path,) = root.rglob("metrics.jsonl")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


def test_toy_on_one_and_two_processes(tmp_path: Path) -> None:
    outcomes = {}
    for world in (1, 2):
        arguments = ["-m", "tests.toy_main", str(tmp_path / str(world))]
        done = finish(on_two_processes(arguments) if world == 2 else arguments, tmp_path)
        outcomes[world] = json.loads(done.stdout.strip().splitlines()[-1])
        assert outcomes[world]["world"] == world
    assert outcomes[2]["mse"] == pytest.approx(outcomes[1]["mse"], rel=1e-5)
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    one, two = (load_file(next((tmp_path / str(world)).rglob("model.safetensors"))) for world in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
