"""Finding the images of a split: in folders and Hugging Face datasets here.

`archives` does it in tar files, `inaturalist` and `filelists` in the files that name images.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from timm.data.readers.reader_image_folder import ReaderImageFolder

from mae_bench.data.archives import list_shards, list_tars
from mae_bench.data.classes import read_indexed_class_list
from mae_bench.data.filelists import Bound, list_file
from mae_bench.data.inaturalist import list_inaturalist
from mae_bench.data.listing import EXTENSIONS, FolderReader, Listing, Names, Opened, leaf_classes, some
from mae_bench.data.tars import shards
from mae_bench.datasets import how_to_get
from mae_bench.errors import MaeBenchError, near
from mae_bench.settings import DataSettings

LAYOUTS = {
    "folder": "a folder for each class with the images in it: SPLIT/CLASS/IMAGE",
    "tar": "SPLIT.tar with a folder (or a tar file) for each class, or a folder SPLIT of tar files, one for "
    "each class or with class folders inside",
    "hf": "the name of a Hugging Face dataset, or a folder that datasets.load_dataset can read",
    "webdataset": "a folder of shards SPLIT/*.tar, or a range SPLIT-{000..127}.tar, with samples KEY.jpg, "
    "KEY.cls (or KEY.json)",
    "inat": "SPLIT, an annotation file of an iNaturalist competition: JSON with images, categories and "
    "annotations",
    "filelist": "SPLIT, a text file with 'FILE LABEL' a line",
}
NAMING = ("inat", "filelist")
"""Sources whose images are named in a file, and found in a folder below `data.root`."""


class MissingSplitError(MaeBenchError):
    """There is nothing where a split should be."""


def list_split(data: DataSettings, split: str, data_root: Path, *, labelled: bool) -> Opened:
    """What a split holds, the prefix that makes full names of its image names, and the reader of its images.

    Args:
        labelled: False: the images need not be sorted into classes, and all get the id 0.

    Raises:
        MissingSplitError: nothing is there; says what was expected and what there is.
        MaeBenchError: the container is broken, or its images are not sorted into classes.
    """
    part = data.train if split == "train" else data.val
    for key in ("train_images", "val_images"):
        if getattr(data, key) is not None and data.source not in NAMING:
            raise MaeBenchError(f"data.{key}: only for source {' or '.join(NAMING)}, not {data.source}")
    if data.source == "hf":
        return _list_hf(data, part, data_root, labelled)
    where = data_root / data.root / part
    if data.source in NAMING:
        if not where.is_file():
            raise _missing(data, split, where, data_root)
        return _list_named(data, split, where, data_root / data.root, labelled)
    if data.source == "folder":
        if not where.is_dir():
            raise _missing(data, split, where, data_root)
        return _list_folder(where, labelled)
    tars = shards(where)
    if not tars:
        raise _missing(data, split, where, data_root)
    if data.source == "tar":
        return list_tars(where, tars, labelled)
    return list_shards(where, tars, labelled, data.label_key, data.classes)


def _list_named(data: DataSettings, split: str, where: Path, root: Path, labelled: bool) -> Opened:
    images = data.train_images if split == "train" else data.val_images
    if data.source == "inat":
        return list_inaturalist(where, root, images, labelled)
    bound = None
    if data.class_list is not None:
        path = root / data.class_list
        bound = Bound(len(read_indexed_class_list(path)), f"{path} (data.class_list)")
    elif data.classes is not None:
        bound = Bound(data.classes, "data.classes")
    return list_file(where, root / images if images is not None else root, bound, labelled)


def layout(data: DataSettings, split: str) -> str:
    """What a split looks like, for messages."""
    return LAYOUTS[data.source].replace("SPLIT", data.train if split == "train" else data.val)


def _missing(data: DataSettings, split: str, where: Path, data_root: Path) -> MissingSplitError:
    key = f"data.{split}"
    what = "file" if data.source in NAMING else f"{data.source} images"
    part = data.train if split == "train" else data.val
    missing, around = where.name, where.parent
    while not around.is_dir():
        missing, around = around.name, around.parent
    if where.is_dir() and data.source not in NAMING:
        around = where
    there = sorted(
        entry.name + ("/" if entry.is_dir() else "")
        for entry in around.iterdir()
        if not entry.name.startswith(".")
    )
    return MissingSplitError(
        f"{where}: no {what} there ({key} = '{part}' of data.root = '{data.root}'). "
        f"Expected {layout(data, split)}. "
        f"{around} holds {some(there) if there else 'nothing'}"
        f"{near(missing, [name.rstrip('/') for name in there])}"
        f"{'' if (data_root / data.root).is_dir() else how_to_get(data.name)}"
    )


# ---------------------------------------------------------------- folders


def _list_folder(root: Path, labelled: bool) -> Opened:
    """Images below `root`, sorted by path, without hidden ones; the class is the folder an image lies in."""
    start = len(str(root)) + 1
    try:
        found = ReaderImageFolder(str(root), input_key=";".join(EXTENSIONS)).samples
    except RuntimeError:  # timm found no image; the caller says so, or names the empty class folders
        found = []
    names = sorted(path[start:] for path, _ in found)
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if labelled:
        empty = _empty_folders(root, {os.path.dirname(name) for name in names})
        listing = Listing.of(str(root), names, leaf_classes(str(root), names), empty)
    else:
        listing = Listing.unlabelled(str(root), names)
    return listing, f"{root}/", FolderReader(root, listing.names)


def _empty_folders(root: Path, holding: set[str]) -> list[str]:
    """Folders beside the class folders in which there is no image."""
    on_the_way = {str(parent) for folder in holding for parent in PurePosixPath(folder).parents}
    used = holding | on_the_way
    parents = {os.path.dirname(folder) for folder in holding} or {""}
    return [
        entry.name
        for parent in parents
        for entry in os.scandir(root / parent)
        if entry.is_dir() and not entry.name.startswith(".") and os.path.join(parent, entry.name) not in used
    ]


# ---------------------------------------------------------------- Hugging Face


class HfReader:
    """Rows of a Hugging Face dataset, through timm's reader."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, index: int) -> bytes:
        try:
            file, *_ = self._reader[index]
        except (AssertionError, TypeError) as error:
            raise OSError("the row holds neither the bytes of an image nor a path") from error
        with file:
            return bytes(file.read())


def _list_hf(data: DataSettings, part: str, data_root: Path, labelled: bool) -> Opened:
    if importlib.util.find_spec("datasets") is None:
        raise MaeBenchError("data.source hf needs the package datasets: pip install 'mae-bench[hf]'")
    from timm.data.readers.reader_hfds import ReaderHfds

    local = data_root / data.root
    where = f"Hugging Face dataset {local if local.exists() else data.root}, split {part}"
    if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
        raise MaeBenchError(
            f"{local} was written by save_to_disk. Convert each split once, and give the new folder: "
            f"datasets.load_from_disk('{local}')['SPLIT'].to_parquet('FOLDER/SPLIT.parquet')"
        )
    try:
        reader = ReaderHfds(
            str(local) if local.exists() else data.root,
            split=part,
            input_key=data.image_key,
            target_key=data.label_key if labelled else "",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise MaeBenchError(f"{where} cannot be opened: {error}") from error
    table = reader.dataset
    for key, column in (("image_key", data.image_key), ("label_key", data.label_key))[: 1 + labelled]:
        # timm's reader casts the image column, and casting one that is not there makes an empty one.
        known = [
            name for name in table.column_names if table.data.column(name).null_count < max(1, len(table))
        ]
        if column not in known:
            raise MaeBenchError(f"{where}: no column '{column}' (data.{key}) among {some(known)}")
    names = [f"{part}[{index}]" for index in range(len(table))]
    if not labelled:
        return Listing.unlabelled(where, names), f"{data.root}:", HfReader(reader)
    ids = np.asarray(table.with_format("numpy")[data.label_key][:], dtype=np.int64)
    if len(ids) and ids.min() < 0:
        raise MaeBenchError(
            f"{where}: image {int(np.argmin(ids))} has the label {ids.min()}: the split is unlabelled",
            kind="label-range",
        )
    vocabulary = getattr(table.features[data.label_key], "names", None)
    if vocabulary is None:
        listing = Listing.numbers(where, names, ids, data.classes)
    else:
        listing = Listing(where, Names(names), ids, list(vocabulary))
    return listing, f"{data.root}:", HfReader(reader)
