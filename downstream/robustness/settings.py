"""Settings of the robustness evaluation. What concerns images (size, transform) comes with the classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mae_bench.corruptions import CORRUPTIONS
from mae_bench.errors import near
from mae_bench.settings import HANDLING, RUNTIME, Settings, TaskConfig

WHAT = "the folder of a finished classification run, timm:NAME with its head, or file:PATH?arch=NAME"
"""What can be evaluated, in words."""
Severity = Annotated[int, Field(ge=1, le=5)]


class FolderSet(Settings):
    """A set in class folders."""

    root: str = Field(json_schema_extra=RUNTIME)
    """Folder below `--data-root`, or an absolute path."""


class CorruptedSet(FolderSet):
    """ImageNet-C: CORRUPTION/SEVERITY/CLASS/IMAGE, in folders of the archives (noise/, blur/, ...) or not."""

    corruptions: Annotated[list[str], Field(min_length=1)] | None = None
    """A part of the 15, for a look; there is no mCE of a part. Null: all."""
    severities: Annotated[list[Severity], Field(min_length=1)] | None = None
    """A part of 1 to 5, likewise."""

    @model_validator(mode="after")
    def _known_and_each_once(self) -> CorruptedSet:
        for name in self.corruptions or []:
            if name not in CORRUPTIONS:
                hint = near(name, CORRUPTIONS) or f"; there are {', '.join(CORRUPTIONS)}"
                raise ValueError(f"corruptions: there is no '{name}' in the mCE{hint}")
        for name in ("corruptions", "severities"):
            given = getattr(self, name) or []
            if len(set(given)) < len(given):
                raise ValueError(f"{name}: one stands twice in {given}")
        return self


class ReassessedSet(FolderSet):
    """ImageNet's validation images with the labels of ReaL."""

    images: str = Field(json_schema_extra=RUNTIME)
    """Folder of the validation images below `root`, in class folders or not."""
    labels: str = Field(json_schema_extra=RUNTIME)
    """File of the labels below `root`."""


class Sets(Settings):
    """Which sets; null leaves one out."""

    c: CorruptedSet | None = None
    a: FolderSet | None = None
    r: FolderSet | None = None
    sketch: FolderSet | None = None
    v2: FolderSet | None = None
    """Folders named by class, or by number as in the official archive."""
    real: ReassessedSet | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> Sets:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("give at least one of " + ", ".join(type(self).model_fields))
        return self


class RobustnessData(Settings):
    """What all sets have in common."""

    name: str
    """Identity of the sets in results and tables, for example ``imagenet-robustness``."""
    max_bad_images: Annotated[int, Field(ge=0)] = 0
    """Unreadable images allowed in each set, and in each corruption and severity (replaced by a neighbour and
    listed); one more stops the run."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", json_schema_extra=HANDLING)
    """Loader processes per process."""


class RobustnessConfig(TaskConfig):
    """Settings of the robustness evaluation."""

    data: RobustnessData
    sets: Sets
