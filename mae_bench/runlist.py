"""Lists of runs: the files that `mae-bench suite` takes and `mae-bench table --audit --save` writes.

    title: fine-tuning and robustness
    runs:
    - {recipe: mae-vit-base}
    - {task: imagenet-finetune, after: mae-vit-base, seed: 0, overrides: ["train.epochs=50"]}
    - {task: imagenet-robustness, after: imagenet-finetune}
    - {task: imagenet-knn, backbone: "timm:vit_base_patch16_224.mae", reason: "to compare with"}

This module imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from mae_bench import resources, yamlfile
from mae_bench.errors import MaeBenchError, near
from mae_bench.files import write_atomic
from mae_bench.settings import Settings
from mae_bench.validation import Origin, validate


class Entry(Settings):
    """One run, or one for each backbone and seed that the list is run with."""

    task: str | None = None
    """A downstream task, as ``run --task`` takes it; or give `recipe`."""
    recipe: str | None = None
    """A pretraining, as ``pretrain --recipe`` takes it."""
    backbone: str | None = None
    """As ``--backbone`` takes it; null: each of those that the list is run with."""
    after: str | None = None
    """Task or recipe of an earlier entry: the backbone is the folder of its run, of the same seed."""
    engine: str | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    """Null: the recipe's, or each of those that the list is run with."""
    overrides: list[str] = Field(default_factory=list)
    """``key.path=value``."""
    name: str | None = None
    """Folder below the runs folder, as ``--name``; null: made from the values."""
    replaces: str | None = None
    """When the result was finished that is to be replaced, as its `result.json` says: such a result is moved
    aside and the run begun afresh. Any other is found finished as ever, so the list can be run again."""
    reason: str = ""
    """Why it is in the list, in words."""

    @model_validator(mode="after")
    def _one_run(self) -> Entry:
        if (self.task is None) == (self.recipe is None):
            raise ValueError("give task (a downstream task) or recipe (a pretraining), and not both")
        if self.recipe is not None:
            given = [key for key in ("backbone", "after", "engine") if getattr(self, key) is not None]
            if given:
                raise ValueError(f"a pretraining takes no {given[0]}")
        return self

    @property
    def what(self) -> str:
        """Its task or recipe."""
        return self.task or self.recipe or ""


class RunList(Settings):
    """A file of runs."""

    title: str = ""
    runs: Annotated[list[Entry], Field(min_length=1)]


@dataclass(frozen=True)
class Listed:
    """A list that was read.

    Attributes:
        origins: of each entry, where it was written.
    """

    path: Path
    title: str
    entries: list[Entry]
    origins: list[Origin]


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a list, given by its name (`mae-bench list suites`) or as the path of a YAML file.

    Raises:
        MaeBenchError: there is none, with near matches.
    """
    text = os.fspath(name_or_path)
    if yamlfile.is_yaml_name(text):
        return Path(text)
    known = resources.suites()
    if text not in known:
        raise MaeBenchError(
            f"there is no suite '{text}'{near(text, known)} (known: {', '.join(known)}; or give the path of "
            "a .yaml file)"
        )
    return known[text]


def read(name_or_path: str | os.PathLike[str]) -> Listed:
    """Read a list of runs.

    Raises:
        MaeBenchError: no such list, or one line for each fault, with its path and line; an `after` that names
            no earlier entry is one.
    """
    path = find(name_or_path)
    document = yamlfile.load(path)
    listed = validate(RunList, document.values, document.origins)
    origins = [document.origins[f"runs.{i}"] for i in range(len(listed.runs))]
    faults, earlier = [], list[str]()
    for i, entry in enumerate(listed.runs):
        if entry.after is not None and entry.after not in earlier:
            hint = near(entry.after, earlier) or "; the run that it goes on from must stand before it"
            faults.append(f"runs.{i}.after: no earlier entry is '{entry.after}'{hint} ({origins[i]})")
        earlier.append(entry.what)
    if faults:
        raise MaeBenchError("\n".join(faults))
    return Listed(path, listed.title, listed.runs, origins)


def write(path: str | os.PathLike[str], entries: Sequence[Entry], title: str) -> Path:
    """Write a list of runs; values that say nothing are left out.

    Raises:
        MaeBenchError: the name does not end in .yaml, there is nothing to write, or it cannot be written.
    """
    if not yamlfile.is_yaml_name(os.fspath(path)):
        raise MaeBenchError(f"{os.fspath(path)}: a list of runs is a YAML file; let its name end in .yaml")
    if not entries:
        raise MaeBenchError(f"{os.fspath(path)} is not written: there is no run to list")
    runs = "\n".join(f"- {yamlfile.inline(_said(entry))}" for entry in entries)
    return write_atomic(path, f"title: {yamlfile.inline(title)}\nruns:\n{runs}\n")


def _said(entry: Entry) -> dict[str, Any]:
    """What an entry says beyond the defaults."""
    return entry.model_dump(mode="json", exclude_defaults=True)
