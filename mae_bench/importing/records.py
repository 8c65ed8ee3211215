"""From a foreign run and a mapping to what our run folders hold.

What nobody recorded is null or says `NOT_RECORDED`, and every such run carries a deviation that says where it
is from: so tables give it a footnote, and never compare it with numbers whose whole protocol is known.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mae_bench import recipe, settings
from mae_bench.adapter import Metric
from mae_bench.errors import MaeBenchError, near
from mae_bench.importing.mapping import BackboneSource, DatasetSource, Foreign, RunMapping, Taken, keys_of
from mae_bench.results import IMPORTED_KEY, NOT_RECORDED, SCHEMA, Result
from mae_bench.settings import TaskConfig
from mae_bench.validation import validate

# Facts of a result that are settings as well: what departs from the recipe's is a deviation.
_SETTINGS = {"epochs": "train.epochs", "steps": "train.steps", "batch": "train.batch"}


@dataclass(frozen=True)
class Origin:
    """Where a run is from."""

    source: str
    """The project, for example ``wandb ENTITY/PROJECT``."""
    id: str
    started: str
    """ISO 8601; UTC if it does not say."""
    seconds: float | None
    """Of work; None if nobody knows."""


@dataclass(frozen=True)
class Protocol:
    """The recipe of a mapping: task, meaning of metrics, and published settings."""

    config: TaskConfig
    task: str
    metrics: Mapping[str, Metric]
    published: Mapping[str, Any]
    """Dotted path -> value of the recipe that holds the published protocol."""

    @classmethod
    def of(cls, mapping: RunMapping) -> Protocol:
        """The protocol of a mapping's recipe.

        Raises:
            MaeBenchError: no such recipe, or a metric or setting that it does not have.
        """
        resolved = recipe.resolve(mapping.recipe)
        published = recipe.published(resolved.config) or resolved.config
        protocol = cls(
            resolved.config,
            resolved.adapter_class.task,
            resolved.adapter_class.metrics,
            settings.flatten(settings.plain(published)),
        )
        for name in mapping.metrics:
            if name not in protocol.metrics:
                hint = near(name, protocol.metrics) or f"; it has {', '.join(protocol.metrics)}"
                raise MaeBenchError(f"metrics.{name}: {mapping.recipe} has no such metric{hint}")
        for key in mapping.config:
            if key not in protocol.published:
                hint = near(key, protocol.published)
                raise MaeBenchError(f"config.{key}: {mapping.recipe} has no such setting{hint}")
        return protocol


def result_of(mapping: RunMapping, protocol: Protocol, run: Foreign, origin: Origin) -> Result:
    """The result of a foreign run.

    Raises:
        MaeBenchError: something that the mapping names is not there, or of another type than it must be.
    """
    metrics = {name: run.metric(source) for name, source in mapping.metrics.items()}
    metrics = {name: value for name, value in metrics.items() if value is not None}
    facts = {name: run.value(getattr(mapping, name)) for name in (*_SETTINGS, "images_seen")}
    known = {key: run.value(value) for key, value in mapping.config.items()}
    backbone = _backbone(mapping.backbone, run)
    dataset = _dataset(mapping.dataset, run)
    seed = run.value(mapping.seed)
    # Only what the foreign run says itself: other settings of the recipe are not known to have been its.
    known |= {key: facts[name] for name, key in _SETTINGS.items() if facts[name] is not None}
    known["data.name"] = dataset["name"]
    own = {"task": protocol.config.task, "recipe": origin.source.replace(" ", "/"), "seed": seed}
    own["backbone"] = backbone["spec"] if backbone else None
    started, finished = _times(origin)
    notes = [*mapping.notes, f"imported from {origin.source}/{origin.id}"]
    if origin.seconds is None:
        notes.append("the seconds of work are not recorded, and stand as 0")
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "task": protocol.task,
        "recipe": own["recipe"],
        "recipe_hash": _recipe_hash(mapping, run, origin),
        "protocol": protocol.config.protocol or protocol.config.recipe,
        "deviations": _deviations(known, protocol, origin),
        "notes": notes,
        "dataset": dataset,
        "backbone": backbone,
        "seed": seed,
        "metrics": metrics,
        "units": {name: _unit(name, protocol.metrics[name]) for name in metrics},
        "selection": _or_unknown(run.value(mapping.selection)),
        **facts,
        "precision": _or_unknown(run.value(mapping.precision)),
        "hardware": {},
        "wall_clock_s": origin.seconds or 0.0,
        "versions": {},
        "started": started,
        "finished": finished,
        "command": [],
        "config": _nested(own | known) | {"foreign": plain(run.config)},
        "details": {name: plain(run.value(value)) for name, value in mapping.details.items()},
    }
    return validate(Result, values)


def _backbone(source: BackboneSource | None, run: Foreign) -> dict[str, Any] | None:
    if source is None:
        return None
    found = {
        name: run.value(getattr(source, name)) for name in type(source).model_fields if name != "pretraining"
    }
    if found["digest"] is None:
        # With the spec in it, so that weights of other names are taken for others.
        found["digest"] = f"{NOT_RECORDED}: {found['spec']}"
    pretraining = {name: plain(run.value(value)) for name, value in source.pretraining.items()}
    return found | {"pretraining": pretraining or None}


def _dataset(source: DatasetSource, run: Foreign) -> dict[str, Any]:
    found = {name: run.value(getattr(source, name)) for name in type(source).model_fields}
    if found["fingerprint"] is None:
        found["fingerprint"] = f"{NOT_RECORDED}: {found['name']}"
    return found


def _deviations(known: Mapping[str, Any], protocol: Protocol, origin: Origin) -> list[dict[str, Any]]:
    found = [
        {"key": key, "published": protocol.published[key], "ours": value}
        for key, value in known.items()
        if key in protocol.published and protocol.published[key] != value
    ]
    return [*found, {"key": IMPORTED_KEY, "published": None, "ours": f"imported from {origin.source}"}]


def _recipe_hash(mapping: RunMapping, run: Foreign, origin: Origin) -> str:
    """Digest of all of the foreign configuration that may decide the result, seed and backbone left out."""
    backbone = mapping.backbone
    parts = [getattr(backbone, name) for name in type(backbone).model_fields] if backbone else []
    parts += backbone.pretraining.values() if backbone else []
    out = [*mapping.ignore, *keys_of(mapping.seed, *(part for part in parts if isinstance(part, Taken)))]
    config = {
        key: value
        for key, value in settings.flatten(plain(run.config)).items()
        if not any(fnmatchcase(key, pattern) for pattern in out)
    }
    return settings.digest_of({"source": origin.source, "recipe": mapping.recipe, "config": config})


def _unit(name: str, metric: Metric) -> dict[str, Any]:
    return {
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "label": metric.label or name,
    }


def _or_unknown(value: Any) -> Any:
    return NOT_RECORDED if value is None else value


def _times(origin: Origin) -> tuple[str, str]:
    try:
        started = dt.datetime.fromisoformat(origin.started)
    except ValueError:
        raise MaeBenchError(f"'{origin.started}' is no time at which it can have started") from None
    started = started.replace(tzinfo=started.tzinfo or dt.UTC).astimezone(dt.UTC)
    finished = started + dt.timedelta(seconds=origin.seconds or 0.0)
    return started.isoformat(timespec="seconds"), finished.isoformat(timespec="seconds")


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted paths as nested values."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return nested


def plain(value: Any) -> Any:
    """A value of another program as one that JSON has a word for; numbers that are not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


# ---------------------------------------------------------------- curves


def log_lines(rows: Iterable[tuple[int, Mapping[str, Any]]], metrics: Mapping[str, tuple[str, float]]) -> str:
    """The content of `metrics.jsonl` of a history.

    Args:
        rows: step and its numbers, under names of ours or foreign ones.
        metrics: foreign name -> our metric and the scale of its number; these become evaluations.
    """
    return "".join(
        json.dumps(line) + "\n" for step, values in rows for line in _of_step(step, values, metrics)
    )


def _of_step(
    step: int, values: Mapping[str, Any], metrics: Mapping[str, tuple[str, float]]
) -> Iterator[dict[str, Any]]:
    training: dict[str, Any] = {}
    evaluated: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            continue  # a picture, a table, a word
        if name in metrics:
            ours, scale = metrics[name]
            evaluated[ours] = value * scale
        else:
            training[name] = value
    if training:
        yield {"step": step, **training}
    if evaluated:
        yield {"step": step, "eval": evaluated}
