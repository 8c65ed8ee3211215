"""The whole suite in miniature: pretrain, transfer by every protocol, print the table, draw the pictures.

Every part is an ordinary recipe of `configs/demo`, run through the same functions as any other; this
module only holds their order.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mae_bench import api, corruptions, recipe, registry, screen
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result

PRETRAINING = "demo/mae"
TASKS = ("demo/imagenet-knn", "demo/imagenet-linear", "demo/imagenet-partial", "demo/imagenet-finetune")
# What a supervised recipe of its own makes of the untrained twin, as the fair rival of fine-tuning.
SCRATCH = "demo/imagenet-scratch"
# Of the twin as a floor; what would take long and end at chance is left out.
OF_TWIN = ("demo/imagenet-knn", "demo/imagenet-linear", SCRATCH)
DENSE = ("demo/coco", "demo/ade20k")
# Other data: the layouts of iNaturalist and Places, and five labelled images of each class.
TRANSFER = (
    "demo/inat18-finetune",
    "demo/places365-linear",
    "demo/places365-knn",
    "demo/imagenet-finetune-5shot",
)
# What becomes of a classifier on other pictures of its classes: the fine-tuned one, and of the untrained twin
# the one trained from scratch, which learnt something.
FINETUNE, ROBUSTNESS = "demo/imagenet-finetune", "demo/imagenet-robustness"
# A backbone of another kind goes through the same doors: timm's smallest ConvNeXt V2.
HIERARCHICAL = "random:test_convnext2"
OF_HIERARCHICAL = ("demo/imagenet-knn",)
TABLE = "demo-transfer"
TABLES = (TABLE, "demo-dense", "demo-more")


@dataclass(frozen=True)
class DemoReport:
    """What the demo made."""

    table: str
    """All tables, one below the other."""
    results: list[Result]
    pictures: list[str]
    """Pictures, a figure, and the page that holds everything."""
    seconds: float


def demo(
    data_root: str | Path = "data",
    runs_root: str | Path = "runs",
    format: str = "terminal",
    engines: bool = False,
) -> DemoReport:
    """Pretrain on the generated world; transfer the backbone, its untrained twin and a ConvNeXt; tabulate.

    With `engines` the dense tasks are trained once more by each other engine that is installed; what is
    not installed is named, with the way to get it. An interrupted demo goes on where it was; a finished one
    prints its table again.
    """
    began = time.monotonic()
    screen.say(
        "the demo: an MAE is pretrained on generated scenes, then judged by every protocol, dense ones too"
    )
    pretrained = api.pretrain(PRETRAINING, data_root=data_root, runs_root=runs_root, name=PRETRAINING)
    folder = Path(runs_root) / PRETRAINING
    results = [pretrained]
    twin = f"random:{folder}"
    for backbone, tasks in (
        (f"run:{folder}", (*TASKS, *DENSE, *TRANSFER)),
        (twin, OF_TWIN),
        (HIERARCHICAL, OF_HIERARCHICAL),
    ):
        for task in tasks:
            results.append(api.run(task, backbone, data_root=data_root, runs_root=runs_root))
    results += _robustness(results, data_root, runs_root)
    if engines:
        for task, engine in _other_engines():
            results.append(
                api.run(task, f"run:{folder}", engine=engine, data_root=data_root, runs_root=runs_root)
            )
    pictures = api.visualize(folder, count=8, data_root=data_root)
    for result in results:
        if result.recipe in DENSE and result.backbone is not None and result.backbone.spec == f"run:{folder}":
            assert result.folder is not None  # `api.run` says where the run is
            pictures += api.visualize(result.folder, count=6, data_root=data_root)
    place = Path(runs_root) / "demo"
    pictures.append(api.figure(TABLE, place / f"{TABLE}.png", runs_root=runs_root))
    pictures.append(api.report(place / "report.html", runs_root=runs_root))
    return DemoReport(
        table="\n".join(api.table(name, runs_root=runs_root, format=format) for name in TABLES),
        results=results,
        pictures=pictures,
        seconds=time.monotonic() - began,
    )


def _robustness(finished: list[Result], data_root: str | Path, runs_root: str | Path) -> list[Result]:
    """Both classifiers on corrupted, hard, repainted and drawn pictures; without corruptions if need be."""
    overrides = []
    try:
        corruptions.ready()
    except MaeBenchError as error:
        screen.warn(f"{ROBUSTNESS} is shown without corruptions: {error}")
        overrides.append("sets.c=null")
    return [
        api.run(ROBUSTNESS, result.folder, overrides, data_root=data_root, runs_root=runs_root)
        for result in finished
        if result.recipe in (FINETUNE, SCRATCH)
    ]


def _other_engines() -> list[tuple[str, str]]:
    """Dense tasks with each engine besides their recipe's own that works here."""
    found = []
    for task in DENSE:
        own = recipe.resolve(task).config.task
        for engine, adapter in recipe.engines(own).items():
            if adapter == own:
                continue
            try:
                recipe.resolve(task, engine=engine)
                found.append((task, engine))
            except MaeBenchError as error:
                if not registry.adapters().entry(adapter).missing():
                    raise
                screen.warn(f"{task} is not shown with --engine {engine}: {error}")
    return found
