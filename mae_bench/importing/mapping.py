"""The mapping file of an import: which runs to take, and what their names mean in ours.

YAML, read strictly; docs/wandb.md shows a whole one. Wherever a value stands, there may stand a constant or a
`Taken`: where in the foreign run it is found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import Field, model_validator

from mae_bench import yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.files import PathLike
from mae_bench.settings import Settings
from mae_bench.validation import validate

Plain = str | int | float | bool | None | list[int] | list[float] | list[str]


class Taken(Settings):
    """A value that is taken from the foreign run; give `config` or `summary`."""

    config: str | None = None
    """A key of its configuration; dots lead into what is nested."""
    summary: str | None = None
    """A key of its summary."""
    values: dict[str, Plain] | None = None
    """The value found (as text) -> ours; one that does not stand here means that the run does not fit."""
    default: Plain = None
    """Ours where it is not there; without one such a run does not fit."""

    @model_validator(mode="after")
    def _one_place(self) -> Taken:
        if (self.config is None) == (self.summary is None):
            raise ValueError("give config or summary, the one place to take the value from")
        return self


Value = Plain | Taken


class Wanted(Settings):
    """Which runs are imported: those that fit in everything that is said."""

    states: list[str] = Field(default_factory=lambda: ["finished"])
    """`finished`, `crashed`, `failed`, `killed`, `running`."""
    tags: list[str] = Field(default_factory=list)
    """All of these."""
    name: str = "*"
    """A pattern, for example ``finetune-*``."""
    config: dict[str, Plain] = Field(default_factory=dict)
    """Key of the configuration (dots lead into what is nested) -> its value, or a list of which it is one."""


class MetricSource(Settings):
    """Where a metric is found."""

    key: str
    """Key of the summary; also that of the history, for curves."""
    scale: float = 1.0
    """What the number is multiplied by: 100 makes percent of a share."""
    optional: bool = False
    """Whether a run without it fits nevertheless."""


class BackboneSource(Settings):
    """What was transferred."""

    spec: Value
    """As `--backbone` would name it, for example ``timm:vit_base_patch16_224.mae``."""
    arch: Value
    """Name of the architecture in timm."""
    digest: Value = None
    params: Value = None
    width: Value = None
    depth: Value = None
    patch_size: Value = None
    """Height and width in pixels."""
    pretraining: dict[str, Value] = Field(default_factory=dict)
    """What is known about it: `method`, `dataset`, `epochs`, ..."""


class DatasetSource(Settings):
    """What it was measured on."""

    name: Value
    fingerprint: Value = None
    train_images: Value = None
    val_images: Value = None
    classes: Value = None


class RunMapping(Settings):
    """A mapping file."""

    runs: Wanted = Wanted()
    recipe: str
    """The recipe whose protocol the runs were meant to follow; it decides the task."""
    metrics: Annotated[dict[str, MetricSource], Field(min_length=1)]
    """Our metric -> where it is found, headline first."""
    backbone: BackboneSource | None = None
    dataset: DatasetSource
    seed: Value = 0
    epochs: Value = None
    batch: Value = None
    steps: Value = None
    images_seen: Value = None
    precision: Value = None
    selection: Value = None
    """How the reported number was chosen, for example ``last epoch``."""
    config: dict[str, Value] = Field(default_factory=dict)
    """Setting of our recipe, by its dotted path -> what it was in the run; what differs is a deviation."""
    ignore: list[str] = Field(default_factory=list)
    """Patterns of keys of the foreign configuration that decide no result, such as an output folder. Runs
    that differ in any other key, but for seed and backbone, never average into one cell."""
    history: dict[str, str] = Field(default_factory=dict)
    """Our name in `metrics.jsonl` -> key of the history, for example ``loss: train/loss``."""
    details: dict[str, Value] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


def load(path: PathLike) -> RunMapping:
    """Read a mapping file.

    Raises:
        MaeBenchError: it is not there, is no valid YAML, or has an unknown key or a value of a wrong type.
    """
    document = yamlfile.load(path)
    return validate(RunMapping, document.values, document.origins)


class Foreign:
    """A run of somewhere else: its configuration and its summary, as plain values."""

    def __init__(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        self.config, self.summary = config, summary

    def value(self, wanted: Value) -> Any:
        """What a value of the mapping is for this run.

        Raises:
            MaeBenchError: it is not there, or none of those that the mapping knows.
        """
        if not isinstance(wanted, Taken):
            return wanted
        place, key = ("config", wanted.config) if wanted.config is not None else ("summary", wanted.summary)
        assert key is not None
        found = at(self.config if place == "config" else self.summary, key)
        if found is None:
            if wanted.default is None:
                raise MaeBenchError(f"its {place} has no '{key}'")
            return wanted.default
        if wanted.values is None:
            return found
        if str(found) not in wanted.values:
            raise MaeBenchError(f"{key} is '{found}' in its {place}, for which the mapping has no value")
        return wanted.values[str(found)]

    def metric(self, source: MetricSource) -> float | None:
        """A metric in our unit; None where an optional one is not there.

        Raises:
            MaeBenchError: it is not there, or no finite number.
        """
        found = at(self.summary, source.key)
        if found is None and source.optional:
            return None
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            told = "has no" if found is None else "has no finite number as"
            raise MaeBenchError(f"its summary {told} '{source.key}'")
        return float(found) * source.scale


def at(values: Mapping[str, Any], key: str) -> Any:
    """The value under a key as it stands, or where its dots lead; None if there is none.

    The longest key that is there goes first: ``val/acc.max`` is `max` of what stands under ``val/acc``.
    """
    if key in values:
        return values[key]
    for head, rest in _split(key):
        inner = values.get(head)
        if isinstance(inner, Mapping):
            return at(inner, rest)
    return None


def history_keys(source: MetricSource) -> list[str]:
    """Under which a metric may stand in the history: as in the summary, or without what leads into it."""
    return [source.key, *(head for head, _ in _split(source.key))]


def _split(key: str) -> Iterator[tuple[str, str]]:
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:end]), ".".join(parts[end:])


def why_not(wanted: Wanted, name: str, state: str, tags: list[str], config: Mapping[str, Any]) -> str:
    """Why a run is not among those wanted; empty if it is."""
    if state not in wanted.states:
        return f"its state is {state}"
    if not fnmatchcase(name, wanted.name):
        return f"its name does not fit {wanted.name}"
    lacking = [tag for tag in wanted.tags if tag not in tags]
    if lacking:
        return f"it has no tag {lacking[0]}"
    for key, value in wanted.config.items():
        found = at(config, key)
        if found != value and not (isinstance(value, list) and found in value):
            return f"{key} is {found}"
    return ""


def keys_of(*values: Value) -> list[str]:
    """Keys of the foreign configuration that some values are taken from."""
    return [value.config for value in values if isinstance(value, Taken) and value.config is not None]
