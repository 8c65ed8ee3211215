"""The sets of the robustness evaluation as `data check` looks at them: no classifier is needed.

Each set is one part, named as the facts of datasets are: ``imagenet-c``, ``imagenet-a`` and so on. The cells
of ImageNet-C are compared with each other, the class folders of A and R with the 200 that they must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from downstream.robustness.cells import MASKED, cell_name, joint_fingerprint, root_of
from downstream.robustness.corrupted import find_cells, uneven
from downstream.robustness.folders import Folders, departures_from_the_200, list_folders
from downstream.robustness.reassessed import Reassessed, read_reassessed
from downstream.robustness.settings import CorruptedSet, FolderSet, ReassessedSet, RobustnessConfig
from mae_bench.data.listing import FolderReader
from mae_bench.data.surveying import image_faults, pixel_digest
from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding, Identity, Part, Survey

_CHANNELS = 3


def survey(config: RobustnessConfig, data_root: Path) -> Survey:
    """What of the sets is there, and what is wrong with their layout."""
    found = Survey(config.data.name, disjoint=())
    cells: list[tuple[str, str]] = []
    whole = True
    for key in type(config.sets).model_fields:
        wanted: FolderSet | None = getattr(config.sets, key)
        if wanted is None:
            continue
        try:
            own = _add(found, key, wanted, root_of(wanted, key, data_root))
        except MaeBenchError as error:
            found.findings.append(Finding(error.kind or "layout", f"sets.{key}", str(error)))
            whole = False
            continue
        cells += own
        found.identities[found.parts[-1].name] = _identity(found.parts[-1], own)
    if whole:
        found.fingerprint = joint_fingerprint(cells)
    return found


def _add(found: Survey, key: str, wanted: FolderSet, root: Path) -> list[tuple[str, str]]:
    """Add a set to the survey; returns the name and fingerprint of each of its cells."""
    if isinstance(wanted, CorruptedSet):
        return _add_corrupted(found, wanted, root)
    if isinstance(wanted, ReassessedSet):
        real = read_reassessed(root / wanted.images, root / wanted.labels)
        _add_reassessed(found, real)
        return [(key, real.fingerprint())]
    folders = list_folders(root)
    _say_empty(found, folders)
    if key in MASKED and _is_imagenets(folders):
        lacking, strange = departures_from_the_200(folders, f"imagenet-{key}")
        for kind, fault in (("missing-class", lacking), ("unknown-class", strange)):
            if fault:
                found.findings.append(Finding(kind, str(root), f"{root} {fault}"))  # type: ignore[arg-type]
    found.parts.append(_part(f"imagenet-{key}", root, [folders]))
    return [(key, folders.fingerprint())]


def _identity(part: Part, cells: Sequence[tuple[str, str]]) -> Identity:
    """Of a set in one folder its digest; of one in cells that of all of theirs."""
    digest = cells[0][1] if len(cells) == 1 else joint_fingerprint(cells)
    return Identity(digest, part.size, None if part.classes is None else len(part.classes))


def _add_corrupted(found: Survey, wanted: CorruptedSet, root: Path) -> list[tuple[str, str]]:
    tree = find_cells(root, wanted)
    cells = tree.listed(even=False)
    found.findings += [Finding("wrong-count", str(root), fault) for fault in uneven(cells)]
    if tree.made is not None:
        words = "its corruptions were made locally; numbers on it are not numbers on ImageNet-C"
        found.findings.append(Finding("layout", str(root), words, note=True))
    first = next(iter(cells.values()))
    _say_empty(found, first)
    found.parts.append(_part("imagenet-c", root, list(cells.values())))
    return [(cell_name(*cell), folders.fingerprint()) for cell, folders in cells.items()]


def _add_reassessed(found: Survey, real: Reassessed) -> None:
    reader = FolderReader(real.root, real.names)
    found.parts.append(
        Part(
            name="imagenet-real",
            where=str(real.root),
            size=len(real),
            title=lambda item: f"{real.root}/{real.names[item]}",
            read=reader.read,
            faults=lambda item, content: image_faults(f"{real.root}/{real.names[item]}", content, _CHANNELS),
            pixels=_pixels,
        )
    )


def _part(name: str, root: Path, cells: Sequence[Folders]) -> Part:
    """Sets in class folders, one after the other, as one part."""
    ends = np.cumsum([len(folders) for folders in cells])
    readers = [FolderReader(folders.root, folders.listing.names) for folders in cells]

    def at(item: int) -> tuple[int, int]:
        cell = int(np.searchsorted(ends, item, side="right"))
        return cell, item - (int(ends[cell - 1]) if cell else 0)

    def title(item: int) -> str:
        cell, index = at(item)
        return f"{cells[cell].root}/{cells[cell].listing.names[index]}"

    def read(item: int) -> bytes:
        cell, index = at(item)
        return readers[cell].read(index)

    def label(item: int) -> int:
        cell, index = at(item)
        return int(cells[cell].listing.ids[index])

    return Part(
        name=name,
        where=str(root),
        size=int(ends[-1]),
        title=title,
        read=read,
        faults=lambda item, content: image_faults(title(item), content, _CHANNELS),
        pixels=_pixels,
        classes=cells[0].listing.vocabulary,
        labels=label,
    )


def _pixels(content: bytes) -> bytes:
    return pixel_digest(content, _CHANNELS)


def _say_empty(found: Survey, folders: Folders) -> None:
    found.findings += [
        Finding("missing-class", f"{folders.root}/{name}", f"{folders.root}/{name} holds no image")
        for name in folders.empty()
    ]


def _is_imagenets(folders: Folders) -> bool:
    """Whether the class folders have names as ImageNet's have."""
    return any(name[0] == "n" and name[1:].isdecimal() for name in folders.listing.vocabulary)
