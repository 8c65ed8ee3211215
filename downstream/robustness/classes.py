"""Which class each logit of a classifier stands for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from downstream.classification.splits import CLASSES_FILE
from mae_bench.data.listing import some
from mae_bench.errors import MaeBenchError

SAME_NAMES = (
    "If they are the same classes under other names, put the names of the class folders into the run's "
    f"{CLASSES_FILE}, one a line in the order of the labels (a whole classifier has them by classes=FILE)"
)
"""What to do where a classifier and a set call the classes otherwise."""


@cache
def wnids(name: Literal["imagenet-1k", "imagenet-a", "imagenet-r"]) -> tuple[str, ...]:
    """The classes of a set of the ImageNet family, sorted; the files of `wnids/` say where they are from."""
    text = (files("downstream.robustness") / "wnids" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


def are_imagenets(classes: Sequence[str]) -> bool:
    """Whether these are the 1000 of ImageNet-1K, in whatever order."""
    return sorted(classes) == list(wnids("imagenet-1k"))


def by_number(classes: Sequence[str], classes_from: str, where: Path) -> list[int]:
    """The logit of each class number, as ImageNetV2 and ReaL number them: by the sorted names of the folders.

    A classifier may know the classes by other names ("tench, Tinca tinca"), which are in the order of the
    folders and sort otherwise; by them a number would be taken for another class.

    Args:
        classes: name of each logit's class; bare numbers mean themselves.
        classes_from: where they are from, for messages.
        where: the folder or file that has numbers, for messages.

    Raises:
        MaeBenchError: the names are not ImageNet's wnids, and not sorted either.
    """
    numbers = all(name.isdecimal() for name in classes)
    order = sorted(range(len(classes)), key=lambda at: (int(classes[at]) if numbers else 0, classes[at]))
    if not are_imagenets(classes) and order != list(range(len(classes))):
        raise MaeBenchError(
            f"{where} numbers the classes by their sorted names, and those of the classifier "
            f"({classes_from}) are neither ImageNet's wnids nor sorted: {some(classes, 3)}. {SAME_NAMES}"
        )
    return order


def read_names(path: Path) -> list[str]:
    """The class names of a file, one a line, in order.

    Raises:
        MaeBenchError: it cannot be read, is empty, or a name stands there twice.
    """
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text file"
        raise MaeBenchError(f"{path} (class names) cannot be read: {reason}") from error
    if not names:
        raise MaeBenchError(f"{path} holds no class names")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise MaeBenchError(f"{path}: the class '{twice}' stands there twice")
    return names


def of_a_run(folder: Path, dataset: str, outputs: int) -> tuple[list[str], str]:
    """The classes of a run's logits, and where they are from.

    Args:
        dataset: name of the data it was trained on.
        outputs: number of logits.

    Raises:
        MaeBenchError: the run does not say, and it is not trained on ImageNet-1K; or not one name a logit.
    """
    path = folder / CLASSES_FILE
    if path.exists():
        return _counted(read_names(path), str(path), outputs), str(path)
    if dataset == "imagenet-1k" and outputs == len(wnids("imagenet-1k")):
        return list(wnids("imagenet-1k")), "the 1000 sorted wnids of ImageNet-1K"
    raise MaeBenchError(
        f"{folder} does not say which classes its {outputs} outputs are, as runs from before {CLASSES_FILE} "
        f"do; write their names into {path}, one a line in the order of the labels (the names of the class "
        "folders, sorted)"
    )


def of_a_whole(spec: str, file: str | None, outputs: int) -> tuple[list[str], str]:
    """The classes of a whole classifier's logits, and where they are from.

    Args:
        file: as given with ``classes=``.

    Raises:
        MaeBenchError: other than 1000 logits and no file, or not one name a logit.
    """
    if file is not None:
        return _counted(read_names(Path(file).expanduser()), file, outputs), file
    if outputs == len(wnids("imagenet-1k")):
        return list(wnids("imagenet-1k")), "the 1000 sorted wnids of ImageNet-1K"
    raise MaeBenchError(
        f"{spec} has {outputs:,} outputs, and only 1000 are taken for ImageNet-1K's classes; say which they "
        f"are with {'&' if '?' in spec else '?'}classes=FILE, a name a line in the order of the outputs"
    )


def _counted(names: list[str], where: str, outputs: int) -> list[str]:
    if len(names) != outputs:
        raise MaeBenchError(f"{where} names {len(names)} classes, and the classifier has {outputs} outputs")
    return names
