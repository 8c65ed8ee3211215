"""Weights & Biases as a mirror of `metrics.jsonl`: offline, without an account or a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mae_bench.errors import MaeBenchError
from tests.launch import finish
from tests.toy import toy_run

PROGRAM = """
import sys
from pathlib import Path
from mae_bench.train import fit
from tests.toy import Toy, toy_config, toy_run

adapter = Toy(toy_config(train__steps=3, wandb={"project": "mirror", "mode": "offline"}))
run = toy_run(Path(sys.argv[1]), adapter)
run.record(deviations=[])
print(run.finish(fit(adapter, run)).metrics)
"""


@pytest.mark.slow
def test_an_offline_run_is_mirrored(tmp_path: Path) -> None:
    finish(["-c", PROGRAM, str(tmp_path)], Path.cwd())
    (folder,) = tmp_path.glob("toy/*")
    (mirrored,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = mirrored.read_bytes()
    for name in (b"loss", b"eval/mse", b"final/mse", b"images_per_s"):
        assert name in content
    assert (folder / "metrics.jsonl").read_text().count('"loss"') == 3


def test_a_missing_wandb_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_wandb(name: str, package: str | None = None) -> object:
        return None if name == "wandb" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_wandb)
    with pytest.raises(MaeBenchError, match=r"not installed: pip install 'mae-bench\[wandb\]'"):
        toy_run(tmp_path, wandb={"project": "mirror"})
