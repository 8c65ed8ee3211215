"""Runs with names that every format must escape, in every table that has a rule for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae_bench.results import Result, StoredRun
from mae_bench.tables.layouts import Layout, Rule
from tests.sample_runs import deviation, values

NASTY = r"a_b|c*d\e{f}$g%h#i&j<k>`l`^m~n[o]" + '"quo"\' – — “x” µ±×≥→ αβ 漢字 é \x1b[31m'  # noqa: RUF001
LONG = (
    "file:/data/a_very/long-path/with_many.parts/and-no-blank/checkpoint_0123456789abcdef.pth?arch=vit_base"
)


def runs_of(layout: Layout) -> Iterator[StoredRun]:
    """For each rule of a layout two runs that fit it, if they can be made: one as published, one that departs."""
    for i, rule in enumerate(layout.ours):
        for j, spec in enumerate((f"other:{NASTY}", LONG)):
            made = _fitting(layout, rule)
            made["backbone"] |= {"spec": spec, "digest": f"{j}" * 64}
            made["seed"] = i
            if j:
                made["deviations"] = [deviation("train.epochs", 100, 12), deviation("x_y.z&", NASTY, "$&")]
                made["recipe_hash"] = "b" * 64
            yield StoredRun(Path(f"/nowhere/{i}-{j}"), f"{i}-{j}", Result.model_validate(made))


def _fitting(layout: Layout, rule: Rule) -> dict[str, Any]:
    made = values(task=rule.task, recipe=rule.protocol or rule.task, protocol=rule.protocol or rule.task)
    for path, wanted in {**layout.runs, **rule.where}.items():
        _put(made, path, wanted[0] if isinstance(wanted, list) else wanted)
    if rule.axis is not None:
        at = next((c.x for c in layout.columns if c.x is not None and rule.group in (None, c.group)), None)
        _put(made, rule.axis if rule.axis.startswith("backbone.") else f"config.{rule.axis}", at)
    if rule.metric is not None and "." not in rule.metric:
        made["metrics"] = {rule.metric: 50.0}
        made["units"] = {rule.metric: {"unit": "%", "higher_is_better": True, "label": rule.metric}}
    return made


def _put(made: dict[str, Any], path: str, wanted: Any) -> None:
    """Set a dotted path to a value that fits; a pattern becomes text without its stars."""
    *above, last = path.split(".")
    at = made
    for part in above:
        if not isinstance(at.get(part), dict):
            at[part] = {}
        at = at[part]
    text = wanted.replace("*", "") if isinstance(wanted, str) else wanted
    if isinstance(text, str) and "," in text and "[" not in text:
        at[last] = [int(item) if item.isdigit() else item for item in text.split(",")]
    else:
        at[last] = text
