"""Looking at the data of a task without running it: check it, tell it apart, corrupt it.

The verbs of `mae-bench data` that open data; `mae_bench.whereabouts` says where it lies. This module imports
no torch.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mae_bench import datasets, recipe, screen
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.roots import Roots
from mae_bench.settings import DataSettings
from mae_bench.survey import Survey

if TYPE_CHECKING:
    from mae_bench.auditing import Report
    from mae_bench.recipe import Resolved

REPORTS = ".mae-bench"
"""Folder in the data root for reports, and for what of the data has been read already."""
MOST_WORKERS = 16


def processes(given: int | Literal["auto"]) -> int:
    """How many processes work: as many as `given`; auto: one for each core that there is, up to 16."""
    if given != "auto":
        return given
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def _opened(task: str, overrides: Sequence[str], places: Roots) -> Resolved:
    if "=" in task and not Path(task).exists():
        raise MaeBenchError(f"'{task}' sets a value of a recipe: name the recipe before it")
    return recipe.resolve(task, list(overrides), named=places.named)


def _survey(resolved: Resolved, places: Roots) -> Survey:
    return resolved.adapter_class(resolved.config).survey(places.data_root)


def check(
    task: str,
    overrides: Sequence[str],
    places: Roots,
    *,
    report: str | os.PathLike[str] | None,
    workers: int | Literal["auto"],
    quick: bool,
) -> Report:
    """Read all data of a task and save what is wrong with it; see `mae_bench.api.data_check`."""
    resolved = _opened(task, overrides, places)
    survey = _survey(resolved, places)
    from mae_bench.auditing import audit

    kept = _writable(places)
    found = audit(survey, datasets.facts_for(survey), kept / "read", processes(workers), quick)
    target = kept / f"{resolved.config.recipe}.json" if report is None else Path(report)
    screen.say(f"report saved in {write_atomic(target, found.as_json() + chr(10))}")
    if not survey.parts:
        hint = f"mae-bench data where {task} tells where it is expected"
        screen.say(f"nothing of the data could be opened; {hint}")
    return found


def _writable(places: Roots) -> Path:
    """The folder for reports: in the data root, or in the runs folder where data cannot be written."""
    wanted = places.data_root / REPORTS
    try:
        # Data may lie elsewhere altogether; then no data root is made for this.
        if places.data_root.is_dir():
            wanted.mkdir(exist_ok=True)
            with tempfile.TemporaryFile(dir=wanted):
                return wanted
    except OSError as error:
        screen.say(
            f"{wanted} cannot be written ({error.strerror}): the report goes to {places.runs / REPORTS}"
        )
    return places.runs / REPORTS


@dataclass(frozen=True)
class Fingerprint:
    """What tells a task's data apart.

    Attributes:
        dataset: its name.
        digest: the one that results carry as ``dataset.fingerprint``.
        parts: name of each split -> `mae_bench.survey.Identity` as a dict: ``digest``, ``images``, and
            ``classes`` where it has some.
    """

    dataset: str
    digest: str
    parts: dict[str, dict[str, Any]]

    def as_text(self) -> str:
        """For a person."""
        lines = [f"{self.dataset}  {self.digest}"]
        for name, part in self.parts.items():
            classes = f", {part['classes']:,} classes" if "classes" in part else ""
            lines.append(f"  {name}  {part['digest']}  {part['images']:,} images{classes}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """For programs."""
        return json.dumps(
            {"dataset": self.dataset, "fingerprint": self.digest, "parts": self.parts}, indent=2
        )


def fingerprint(task: str, overrides: Sequence[str], places: Roots) -> Fingerprint:
    """The digest of a task's data; see `mae_bench.api.data_fingerprint`."""
    return fingerprint_of(_survey(_opened(task, overrides, places), places), task)


def fingerprint_of(survey: Survey, task: str) -> Fingerprint:
    """The digest of data that was surveyed; `task` is what messages call it.

    Raises:
        MaeBenchError: not all of the data could be opened.
    """
    if survey.fingerprint is None:
        faults = "; ".join(f"{finding.where}: {finding.message}" for finding in survey.findings[:3])
        raise MaeBenchError(
            f"the data of {task} has no fingerprint, as not all of it could be opened: "
            f"{faults or 'no reason told'}"
        )
    parts = {
        name: {key: value for key, value in asdict(identity).items() if value is not None}
        for name, identity in survey.identities.items()
    }
    return Fingerprint(survey.dataset, survey.fingerprint, parts)


def corrupt(
    task: str,
    output: str | os.PathLike[str],
    overrides: Sequence[str],
    places: Roots,
    *,
    corruptions: Sequence[str] | None,
    severities: Sequence[int] | None,
    workers: int | Literal["auto"],
) -> Path:
    """A set like ImageNet-C of a task's validation images; see `mae_bench.api.data_corrupt`."""
    resolved = _opened(task, overrides, places)
    data = getattr(resolved.config, "data", None)
    if not isinstance(data, DataSettings):
        raise MaeBenchError(
            f"{task} has no images with a class each, so there is no set like ImageNet-C of it"
        )
    height, width = data.image_size
    if height != width:
        raise MaeBenchError(
            f"data.image_size is [{height}, {width}], and images of ImageNet-C are square: set "
            f"data.image_size=[{width}, {width}]"
        )
    from mae_bench.data import corrupting, open_source

    names = list(corrupting.CORRUPTIONS if corruptions is None else corruptions)
    levels = list(corrupting.SEVERITIES if severities is None else severities)
    source = open_source(data, "val", places.data_root)
    files = len(source) * len(set(names)) * len(set(levels))
    with screen.progress(f"corrupting {data.name}", files, "images") as work:
        return corrupting.make(
            source,
            Path(output),
            corruptions=names,
            severities=levels,
            resize=data.evaluation.resize,
            crop=width,
            source_name=data.name,
            workers=processes(workers),
            progress=work.advance,
        )
