"""What the data of a task with one class an image is, for `data check`: both splits, and what is wrong there.

A fault that keeps a split from being opened as training would becomes a finding, and the split is opened as
far as it can be, so that one check tells all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from mae_bench.data.classes import read_lines
from mae_bench.data.decoding import UnreadableImageError, decode
from mae_bench.data.listing import some
from mae_bench.data.readers import NAMING
from mae_bench.data.sources import ListedSource, Source, Split, joint_digest, open_source
from mae_bench.data.tars import shards
from mae_bench.errors import MaeBenchError
from mae_bench.settings import DataSettings
from mae_bench.survey import Finding, Identity, Part, Survey

SPLITS: tuple[Split, ...] = ("train", "val")
# No dataset has so many images: then none is missing too many.
_ANY_NUMBER = 1 << 40
# So many files of a list are looked for to tell whether it is the list of another folder.
_TRIED = 100


def survey(
    data: DataSettings, data_root: Path, *, labelled: bool = True, splits: Sequence[Split] = SPLITS
) -> Survey:
    """The splits of a dataset; of the training split the whole, whatever `data.subset` says.

    Args:
        labelled: False: the images need not be sorted into classes, for pretraining.
        splits: those that the task uses.
    """
    found = Survey(data.name)
    whole = data.model_copy(update={"subset": None})
    opened: dict[Split, Source] = {}
    for split in splits:
        try:
            opened[split] = source = open_source(whole, split, data_root, labelled=labelled)
            found.parts.append(source_part(split, source, whole, data_root, labelled=labelled))
        except MaeBenchError as error:
            wrong_list = _wrong_list(error, whole, split, data_root)
            if wrong_list is None:
                found.tell(f"data.{split}", error)
            else:
                found.findings.append(Finding("swapped", f"data.{split}", wrong_list))
            _open_anyway(found, whole, split, data_root, labelled)
    if len(opened) == len(splits):
        try:
            if data.subset is not None:
                opened["train"] = open_source(data, "train", data_root, labelled=labelled)
            _identify(found, opened, labelled)
        except MaeBenchError as error:
            found.tell("data.subset", error)
    return found


def _identify(found: Survey, opened: dict[Split, Source], labelled: bool) -> None:
    """Add the digest that results carry: of what is trained on and judged, or (unlabelled) of the former."""
    for split, source in opened.items():
        classes = len(source.classes) if labelled else None
        found.identities[split] = Identity(source.fingerprint(), len(source), classes)
    train = found.identities["train"].digest
    found.fingerprint = joint_digest(train, found.identities["val"].digest) if labelled else train


def source_part(
    name: str, source: Source, data: DataSettings, data_root: Path, *, labelled: bool = True
) -> Part:
    """A source of images as a part of a survey.

    Args:
        name: of the part.
        data: how the source is stored, and the channels of its images.
        labelled: its classes are some.
    """
    split = _named(data, name)
    where = data_root / data.root / split
    packed = data.source in ("tar", "webdataset")
    return Part(
        name=name,
        where=f"{data.root}: {split}" if data.source == "hf" else str(where),
        size=len(source),
        title=source.name,
        read=cast(Any, source.read),  # sources that are listed give bytes
        faults=lambda item, content: image_faults(source.name(item), content, data.channels),
        pixels=lambda content: pixel_digest(content, data.channels),
        classes=source.classes if labelled else None,
        labels=source.label if labelled else None,
        files=(lambda item: ()) if packed else None,
        version=f"{data.channels}" + (_state_of(shards(where)) if packed else ""),
    )


def _named(data: DataSettings, part: str) -> str:
    return data.train if part == "train" else data.val


def _state_of(files: Sequence[Path]) -> str:
    known = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(known).encode()).hexdigest()


# ---------------------------------------------------------------- images


@lru_cache(maxsize=1)
def decoded(content: bytes, channels: int) -> Tensor:
    """The last image, as it is wanted again right after it was found to be readable."""
    return decode(content, channels)


def image_faults(title: str, content: bytes, channels: int) -> list[Finding]:
    """Whether an image can be decoded, as training does it.

    What is cut off does not pass: torchvision's decoders and Pillow's refuse a file that ends before its
    image does. What a JPEG decoder makes up for corrupt data in the middle passes, in training too.
    """
    try:
        decoded(content, channels)
    except UnreadableImageError as error:
        return [Finding("unreadable", title, str(error))]
    return []


def pixel_digest(content: bytes, channels: int) -> bytes:
    """A digest of the size and the pixels of an image, 16 bytes."""
    return digest_of_pixels(decoded(content, channels))


def digest_of_pixels(image: Tensor) -> bytes:
    """A digest of the size and the pixels of an image ``(C, H, W)``, 16 bytes."""
    digest = hashlib.sha256(repr(tuple(image.shape)).encode())
    # In the order in which decoders store them; copying them into another costs more than hashing.
    digest.update(np.ascontiguousarray(image.permute(1, 2, 0).numpy()).data)
    return digest.digest()[:16]


# ---------------------------------------------------------------- splits that cannot be opened


def _open_anyway(found: Survey, data: DataSettings, split: Split, data_root: Path, labelled: bool) -> None:
    """Add what can be read of a split: the images that are there, with classes if there is sense in them."""
    patient = data.model_copy(update={"max_bad_images": _ANY_NUMBER})
    ways = [(patient, True), (patient.model_copy(update={"classes": None}), True)] if labelled else []
    for settings, with_classes in [*ways, (patient, False)]:
        try:
            source = open_source(settings, split, data_root, labelled=with_classes)
        except MaeBenchError:
            continue  # what is wrong has been told; the next way asks for less
        if data.source in NAMING:
            there = np.array([Path(source.name(item)).exists() for item in range(len(source))])
            if not there.any():
                return
            found.findings += [
                Finding("missing-file", source.name(item), f"not there, but {_named(data, split)} lists it")
                for item in np.flatnonzero(~there).tolist()
            ]
            source = cast(ListedSource, source).part(np.flatnonzero(there))
        found.parts.append(source_part(split, source, data, data_root, labelled=with_classes))
        return


def _wrong_list(error: MaeBenchError, data: DataSettings, split: Split, data_root: Path) -> str | None:
    """That images are missing because the list or label file is that of another split; None: it is not."""
    if error.kind != "missing-file":
        return None
    if data.source in NAMING:
        return _list_of_another(data, split, data_root)
    if split == "train" or data.val_labels is None:
        return None
    return _labels_of_another(data, data.val_labels, data_root)


def _list_of_another(data: DataSettings, split: Split, data_root: Path) -> str | None:
    """That a list names the images of another split; None: it does not."""
    own, other = data.train_images, data.val_images
    if split == "val":
        own, other = other, own
    elsewhere = data.model_copy(update={f"{split}_images": other})
    if own == other or _some_there(data, split, data_root) or not _some_there(elsewhere, split, data_root):
        return None
    root = data_root / data.root
    return (
        f"{root / _named(data, split)} names images of {root / (other or '.')}, the other split's folder, "
        f"and none of {root / (own or '.')}: it is the list of another split. Look at data.train and data.val"
    )


def _labels_of_another(data: DataSettings, val_labels: str, data_root: Path) -> str | None:
    """That a label file names none of the validation images; None: it names some."""
    path = data_root / data.root / val_labels
    lines = [line.rsplit(maxsplit=1)[0] for line in read_lines(path, "data.val_labels") if line.strip()]
    source = open_source(data, "val", data_root, labelled=False)
    there = {os.path.basename(source.name(item)) for item in range(len(source))}
    if any(os.path.basename(name.strip()) in there for name in lines):
        return None
    return (
        f"{path} names {some(lines, 2)}, and none of the {len(source)} images of "
        f"{data_root / data.root / data.val}: it is the label file of another split. Look at data.val_labels"
    )


def _some_there(data: DataSettings, split: Split, data_root: Path) -> bool:
    """Whether one of some images that a list names is there."""
    patient = data.model_copy(update={"max_bad_images": _ANY_NUMBER})
    source = open_source(patient, split, data_root, labelled=False)
    tried = range(0, len(source), max(1, len(source) // _TRIED))
    return any(Path(source.name(item)).exists() for item in tried)
