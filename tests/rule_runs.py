"""For any rule of any layout: a made-up finished run that the rule should take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mae_bench.results import Result, StoredRun
from mae_bench.tables.layouts import Layout, Rule
from tests.sample_runs import values

# What no layout asks for, so that only what the rule itself asks can make it fit.
NEUTRAL: dict[str, Any] = {
    "dataset": {"name": "a-dataset", "fingerprint": "f" * 64, "train_images": 7, "classes": 3},
    "backbone": {"spec": "python:a_module", "arch": "an_architecture"},
    "recipe": "a-recipe",
    "protocol": "a-recipe",
    "config": {},
}


def runs_for(layout: Layout, rule: Rule) -> Iterator[StoredRun]:
    """One run for each way of meeting the rule's conditions, beside those of the whole layout."""
    conditions = {**layout.runs, **rule.where}
    choices = [[*wanted] if isinstance(wanted, list) else [wanted] for wanted in conditions.values()]
    axes: list[Any] = [None]
    if rule.axis is not None:
        fitting = (column for column in layout.columns if rule.group in (None, column.group))
        axes = [column.x for column in fitting]
    for at, *chosen in itertools.product(axes, *choices):
        yield _run(rule, dict(zip(conditions, chosen, strict=True)), at)


def _run(rule: Rule, conditions: Mapping[str, Any], at: float | None) -> StoredRun:
    metric = rule.metric or "a_metric"
    content = values(**NEUTRAL, task=rule.task, metrics={"a_metric" if "." in metric else metric: 50.0})
    content["units"] = {}
    for path, wanted in conditions.items():
        # What must be absent is left out.
        if wanted is not None:
            _put(content, path, wanted.replace("*", "x") if isinstance(wanted, str) else wanted)
    if rule.axis is not None:
        _put(content, rule.axis if rule.axis.startswith("backbone.") else f"config.{rule.axis}", at)
    if "." in metric:
        _put(content, metric, 50.0)
    return StoredRun(Path("run"), "run", Result.model_validate(content))


def _put(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        if content.get(parent) is None:
            content[parent] = {}
        content = content[parent]
    content[last] = value
