"""Reading members of tar files at random, by offset.

A tar file is gone through once, header by header (about 30 microseconds a member), and every image in it is
remembered as (file, offset, size). After that an image is one positioned read: the order is ours, a run
resumes without reading what it skips, and forked loader processes can share the open files, since no file
position is involved. timm's ``ReaderImageInTar`` gives the same images and class names, but reads the whole
archive to index it, shares file positions between processes, and knows only PNG and JPEG; its webdataset
reader shuffles by itself and cannot be resumed exactly.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae_bench.errors import MaeBenchError


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar file: its path there and where its bytes are."""

    path: str
    offset: int
    size: int


def members(tar: Path) -> Iterator[Member]:
    """Every regular file of `tar`, and of the tar files inside it, in the order they are stored.

    The path of a member of an inner tar file starts with that file's path without ``.tar``, as if it were a
    folder (the training set of ImageNet is distributed so: a tar of one tar per class).

    Raises:
        MaeBenchError: not a plain tar file, cut off, or holding links in place of files.
    """
    try:
        size = tar.stat().st_size
        with tarfile.open(tar, "r:") as archive:
            yield from _walk(archive, tar, "", 0, size)
    except (tarfile.TarError, EOFError, OSError) as error:
        hint = ""
        if tar.name.endswith((".gz", ".tgz", ".xz", ".bz2", ".zst")):
            hint = " (compressed tar files cannot be read at random: decompress it first)"
        raise MaeBenchError(f"{tar}: not a readable tar file{hint}: {error}") from error


def _walk(archive: tarfile.TarFile, tar: Path, prefix: str, start: int, end: int) -> Iterator[Member]:
    while (info := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # else it keeps a kilobyte for each member gone by
        path = prefix + re.sub(r"^(\./)+", "", info.name)
        if info.issym() or info.islnk() or info.issparse():
            raise MaeBenchError(f"{tar}: '{path}' is a link or a sparse file; pack plain files only")
        if not info.isreg():
            continue
        offset = start + info.offset_data
        if offset + info.size > end:
            raise MaeBenchError(f"{tar}: cut off in the middle of '{path}'")
        if path.endswith(".tar"):
            with tarfile.open(fileobj=archive.extractfile(info), mode="r:") as inner:
                yield from _walk(inner, tar, path.removesuffix(".tar") + "/", offset, offset + info.size)
        else:
            yield Member(path, offset, info.size)
    # The standard library takes a file that stops between two members for whole.
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise MaeBenchError(f"{tar}: cut off: '{prefix or tar.name}' has no end marker")


def shards(where: Path) -> list[Path]:
    """The tar files meant by `where`: one file, a folder of them, or a numbered range ``a-{000..127}.tar``.

    Raises:
        MaeBenchError: one of the range is missing. An empty list means that there is nothing at all.
    """
    span = re.search(r"\{(\d+)\.\.(\d+)\}", where.name)
    if span is None:
        if where.is_dir():
            return sorted(path for path in where.glob("*.tar") if not path.name.startswith("."))
        return [path for path in (where, where.with_name(where.name + ".tar")) if path.is_file()][:1]
    first, last = span.groups()
    names = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    found = [where.with_name(where.name[: span.start()] + name + where.name[span.end() :]) for name in names]
    lacking = [path for path in found if not path.is_file()]
    if lacking and len(lacking) < len(found):
        raise MaeBenchError(f"{lacking[0]} is missing: {len(lacking)} of the {len(found)} files of {where}")
    return [] if lacking else found


class OpenTars:
    """Positioned reads from several tar files; safe to share between forked processes, and picklable."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._descriptors: dict[int, int] = {}

    def read(self, tar: int, offset: int, size: int) -> bytes:
        """`size` bytes of the tar file number `tar` from `offset`.

        Raises:
            OSError: the file cannot be read or is shorter than it was.
        """
        if tar not in self._descriptors:
            self._descriptors[tar] = os.open(self.paths[tar], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        data = os.pread(self._descriptors[tar], size, offset)
        while len(data) < size:
            more = os.pread(self._descriptors[tar], size - len(data), offset + len(data))
            if not more:
                raise OSError(f"{self.paths[tar]} is shorter than when it was indexed")
            data += more
        return data

    def close(self) -> None:
        """Close the files; the next read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_descriptors": {}}
