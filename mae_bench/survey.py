"""What a task says of its data, so that all of it can be checked: the contract behind `data check`.

An adapter describes its splits (`Survey`): how many items, what each is called, how to read one, and what is
wrong with the content of one. What it notices while it describes them (a class without images, annotation
records that make no sense) it adds as `Finding`s. `mae_bench.auditing` does what is the same for every task:
reading everything in parallel, hashing, comparing counts with what is known of the dataset, reporting.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mae_bench.errors import MaeBenchError

Kind = Literal[
    "layout",  # something is not there or not as expected; nothing more can be said of the split
    "missing-class",
    "unknown-class",
    "class-order",
    "wrong-count",  # images or classes, against what is known of the dataset or set in the recipe
    "swapped",  # two splits, or their label files, stand for each other
    "missing-file",
    "unreadable",  # an image that cannot be decoded
    "label-range",  # a label outside of what is allowed
    "annotation",  # boxes outside of the image, empty masks, label maps of another size
    "leak",  # one image in two splits
    "label-conflict",  # one image twice in a split, as two classes
    "damaged",  # an image that can be decoded, though the decoder complains
    "duplicate",  # one image twice in a split
    "unused",  # a class or category that nothing in the training split shows
]


@dataclass(frozen=True)
class Finding:
    """One fault, in one sentence for a person.

    Attributes:
        kind: what sort of fault.
        where: the file, folder or split.
        message: what is wrong there and what to do.
        note: it is worth knowing, but no fault.
    """

    kind: Kind
    where: str
    message: str
    note: bool = False


@dataclass(frozen=True)
class Part:
    """One split, or one set, as a sequence of items.

    Attributes:
        name: ``train``, ``val``, or what the task calls it (``imagenet-a``).
        where: the folder or file that it was read from.
        size: number of items.
        title: item -> how it is named in messages, its path.
        read: item -> the content of its image's file; raises OSError where it cannot be read.
        faults: (item, that content) -> what is wrong with it, of whatever kind: an image that cannot be
            decoded, a label map with labels out of range. Runs in forked worker processes.
        classes: names of the classes in order; None where the items have no class.
        labels: item -> class, for counting; None likewise.
        pixels: the content of a readable image -> a digest of its pixels, 16 bytes, by which a picture is
            known again that was stored otherwise; None: only equal files are found.
        shows: (item, that content) -> the classes that it shows, where only reading it tells; those of
            `classes` that no item of ``train`` shows are noted.
        files: item -> the files whose sizes and times of change tell whether it has to be read again; None:
            the one that `title` names. What has no such file is read in every check.
        version: digest of what else `faults` depends on: settings, annotations, the state of a container.
    """

    name: str
    where: str
    size: int
    title: Callable[[int], str]
    read: Callable[[int], bytes]
    faults: Callable[[int, bytes], list[Finding]]
    classes: Sequence[str] | None = None
    labels: Callable[[int], int] | None = None
    pixels: Callable[[bytes], bytes] | None = None
    shows: Callable[[int, bytes], Sequence[int]] | None = None
    files: Callable[[int], Sequence[str]] | None = None
    version: str = ""


@dataclass(frozen=True)
class Identity:
    """What tells one split apart, as training and judging take it; no pixel counts.

    Attributes:
        digest: of the names and labels of its images, wherever and in whatever container they lie.
        images: how many there are.
        classes: how many they have; None: they have none.
    """

    digest: str
    images: int
    classes: int | None = None


@dataclass
class Survey:
    """What a task's data is, as far as could be told without reading the images.

    Attributes:
        dataset: its name, ``data.name`` of the recipe, under which facts about it are looked up.
        parts: the splits that could be opened.
        findings: what was noticed on the way.
        disjoint: names of parts no two of which may share an image.
        fingerprint: the digest that results carry, as soon as all splits could be opened; else None.
        identities: then, name of each split -> what tells it apart.
    """

    dataset: str
    parts: list[Part] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    disjoint: tuple[str, ...] = ("train", "val")
    fingerprint: str | None = None
    identities: dict[str, Identity] = field(default_factory=dict)

    def tell(self, where: str, error: MaeBenchError, otherwise: Kind = "layout") -> None:
        """Add the fault that an error tells of, of the kind `otherwise` if it says none.

        What is wrong with one split is often met again on the way to the other: it is added once.
        """
        if all(finding.message != str(error) for finding in self.findings):
            self.findings.append(Finding(error.kind or otherwise, where, str(error)))
