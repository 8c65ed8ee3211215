"""Run recipes on the colours in this process, one of several perhaps: ``python -m tests.colours_main ROOT RECIPE...``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from mae_bench import api
from tests.colours import BACKBONE


def main() -> None:
    root = Path(sys.argv[1])
    for recipe in sys.argv[2:]:
        api.run(recipe, BACKBONE, data_root=root, runs_root=root / "two")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
