"""Train the toy in this process (one of several, perhaps); the first one prints the metrics as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from mae_bench.train import fit
from tests.toy import Toy, toy_config, toy_run


def main() -> None:
    adapter = Toy(toy_config(train__micro_batch=2))
    adapter.count = 41
    run = toy_run(Path(sys.argv[1]), adapter)
    metrics = fit(adapter, run)
    if run.is_main:
        print(json.dumps({"world": run.world, **metrics}))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
