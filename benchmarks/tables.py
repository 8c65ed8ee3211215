"""How long all tables take from many runs: reading the folders, and building and rendering each table.

Makes finished runs of the demo's recipes in a temporary folder (results as large as real ones, some 7 KB),
and compares reading them with `json.loads` of the same bytes, which is the least that a reader must do:

    python benchmarks/tables.py --count 10000

All is one process and one thread, so the seconds of processor time that it prints are also those of the clock
on a machine without other work.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mae_bench import recipe, render, settings, tables
from mae_bench.results import CONFIG_FILE, Result, scan

T = TypeVar("T")
RECIPES = ("imagenet-finetune", "imagenet-linear", "imagenet-knn", "coco", "ade20k", "inat18-finetune")
BACKBONES = [f"timm:vit_base_patch16_224.method{number}" for number in range(8)]
CLASSES = [f"class {number}" for number in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10000, help="run folders (default: 10000)")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        size = make(root, count)
        print(f"{count} run folders, {size / count / 1000:.1f} KB a result on average")
        read, tree = timed(lambda: scan(root))
        assert len(tree.runs) == count, tree.problems[:3]
        contents = [path.read_bytes() for path in sorted(root.rglob("result.json"))]
        least, _ = timed(lambda: [None for content in contents if not json.loads(content)])
        ratio = f"{read / least:.1f} times json.loads of the same bytes ({least:.2f} s)"
        print(f"reading all: {read:.2f} s, {ratio}")
        names = tables.list_tables()
        shown, _ = timed(lambda: render.render_all(tables.all_tables(tree), "markdown"))
        print(f"building and rendering {len(names)} tables: {shown:.2f} s; in all {read + shown:.2f} s")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of processor time, and what came of it."""
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def make(root: Path, count: int) -> int:
    """Write `count` runs below `root`; returns the bytes of their results."""
    generator, models, size = random.Random(0), [model(name) for name in RECIPES], 0
    for number in range(count):
        values = dict(models[number % len(models)])
        turn = number // len(models)
        spec, seed = BACKBONES[turn % len(BACKBONES)], turn // len(BACKBONES)
        values["seed"] = seed
        values["backbone"] = {**values["backbone"], "spec": spec, "digest": f"{BACKBONES.index(spec):064x}"}
        values["metrics"] = {name: 100 * generator.random() for name in values["metrics"]}
        folder = root / values["recipe"] / f"{spec.partition(':')[2]}-s{seed}"
        folder.mkdir(parents=True)
        (folder / CONFIG_FILE).write_text("task: made\n", encoding="utf-8")
        # Not `write_result`: nobody waits for the disk here.
        text = json.dumps(Result.model_validate(values).model_dump(mode="json"), indent=2)
        size += (folder / "result.json").write_text(text, encoding="utf-8")
    return size


def model(name: str) -> dict[str, Any]:
    """A result of a recipe of the demo, with all its deviations and the scores of each class."""
    resolved = recipe.resolve(f"demo/{name}")
    config, adapter = resolved.config, resolved.adapter_class
    published = recipe.published(config) or config
    departed = settings.deviations(config, published)
    return {
        "schema": 1,
        "task": adapter.task,
        "recipe": config.recipe,
        "recipe_hash": settings.recipe_hash(config),
        "protocol": config.protocol,
        "deviations": [{"key": one.key, "published": one.published, "ours": one.ours} for one in departed],
        "dataset": {"name": "made", "fingerprint": "f" * 64, "train_images": 2000, "classes": len(CLASSES)},
        "backbone": {"spec": "", "arch": "vit_base_patch16_224", "digest": "", "params": 85798656},
        "seed": 0,
        "metrics": dict.fromkeys(adapter.metrics, 0.0),
        "units": {
            name: {"unit": one.unit, "higher_is_better": one.higher_is_better, "label": one.label or name}
            for name, one in adapter.metrics.items()
        },
        "precision": "bf16",
        "hardware": {"device": "a device", "kind": "cuda", "processes": 8, "cores": 64, "threads": 8},
        "wall_clock_s": 3600.0,
        "versions": {"python": "3.11.0", "torch": "2.6.0", "timm": "1.0.31"},
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-02T00:00:00+00:00",
        "command": ["mae-bench", "run", "--task", config.recipe],
        "config": settings.plain(config),
        "details": {"per_class": {one: {"score": 50.0, "share": 50.0} for one in CLASSES}},
    }


if __name__ == "__main__":
    main()
