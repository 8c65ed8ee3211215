"""The whole suite in miniature: pretrain, transfer by every protocol, print the table, draw the pictures.

Every part is an ordinary recipe of `configs/demo`, run through the same functions as any other; this
module only holds their order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mae_bench import api, screen
from mae_bench.results import Result

PRETRAINING = "demo/mae"
TASKS = ("demo/imagenet-knn", "demo/imagenet-linear", "demo/imagenet-partial", "demo/imagenet-finetune")
# What a supervised recipe of its own makes of the untrained twin, as the fair rival of fine-tuning.
SCRATCH = "demo/imagenet-scratch"
TABLE = "demo-transfer"


@dataclass(frozen=True)
class DemoReport:
    """What the demo made."""

    table: str
    results: list[Result]
    pictures: list[str]
    seconds: float


def demo(
    data_root: str | Path = "data", runs_root: str | Path = "runs", format: str = "terminal"
) -> DemoReport:
    """Pretrain on the generated world, transfer the backbone and its untrained twin, and tabulate both.

    An interrupted demo goes on where it was; a finished one prints its table again.
    """
    began = time.monotonic()
    screen.say("the demo: an MAE is pretrained on generated scenes, then judged by every protocol")
    pretrained = api.pretrain(PRETRAINING, data_root=data_root, runs_root=runs_root, name=PRETRAINING)
    folder = Path(runs_root) / PRETRAINING
    results = [pretrained]
    twin = f"random:{folder}"
    for backbone, tasks in ((f"run:{folder}", TASKS), (twin, (*TASKS, SCRATCH))):
        for task in tasks:
            results.append(api.run(task, backbone, data_root=data_root, runs_root=runs_root))
    pictures = api.visualize(folder, count=8, data_root=data_root)
    pictures.append(api.figure(TABLE, Path(runs_root) / "demo" / f"{TABLE}.png", runs_root=runs_root))
    return DemoReport(
        table=api.table(TABLE, runs_root=runs_root, format=format),
        results=results,
        pictures=pictures,
        seconds=time.monotonic() - began,
    )
