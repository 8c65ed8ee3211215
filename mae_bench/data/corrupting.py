"""A set of corrupted images made locally, in the layout of ImageNet-C and from one's own validation images.

    <folder>/
        corrupted.json                                 what it is, of which images, and how it was made
        <corruption>/<severity>/<class>/<image>.JPEG   names as in the set that it is made of

The preparation is that of the official code (hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py):
the short side resized to 256 pixels, the middle 224 x 224, JPEG of quality 85. The corruptions themselves are
a library's, see `mae_bench.corruptions`, and their random numbers other ones than the official files hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from mae_bench.corruptions import (
    CORRUPTIONS,
    EXTRA,
    SEVERITIES,
    Job,
    Preparation,
    begin,
    check,
    corrupt,
    library,
    write,
)
from mae_bench.data.decoding import UnreadableImageError, decode
from mae_bench.data.sources import Source
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

__all__ = ["CORRUPTIONS", "EXTRA", "LABEL", "SEVERITIES", "corrupt", "made_locally", "make"]

LABEL = "corrupted.json"
NOTE = (
    "Made locally by mae-bench; this is not the official ImageNet-C. Numbers on it differ from numbers on "
    "ImageNet-C and must not be compared with them."
)
_UNFINISHED = ".unfinished"
_JPEG = b"\xff\xd8\xff"
# What must be the same when a set is gone on with, besides its images.
_SAME = ("library", "version", "seed", "preparation")


def made_locally(folder: Path) -> dict[str, Any] | None:
    """The label of a set that `make` made, None where there is none (an official set).

    Its keys: ``note`` (what to say of numbers on it), ``library``, ``version``, ``seed``, ``source``
    (``name``, ``fingerprint``, ``images``, ``classes``), ``preparation`` (``resize``, ``crop``, ``quality``),
    ``corruptions`` (name -> the severities that are there for all images) and ``complete`` (false while some
    are being made).

    Raises:
        MaeBenchError: the label is damaged.
    """
    file = Path(folder) / LABEL
    try:
        label = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise MaeBenchError(
            f"{file} is damaged: {error}; remove it and the folder, and make the set anew"
        ) from error
    if not isinstance(label, dict):
        raise MaeBenchError(f"{file} is damaged: it holds no mapping; make the set anew")
    return label


def make(
    source: Source,
    folder: Path,
    *,
    corruptions: Iterable[str] = CORRUPTIONS,
    severities: Iterable[int] = SEVERITIES,
    resize: int | None = 256,
    crop: int | None = 224,
    quality: int = 85,
    seed: int = 0,
    source_name: str | None = None,
    workers: int | Literal["auto"] = "auto",
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Write corrupted copies of all images of a source, and a label that says what they are.

    A second call goes on where the first was stopped, or adds what it lacks: files that are there are kept.
    The files do not depend on the number of workers nor on the order of the images, but on seed, class and
    name of each.

    Args:
        source: the clean images, ImageNet's validation split for example.
        folder: where to; it must be empty, or hold a set that was begun with the same arguments.
        corruptions: names out of `CORRUPTIONS` and `EXTRA`.
        severities: numbers from 1 to 5.
        resize: short side that images are first resized to, in pixels; None: they are not.
        crop: side of the square that is cut from the middle; None: nothing is cut off.
        quality: of the JPEG files, 1 to 95.
        source_name: what to call the source in the label; None: the folder that its images are in.
        workers: processes; ``auto``: as many as there are cores; 1: this one. With more than one a script
            must guard its main part (``if __name__ == "__main__":``), as always with Python's processes.
        progress: called with the number of files done since the last call, those found there included; in
            all images x corruptions x severities.

    Returns:
        The folder.

    Raises:
        MaeBenchError: the library is missing, an argument is out of range, the folder holds something else,
            another process is making the set, an image cannot be read, or a file cannot be written.
    """
    package, version = library()
    folder = Path(folder)
    preparation = Preparation(resize, crop, quality)
    made = {name: sorted(set(severities)) for name in dict.fromkeys(corruptions)}
    _check(made, preparation)
    wanted = [(name, severity) for name, chosen in made.items() for severity in chosen]
    files = _files(source)
    label = {
        "note": NOTE,
        "library": package,
        "version": version,
        "seed": seed,
        "source": {
            "name": source_name if source_name is not None else _folder_of(source),
            "fingerprint": source.fingerprint(),
            "images": len(source),
            "classes": len(source.classes),
        },
        "preparation": {"resize": resize, "crop": crop, "quality": quality},
    }
    tell = progress or (lambda _: None)
    with _alone(folder):
        before = _begun(folder, label)
        write_atomic(folder / LABEL, _text({**label, "corruptions": before, "complete": False}))
        unfinished = folder / _UNFINISHED
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        jobs = _jobs(source, files, folder, wanted, preparation, seed, tell)
        for done in _done(jobs, _processes(workers, len(source))):
            tell(done)
        unfinished.rmdir()
        made = {name: sorted({*before.get(name, []), *made.get(name, [])}) for name in {**before, **made}}
        write_atomic(folder / LABEL, _text({**label, "corruptions": made, "complete": True}))
    return folder


def _text(label: dict[str, Any]) -> str:
    return json.dumps(label, indent=2) + "\n"


def _check(made: dict[str, list[int]], preparation: Preparation) -> None:
    if not any(made.values()):
        raise MaeBenchError("nothing to make: give at least one corruption and one severity")
    for name, chosen in made.items():
        for severity in chosen:
            check(name, severity)
    for key in ("resize", "crop"):
        side = getattr(preparation, key)
        if side is not None and side < 1:
            raise MaeBenchError(f"{key} is {side}; give a number of pixels, or none")
    if not 1 <= preparation.quality <= 95:
        raise MaeBenchError(f"quality is {preparation.quality}; JPEG files have 1 to 95")


def _files(source: Source) -> list[tuple[str, str]]:
    """Class folder and file name of each corrupted image: those of the clean one, if it is a JPEG file."""
    if not len(source):
        raise MaeBenchError("there is nothing to corrupt: the source holds no image")
    files: dict[tuple[str, str], int] = {}
    for index in range(len(source)):
        folder = source.classes[source.label(index)]
        if "/" in folder or folder.startswith(".") or not folder:
            raise MaeBenchError(
                f"the class '{folder}' cannot be a folder's name, which the layout of ImageNet-C needs"
            )
        name = re.split(r"[/:]", source.name(index))[-1]  # TAR:MEMBER too
        stem, extension = os.path.splitext(name)
        file = name if extension.lower() in (".jpg", ".jpeg") else f"{stem}.JPEG"
        other = files.setdefault((folder, file), index)
        if other != index:
            raise MaeBenchError(
                f"{source.name(other)} and {source.name(index)} would both become {folder}/{file}; rename one"
            )
    return list(files)


def _folder_of(source: Source) -> str:
    return os.path.commonpath([os.path.dirname(source.name(index)) for index in (0, len(source) - 1)])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and hold it, so that no other process makes a set there at the same time.

    Raises:
        MaeBenchError: another one does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise MaeBenchError(f"{folder} cannot be made: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MaeBenchError(f"another process is making the set in {folder}; let it finish") from error
        yield
    finally:
        os.close(handle)


def _begun(folder: Path, label: dict[str, Any]) -> dict[str, list[int]]:
    """The corruptions and severities that are there already.

    Raises:
        MaeBenchError: the folder holds something that `make` did not make, or made otherwise.
    """
    old = made_locally(folder)
    if old is None:
        there = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
        if there:
            raise MaeBenchError(
                f"{folder} holds {', '.join(there[:3])} and no {LABEL}, so it was not made here. It may be "
                "the official set and is left alone; choose another folder"
            )
        return {}
    if old.get("source", {}).get("fingerprint") != label["source"]["fingerprint"]:
        raise MaeBenchError(f"{folder} was made of other images than these; choose another folder")
    for key in _SAME:
        if old.get(key) != label[key]:
            raise MaeBenchError(
                f"{folder} was begun with {key} {old.get(key)}, not {label[key]}; choose another folder, or "
                "go on as it was begun"
            )
    return dict(old.get("corruptions", {}))


# ---------------------------------------------------------------- the work


def _jobs(
    source: Source,
    files: Sequence[tuple[str, str]],
    folder: Path,
    wanted: Sequence[tuple[str, int]],
    preparation: Preparation,
    seed: int,
    tell: Callable[[int], object],
) -> Iterator[Job]:
    """What is still to be made of each image; images are read as they are asked for."""
    for index, (label, name) in enumerate(files):
        missing = [
            (corruption, severity, file)
            for corruption, severity in wanted
            if not _is_there(file := folder / corruption / str(severity) / label / name)
        ]
        if len(missing) < len(wanted):
            tell(len(wanted) - len(missing))
        if missing:
            key = int.from_bytes(hashlib.sha256(f"{seed} {label}/{name}".encode()).digest()[:8], "big")
            picture = _picture(source, index)
            yield Job(source.name(index), picture, key, preparation, missing, folder / _UNFINISHED)


def _is_there(file: Path) -> bool:
    """Whether a file is there and holds something; one that a crash of the system emptied does not count."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def _picture(source: Source, index: int) -> bytes | Image.Image:
    """An image as a worker takes it: JPEG files as they are, anything else decoded."""
    try:
        content = source.read(index)
        if isinstance(content, bytes) and content.startswith(_JPEG):
            return content
        return Image.fromarray(decode(content).permute(1, 2, 0).numpy())
    except (OSError, UnreadableImageError) as error:
        raise MaeBenchError(f"{source.name(index)} cannot be read: {error}") from error


def _processes(workers: int | Literal["auto"], images: int) -> int:
    if workers == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, images)
    if workers < 1:
        raise MaeBenchError(f"workers is {workers}; give 1 or more, or auto")
    return min(workers, images)


def _done(jobs: Iterator[Job], workers: int) -> Iterator[int]:
    """Do the jobs, and give the number of files that each made as it gets done."""
    if workers == 1:
        yield from map(write, jobs)
        return
    # New processes, not forked ones: OpenCV's threads do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), begin) as pool:
        waiting: set[Future[int]] = set()
        try:
            for job in jobs:
                waiting.add(pool.submit(write, job))
                if len(waiting) >= 2 * workers:  # no more in memory than keeps all busy
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in waiting)
        except BrokenProcessPool as error:
            raise MaeBenchError(
                "a worker process died, perhaps for want of memory; call again to go on, with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
