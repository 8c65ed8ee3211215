"""Batch norms of dense heads: as they are on one process, with shared statistics on several."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mae_bench.norms import apart, processes, synchronised
from tests.launch import ROOT, finish, on_two_processes


def test_one_process_keeps_its_layers() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    layers = list(model)
    assert processes() == 1
    assert synchronised(model) is model
    assert list(model) == layers


def test_plain_norms_are_left_in_training_by_apart() -> None:
    model = nn.BatchNorm2d(2)
    with apart(model):
        model(torch.randn(2, 2, 3, 3))
    assert model.num_batches_tracked == 1


def test_two_processes_normalise_as_one_does(tmp_path: Path) -> None:
    done = finish(on_two_processes([str(ROOT / "tests" / "norms_main.py")]), tmp_path)
    assert done.stdout.strip() == "the same"
