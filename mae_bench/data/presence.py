"""Whether the images that an annotation file or list names are there."""

from __future__ import annotations

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mae_bench.data.listing import Names
from mae_bench.errors import MaeBenchError, near
from mae_bench.yamlfile import inline

# Folders listed at the same time, for network storage answers slowly but many at once; and folders whose
# listings are held together.
THREADS = 16
TOGETHER = 256
_SHOWN = 3


def check_files(names: Names, folder: Path, root: Path, allowed: int, listed_in: str, key: str) -> None:
    """Look for every image.

    So a wrong folder or an archive that was not unpacked to its end is told before training, and not by an
    image that cannot be read hours later. Each folder is listed once, which is what finding the images of
    class folders costs too; asking for each of 2.7 million files would take a good part of an hour on network
    storage.

    Args:
        names: paths of the images below `folder`.
        root: `data.root`, below which other folders of images may lie.
        allowed: how many may be missing.
        listed_in: the file that names them.
        key: the setting that says which folder it is, for example ``data.train_images``.

    Raises:
        MaeBenchError: more are missing. Says how many, names some, what there is instead and what to set.
    """
    missing, examples = _missing(names, folder)
    if missing <= allowed:
        return
    if folder.is_dir():
        more = f" and {missing - len(examples)} more" if missing > len(examples) else ""
        fault = (
            f"{folder} lacks {missing} of the {len(names)} images that {listed_in} lists: "
            f"{', '.join(examples)}{more}"
        )
    else:
        fault = f"{folder} is missing, the folder of the images that {listed_in} lists"
    raise MaeBenchError(f"{fault}. {_advice(examples[0], folder, root, key)}", kind="missing-file")


def _missing(names: Names, folder: Path) -> tuple[int, list[str]]:
    """How many images are not there, and the first of them."""
    numbers: dict[str, int] = {}
    number_of = np.fromiter(
        (numbers.setdefault(name.rpartition("/")[0], len(numbers)) for name in names), np.int64, len(names)
    )
    by_folder = np.argsort(number_of, kind="stable")
    ends = np.cumsum(np.bincount(number_of))
    paths = [os.path.join(folder, head) for head in numbers]
    missing = np.zeros(len(names), dtype=np.bool_)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), TOGETHER):
            listings = pool.map(_files, paths[start : start + TOGETHER])
            for number, there in enumerate(listings, start):
                places = by_folder[ends[number - 1] if number else 0 : ends[number]]
                for place in places.tolist():
                    missing[place] = names[place].rpartition("/")[2] not in there
    return int(missing.sum()), [names[place] for place in np.flatnonzero(missing)[:_SHOWN].tolist()]


def _files(folder: str) -> frozenset[str]:
    """Names in a folder; none where it is missing. A folder that may not be read stops everything."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise MaeBenchError(f"{folder} cannot be listed: {error.strerror}") from error


def _setting(key: str, value: str) -> str:
    """A setting as the command line takes it; a name such as 2018 needs quotes to be no number."""
    setting = f"{key}={inline(value)}"
    return setting if shlex.quote(setting) == setting else f'"{setting}"'


def _advice(name: str, folder: Path, root: Path, key: str) -> str:
    """What to do about an image that is not there."""
    around = root if root.is_dir() else next(parent for parent in root.parents if parent.is_dir())
    folders = sorted(entry.name for entry in around.iterdir() if entry.is_dir())
    for other in [*folders, "."]:
        if around == root and root / other != folder and (root / other / name).is_file():
            return f"'{name}' is in {root / other}: set {_setting(key, other)}"
    if folder.is_dir():
        return f"Complete it, or set {key} to the folder below {root} that holds them"
    there = ", ".join(f"{one}/" for one in folders[:8]) or "no folder"
    more = f" and {len(folders) - 8} more" if len(folders) > 8 else ""
    return (
        f"Unpack the images there, or set {key} to the folder below {root} that holds them. {around} holds "
        f"{there}{more}{near(folder.name, folders)}"
    )
