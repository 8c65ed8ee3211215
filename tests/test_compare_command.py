"""`mae-bench compare`, and the function of the same name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import mae_bench
from mae_bench import cli
from tests.simulated import backbones, finished_seeds


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two backbones that differ, of two seeds each, below ./runs."""
    monkeypatch.chdir(tmp_path)
    two = backbones(np.random.default_rng(4), 1000, [2.0, 1.0], [2, 2])
    for name, seeds in zip(("mine", "theirs"), two, strict=True):
        finished_seeds(tmp_path / "runs", name, seeds)
    return tmp_path / "runs"


def invoke(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, ["compare", *words])
    return done.exit_code, done.stdout, done.stderr


def test_names_are_found_below_the_runs(runs: Path) -> None:
    status, output, _ = invoke("mine", "theirs")
    assert status == 0
    assert "timm:mine is better than timm:theirs" in " ".join(output.split())
    assert invoke("mine", "theirs", "--runs", str(runs)) == (0, output, "")
    assert invoke(str(runs)) == (0, output, "")


def test_options_reach_the_comparison(runs: Path) -> None:
    status, output, _ = invoke(
        "mine", "theirs", "--baseline", "mine", "--level", "0.9", "--resamples", "200", "--seed", "3", "--metric",
        "top1", "--format", "json",
    )  # fmt: skip
    assert status == 0
    data = json.loads(output)
    assert (data["level"], data["resamples"], data["seed"]) == (0.9, 200, 3)
    (only,) = data["comparisons"]
    assert data["sides"][only["b"]]["label"] == "timm:mine"
    assert only["shown"]
    assert "90 % interval" in only["verdict"]


def test_the_function_gives_the_same_text(runs: Path) -> None:
    assert (
        mae_bench.compare(["mine", "theirs"], runs_root=runs) + "\n"
        == invoke("mine", "theirs", "--format", "markdown")[1]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mine"], r"error: there is nothing to compare: .*"),
        (["mine", "thirs"], r"error: there is no folder 'thirs' here or in runs; did you mean 'theirs'.*"),
        (
            ["mine", "theirs", "--metric", "top11"],
            r"error: mine/s0 has no metric 'top11'; did you mean 'top1'.*",
        ),
        (["mine", "theirs", "--resamples", "10"], r"error: 10 resamples are too few .*"),
    ],
)
def test_mistakes_are_one_sentence(runs: Path, words: list[str], message: str) -> None:
    status, output, error = invoke(*words)
    assert (status, output) == (2, "")
    assert re.fullmatch(message, error.strip())
