"""Images in tar files: class folders packed into tar files, and webdataset shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, groupby, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_bench.data.listing import ARRAYS, EXTENSIONS, PICTURES, Listing, Opened, leaf_classes, some
from mae_bench.data.tars import Member, OpenTars, members
from mae_bench.errors import MaeBenchError


class TarReader:
    """Members of tar files."""

    def __init__(self, tars: list[Path], places: NDArray[np.int64]) -> None:
        self._open = OpenTars(tars)
        self._places = places  # (N, 3): tar, offset, size

    def read(self, index: int) -> bytes:
        tar, offset, size = self._places[index].tolist()
        return self._open.read(tar, offset, size)


def _visible(tars: list[Path]) -> Iterator[tuple[int, Member]]:
    for number, tar in enumerate(tars):
        for member in members(tar):
            if not any(part.startswith(".") for part in member.path.split("/")):
                yield number, member


def list_tars(where: Path, tars: list[Path], labelled: bool) -> Opened:
    """Images in tar files, sorted by path; the class is the innermost folder, or the name of the tar file."""
    one = len(tars) == 1 and not where.is_dir()
    found = sorted(
        (member.path if one else f"{tars[number].stem}/{member.path}", number, member.offset, member.size)
        for number, member in _visible(tars)
        if member.path.lower().endswith(EXTENSIONS)
    )
    names = [name for name, *_ in found]
    label = str(tars[0]) if one else str(where)
    for first, second in pairwise(names):
        if first == second:
            raise MaeBenchError(f"{label}: '{first}' is there twice")
    reader = TarReader(tars, np.array([place for _, *place in found], dtype=np.int64).reshape(-1, 3))
    prefix = f"{label}:" if one else f"{label}/"
    if not labelled:
        return Listing.unlabelled(label, names), prefix, reader
    return Listing.of(label, names, leaf_classes(label, names)), prefix, reader


# ---------------------------------------------------------------- webdataset shards


def list_shards(where: Path, tars: list[Path], labelled: bool, label_key: str, classes: int | None) -> Opened:
    """Samples of webdataset shards, in the order they are stored.

    A sample is what neighbouring members with the same path up to the first dot hold. Its label is the number
    or name in KEY.cls, else the entry `label_key` of KEY.json.
    """
    names: list[str] = []
    labels: list[str] = []
    places: list[tuple[int, int, int]] = []
    files = OpenTars(tars)
    for (number, key), group in groupby(_visible(tars), lambda pair: (pair[0], _key(pair[1].path))):
        sample = {member.path[len(key) + 1 :].lower(): member for _, member in group}
        at = f"{tars[number]}, sample '{key}'"
        # Arrays beside a picture are something else that is known of it, such as features.
        found = [
            [member for kind, member in sample.items() if f".{kind}".endswith(kinds)]
            for kinds in (PICTURES, ARRAYS)
        ]
        image = next((member for member in chain(*found)), None)
        if image is None:
            raise MaeBenchError(f"{at} holds no image, only {some(sorted(sample))}")
        if labelled:
            labels.append(_shard_label(sample, files, number, label_key, at))
        names.append(f"{tars[number].name}/{image.path}")
        places.append((number, image.offset, image.size))
    files.close()
    prefix = f"{where}/" if where.is_dir() else f"{where.parent}/"
    reader = TarReader(tars, np.array(places, dtype=np.int64).reshape(-1, 3))
    if not labelled:
        return Listing.unlabelled(str(where), names), prefix, reader
    if not all(label.isdecimal() for label in labels):
        return Listing.of(str(where), names, labels), prefix, reader
    ids = np.array([int(label) for label in labels], dtype=np.int64)
    return Listing.numbers(str(where), names, ids, classes), prefix, reader


def _key(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.split(".", 1)[0]


def _shard_label(sample: dict[str, Member], files: OpenTars, tar: int, label_key: str, at: str) -> str:
    kind = "cls" if "cls" in sample else "json"
    if kind not in sample:
        raise MaeBenchError(f"{at} has neither a .cls nor a .json member, so no label")
    text = files.read(tar, sample[kind].offset, sample[kind].size).decode(errors="replace").strip()
    if kind == "cls":
        return text
    try:
        values = json.loads(text)
    except ValueError as error:
        raise MaeBenchError(f"{at}: its .json cannot be read: {error}") from None
    if not isinstance(values, dict) or label_key not in values:
        known = sorted(values) if isinstance(values, dict) else []
        raise MaeBenchError(f"{at}: its .json has no '{label_key}' (data.label_key), only {some(known)}")
    return str(values[label_key])
