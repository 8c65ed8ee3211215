"""Starting the project's own commands in processes of their own, for tests of killing and of several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """The environment without traces of another launch, single-threaded so that results repeat exactly."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("RANK", "WORLD_", "LOCAL_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def start(arguments: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """``python ARGUMENTS`` in `cwd`, with its output piped."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` to its end; the output is in the assertion if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{arguments} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def on_two_processes(arguments: Sequence[str]) -> list[str]:
    """Arguments that run the same under torchrun with two processes."""
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
