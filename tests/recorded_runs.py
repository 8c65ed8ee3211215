"""Made-up finished runs of shipped recipes, as if they had been run: for the tests of audits and suites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_bench import recipe, settings
from mae_bench.results import BackboneRecord, Result, write_result
from mae_bench.run import folder_for, versions

BASE = BackboneRecord(
    spec="timm:vit_base_patch16_224.mae",
    arch="vit_base_patch16_224",
    digest="d" * 64,
    params=85798656,
    width=768,
    depth=12,
    patch_size=[16, 16],
)


def finished(
    root: Path,
    name: str,
    overrides: Sequence[str] = (),
    *,
    like: BackboneRecord | None = BASE,
    seed: int = 0,
    folder: str | None = None,
    **changes: Any,
) -> Path:
    """Write the result that a run of a recipe would leave, and its configuration; returns the folder."""
    extra: dict[str, Any] = {"seed": seed} | ({} if like is None else {"backbone": like.spec})
    resolved = recipe.resolve(name, list(overrides), extra)
    config, adapter = resolved.config, resolved.adapter_class
    published = recipe.published(config)
    assert published is not None
    data: Any = config.data  # type: ignore[attr-defined]
    values: dict[str, Any] = {
        "schema": 1,
        "task": adapter.task,
        "recipe": config.recipe,
        "recipe_hash": settings.recipe_hash(config),
        "protocol": config.protocol or config.recipe,
        "deviations": [
            {"key": entry.key, "published": entry.published, "ours": entry.ours}
            for entry in settings.deviations(config, published)
        ],
        "dataset": {"name": data.name, "fingerprint": "f" * 64, "train_images": 10, "classes": 10},
        "backbone": None if like is None else like.model_dump(),
        "seed": seed,
        "metrics": dict.fromkeys(adapter.metrics, 50.0),
        "units": {},
        "selection": "last step",
        "precision": "fp32",
        "hardware": {},
        "wall_clock_s": 1.0,
        "versions": versions(),
        "started": "2026-01-01T00:00:00+00:00",
        "finished": f"2026-01-02T00:00:{seed:02}+00:00",
        "command": ["mae-bench", "run", "--task", name, "--backbone", "x", *overrides],
        "config": settings.plain(config),
    }
    path = root / folder if folder is not None else folder_for(config, root)
    path.mkdir(parents=True)
    write_result(path, Result.model_validate(values | changes))
    return path
