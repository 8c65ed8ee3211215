"""Pretrain by a recipe in this process, one of several perhaps: ``python -m tests.mae_main ROOT RECIPE RUNS``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from mae_bench import api


def main() -> None:
    root, recipe, runs = (Path(argument) for argument in sys.argv[1:])
    api.pretrain(str(recipe), data_root=root, runs_root=runs, name="run")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
