"""ImageNet-C on disk: CORRUPTION/SEVERITY/CLASS/IMAGE, as its archives are unpacked one way or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from downstream.robustness.folders import Folders, list_folders
from downstream.robustness.settings import CorruptedSet
from mae_bench import screen
from mae_bench.corruptions import CORRUPTIONS, EXTRA, SEVERITIES
from mae_bench.data.corrupting import made_locally
from mae_bench.data.listing import some
from mae_bench.errors import MaeBenchError

ARCHIVES = ("noise", "blur", "weather", "digital", "extra")
"""Folders that the official archives are unpacked into when each has its own."""


@dataclass(frozen=True)
class CorruptedTree:
    """The cells of ImageNet-C that are there and wanted.

    Attributes:
        root: the whole set's folder.
        cells: (corruption, severity) -> its folder, in the order of the official evaluation.
        extra: the corruptions that are there and count in no mCE.
        made: what the set says of having been made locally; None for the official one.
    """

    root: Path
    cells: dict[tuple[str, int], Path]
    extra: list[str]
    made: dict[str, Any] | None

    @property
    def corruptions(self) -> list[str]:
        """The corruptions, in order."""
        return list(dict.fromkeys(corruption for corruption, _ in self.cells))

    @property
    def severities(self) -> list[int]:
        """The severities, in order."""
        return list(dict.fromkeys(severity for _, severity in self.cells))

    def listed(self, *, even: bool = True) -> dict[tuple[str, int], Folders]:
        """The images of each cell.

        Args:
            even: refuse cells that differ from the rest.

        Raises:
            MaeBenchError: a cell without images, or one with other classes or another number of images than
                the first, as when an archive was unpacked in part.
        """
        found: dict[tuple[str, int], Folders] = {}
        first: Folders | None = None
        with screen.progress(f"listing {self.root}", len(self.cells), "folders") as work:
            for cell, folder in self.cells.items():
                found[cell] = folders = list_folders(folder, first)
                first = first or folders
                work.advance()
        faults = uneven(found) if even else []
        if faults:
            raise MaeBenchError(f"{'; '.join(faults)}; unpack these again")
        return found


def find_cells(root: Path, wanted: CorruptedSet) -> CorruptedTree:
    """Where the wanted cells of ImageNet-C are below `root`.

    Raises:
        MaeBenchError: one is not there, and `corruptions` or `severities` does not leave it out; or a
            corruption is there twice.
    """
    corruptions = [name for name in CORRUPTIONS if wanted.corruptions is None or name in wanted.corruptions]
    severities = [level for level in SEVERITIES if wanted.severities is None or level in wanted.severities]
    places = {name: _place(root, name) for name in (*corruptions, *EXTRA)}
    cells: dict[tuple[str, int], Path] = {}
    lacking: list[str] = []
    for name in corruptions:
        place = places[name]
        gone = [level for level in severities if place is None or not (place / str(level)).is_dir()]
        if place is None or len(gone) == len(severities):
            lacking.append(name)
            continue
        lacking += [f"{name}/{level}" for level in gone]
        cells |= {(name, level): place / str(level) for level in severities if level not in gone}
    if lacking:
        raise MaeBenchError(
            f"{root} lacks {some(lacking, 15)} of ImageNet-C ({len(CORRUPTIONS)} corruptions of "
            f"{len(SEVERITIES)} severities, CORRUPTION/SEVERITY/CLASS/IMAGE); get the rest, or evaluate a "
            "part, without mCE, with sets.c.corruptions=[...] or sets.c.severities=[...]"
        )
    made = made_locally(root)
    if made is not None and not made["complete"]:
        raise MaeBenchError(f"{root} is still being made, or was left half made; let it be finished first")
    return CorruptedTree(root, cells, [name for name in EXTRA if places[name] is not None], made)


def uneven(cells: dict[tuple[str, int], Folders]) -> list[str]:
    """Which cells differ from most in their classes or in their number of images, in words."""
    sizes = [len(folders) for folders in cells.values()]
    usual = max(set(sizes), key=sizes.count)
    pattern = next(folders.listing.vocabulary for folders in cells.values() if len(folders) == usual)
    faults = []
    for folders in cells.values():
        if folders.listing.vocabulary != pattern:
            differing = sorted(set(folders.listing.vocabulary) ^ set(pattern))
            faults.append(f"{folders.root} has other class folders than the rest ({some(differing, 3)})")
        elif len(folders) != usual:
            faults.append(f"{folders.root} holds {len(folders):,} images, the others {usual:,}")
    return faults


def _place(root: Path, corruption: str) -> Path | None:
    """The folder of a corruption, in `root` or in one of its archives' folders."""
    around: Sequence[Path] = (root, *(root / archive for archive in ARCHIVES))
    there = [folder / corruption for folder in around if (folder / corruption).is_dir()]
    if len(there) > 1:
        raise MaeBenchError(f"{there[0]} and {there[1]} are both there; remove one of the two")
    return there[0] if there else None
