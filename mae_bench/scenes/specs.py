"""Which generated worlds there are, and what each holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from mae_bench.corruptions import CORRUPTIONS, SEVERITIES
from mae_bench.errors import MaeBenchError, near
from mae_bench.scenes.draw import Scene, draw
from mae_bench.scenes.plan import Look
from mae_bench.scenes.shapes import CLASSES

SPLITS = ("unlabeled", "train", "val")
CHUNK = 64
"""Scenes drawn at once."""
_LATER = {"fewest": 0, "margin": None}


@dataclass(frozen=True)
class WorldSpec:
    """What a world of classes holds. Two worlds with equal specs are equal, byte for byte."""

    name: str
    unlabeled: int
    """Scenes for pretraining; their classes are balanced, but not told."""
    train_per_class: int
    val_per_class: int
    size: int = 32
    """Side of an image in pixels."""
    seed: int = 0
    look: Look = field(default_factory=Look)

    @property
    def images(self) -> int:
        """Number of images in all splits."""
        return sum(self.count(split) for split in SPLITS)

    def count(self, split: str) -> int:
        """Number of images in a split."""
        per_class = {"train": self.train_per_class, "val": self.val_per_class}
        return self.unlabeled if split == "unlabeled" else per_class[split] * len(CLASSES)


SCATTERED = Look(main_radius=(0.11, 0.24), other_radius=(0.11, 0.24), others=4, fewest=1, margin=0.06)
"""Two to five objects of comparable size anywhere, partly hidden by each other or cut by the border."""

GATHERED = Look(main_radius=(0.28, 0.42), other_radius=(0.1, 0.18), others=2, shift=0.12)
"""One large object and up to two small ones: much as in `shapes`, whose pictures the demo pretrains on."""


@dataclass(frozen=True)
class DenseSpec:
    """What a world of boxes, masks and label maps holds. Equal specs make equal worlds, byte for byte."""

    name: str
    train: int
    val: int
    size: int = 64
    """Side of an image in pixels."""
    seed: int = 1
    look: Look = SCATTERED

    @property
    def images(self) -> int:
        """Number of images in both splits."""
        return self.train + self.val

    def count(self, split: str) -> int:
        """Number of images in a split."""
        return {"unlabeled": 0, "train": self.train, "val": self.val}[split]


@dataclass(frozen=True)
class FacesSpec:
    """What a world in the layouts of iNaturalist, Places and the robustness sets holds."""

    name: str
    train_per_class: int
    val_per_class: int
    """Also of each class in the sets that test robustness."""
    size: int = 32
    """Side of an image in pixels."""
    seed: int = 2
    look: Look = field(default_factory=Look)

    @property
    def images(self) -> int:
        """Number of images drawn; those of several layouts count once."""
        # The training and validation splits; two sets of five classes and two of ten.
        return self.count("train") + 4 * self.count("val")

    def count(self, split: str) -> int:
        """Number of images in a split."""
        per_class = {"unlabeled": 0, "train": self.train_per_class, "val": self.val_per_class}
        return per_class[split] * len(CLASSES)


@dataclass(frozen=True)
class CorruptedSpec:
    """The validation images of another world with each of ImageNet-C's corruptions in each severity."""

    name: str
    clean: FacesSpec
    per_class: int | None = None
    """How many validation images of each class, the first ones; None: all."""

    @property
    def images(self) -> int:
        """Number of corrupted images."""
        of_each = self.clean.val_per_class if self.per_class is None else self.per_class
        return len(CORRUPTIONS) * len(SEVERITIES) * of_each * len(CLASSES)


DrawnSpec = WorldSpec | DenseSpec | FacesSpec
Spec = DrawnSpec | CorruptedSpec

FACES = FacesSpec("faces", train_per_class=100, val_per_class=10)
TINY_FACES = FacesSpec("tiny-faces", train_per_class=4, val_per_class=2)

SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        WorldSpec("shapes", unlabeled=12_000, train_per_class=200, val_per_class=200),
        WorldSpec("tiny", unlabeled=200, train_per_class=20, val_per_class=8),
        DenseSpec("scenes", train=2_000, val=100, size=32, look=GATHERED),
        DenseSpec("tiny-scenes", train=24, val=8),
        FACES,
        TINY_FACES,
        CorruptedSpec("faces-c", clean=FACES, per_class=5),
        CorruptedSpec("tiny-faces-c", clean=TINY_FACES),
    )
}
"""The worlds that recipes name: `generated/shapes`, `generated/scenes`, `generated/faces` and
`generated/faces-c` are the demo's, those called tiny are for tests."""


def named(spec: Spec | str) -> Spec:
    """A spec, or the one of a name.

    Raises:
        MaeBenchError: no world has this name.
    """
    if not isinstance(spec, str):
        return spec
    if spec not in SPECS:
        raise MaeBenchError(
            f"there is no generated world '{spec}' (there are {', '.join(SPECS)}){near(spec, SPECS)}"
        )
    return SPECS[spec]


def identity(spec: DrawnSpec) -> dict[str, Any]:
    """A spec as plain values, for its digest.

    Parameters of the look that were added later count where they are used, so that the worlds of before keep
    their digests.
    """
    values = asdict(spec)
    look = values["look"]
    values["look"] = {key: look[key] for key in look if key not in _LATER or look[key] != _LATER[key]}
    return values


def scenes(spec: DrawnSpec, split: str) -> Iterator[Scene]:
    """The scenes of a split ('unlabeled', 'train' or 'val') in order, drawn as they are asked for."""
    for start in range(0, spec.count(split), CHUNK):
        chunk = range(start, min(start + CHUNK, spec.count(split)))
        yield from draw(spec.look, spec.size, spec.seed, SPLITS.index(split), chunk)
