"""What is known of datasets: how much is in them, on which terms, and where they come from.

One file a dataset, configs/datasets/NAME.yaml, named as recipes name it (``data.name``). The numbers are what
`data check` compares with; a number that no source settles is left out, and `notes` say so. This module
imports no torch.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mae_bench import resources, yamlfile
from mae_bench.settings import Count, Settings
from mae_bench.survey import Survey
from mae_bench.validation import validate

ROOT, ABOVE = "{root}", "{above}"
"""Stand in the lines of a download where the dataset's folder, or the one above it, goes."""


class DatasetFacts(Settings):
    """What is known of one dataset."""

    title: str
    licence: str
    """In a few words."""
    terms: str
    """In a sentence or two, with the address where they stand."""
    homepage: str
    root: str
    """The folder below the data root where recipes expect it."""
    holds: list[str] = Field(default_factory=list)
    """What must lie in that folder: paths; empty: the folder alone."""
    classes: Count | None = None
    images: dict[str, Count]
    """Number of images of each part, as the task's survey names it (`mae_bench.survey.Part`)."""
    classes_digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """`digest_of` the class names in order."""
    source: Annotated[list[str], Field(min_length=1)]
    """Where all this was read."""
    expects: str
    """The layout, as a tree in text."""
    download: list[str]
    """Lines of shell that fetch it and unpack it where it is expected."""
    notes: list[str] = Field(default_factory=list)


def digest_of(classes: Sequence[str]) -> str:
    """SHA-256 of class names in order, a line each."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()


def known() -> list[str]:
    """Names of the datasets that something is known of, sorted."""
    return sorted(resources.datasets())


@cache
def facts(name: str) -> DatasetFacts | None:
    """What is known of the dataset that recipes call `name`; None: nothing is.

    Raises:
        MaeBenchError: its file is not as it should be.
    """
    path = resources.datasets().get(name)
    if path is None:
        return None
    document = yamlfile.load(path)
    return validate(DatasetFacts, document.values, document.origins)


def how_to_get(name: str) -> str:
    """The end of a message about data that is not there; empty where nobody knows how to get it."""
    known = facts(name)
    return f". `mae-bench data where {name}` shows how to get it" if known and known.download else ""


def facts_for(survey: Survey) -> DatasetFacts | None:
    """What is known of the data that a task describes; of several datasets, how many images each has."""
    own = facts(survey.dataset)
    if own is not None:
        return own
    parts = {part.name: facts(part.name) for part in survey.parts}
    images = {
        name: known.images[name]
        for name, known in parts.items()
        if known is not None and name in known.images
    }
    if not images:
        return None
    first = next(known for name, known in parts.items() if known is not None and name in images)
    return first.model_copy(
        update={"title": survey.dataset, "images": images, "classes": None, "classes_digest": None}
    )


def download_lines(known: DatasetFacts, folder: Path) -> list[str]:
    """The lines that fetch a dataset into `folder`, to be pasted into a shell."""
    where = {ROOT: folder, ABOVE: folder.parent}
    lines = []
    for line in known.download:
        for place, path in where.items():
            line = line.replace(place, shlex.quote(str(path.absolute())))
        lines.append(line)
    unpacked = Path(known.root).name
    if any(ABOVE in line for line in known.download) and folder.name != unpacked:
        lines.append(f"mv {unpacked} {shlex.quote(folder.name)}")
    return lines
