"""What a check has read already, in a file that survives being killed.

What was read is remembered under what the item is called and judged by, not under its place: so it is known
again when other images have come or gone, and by other tasks on the same data.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mae_bench.auditing.reading import ENTRY, Batch, Items
from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding

# Raise it when the same files would be judged otherwise.
_VERSION = 2


class Memory:
    """What is known of N items: a file of one line for each batch, and the same in arrays.

    These have 56 bytes an item in all, so 14 million images take 0.8 GB.

    Attributes:
        path: the file.
        stamps: uint64 ``(N,)``, see `mae_bench.auditing.reading.ENTRY`; 0: not read.
        content: uint64 ``(N, 2)``, likewise.
        pixels: uint64 ``(N, 2)``, likewise.
        findings: item -> what was noticed when it was read.
        shows: item -> the classes it shows, of parts that tell.
    """

    def __init__(self, path: Path, keys: NDArray[np.int64]) -> None:
        count = len(keys)
        self.path = path
        self._keys = keys
        self.stamps = np.zeros(count, dtype=np.uint64)
        self.content = np.zeros((count, 2), dtype=np.uint64)
        self.pixels = np.zeros((count, 2), dtype=np.uint64)
        self.findings: dict[int, list[Finding]] = {}
        self.shows: dict[int, list[int]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._recall() if path.exists() else 0
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__
            if self._file.tell() > whole:
                self._file.truncate(whole)
        except OSError as error:
            raise self._refused(error) from error

    @classmethod
    def of(cls, items: Items, folder: Path, dataset: str) -> Memory:
        """What the folder's file for this dataset remembers; a new file where there is none."""
        name = re.sub(r"[^\w.-]+", "-", dataset)
        return cls(folder / f"{name}.jsonl", keys_of(items))

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def known(self) -> int:
        """How many items have been read."""
        return int(np.count_nonzero(self.stamps))

    def add(self, batch: Batch) -> None:
        """Take in a batch and write it down.

        Raises:
            MaeBenchError: it cannot be written.
        """
        entries, keys = batch.entries.copy(), self._keys
        entries["item"] = keys[entries["item"]]
        findings = [(int(keys[item]), each) for item, found in batch.findings.items() for each in found]
        line = {
            "entries": base64.b64encode(entries.tobytes()).decode(),
            "findings": [[key, *astuple(each)] for key, each in findings],
            "shows": [[int(keys[item]), shown] for item, shown in batch.shows.items()],
        }
        try:
            data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._refused(error) from error
        self._take(batch)

    def _take(self, batch: Batch) -> None:
        items = batch.entries["item"]
        self.stamps[items] = batch.entries["stamp"]
        self.content[items] = batch.entries["content"]
        self.pixels[items] = batch.entries["pixels"]
        for item in items.tolist() if self.findings or self.shows else ():
            self.findings.pop(item, None)
            self.shows.pop(item, None)
        self.findings.update(batch.findings)
        self.shows.update(batch.shows)

    def _recall(self) -> int:
        """Take in the whole lines of the file; returns how many bytes these are."""
        whole, order = 0, np.argsort(self._keys, kind="stable")
        known = _Known(self._keys[order], order)
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # written when the process was killed
                try:
                    self._take(_batch(json.loads(line), known))
                except (ValueError, KeyError, TypeError, IndexError):
                    break  # what comes after it is read again
                whole += len(line)
        return whole

    def _refused(self, error: OSError) -> MaeBenchError:
        return MaeBenchError(f"{self.path}, which remembers what was read: {error.strerror or error}")


class _Known(NamedTuple):
    """The keys there are, ascending, and the item of each."""

    keys: NDArray[np.int64]
    items: NDArray[np.int64]

    def items_of(self, asked: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items of some keys; -1 for one that there is not."""
        place = np.searchsorted(self.keys, asked)
        place[place == len(self.keys)] = 0
        return np.where(self.keys[place] == asked, self.items[place], -1)


def _batch(line: dict[str, Any], known: _Known) -> Batch:
    """A line as it was written, without what is not there any more."""
    entries = np.frombuffer(base64.b64decode(line["entries"]), ENTRY).copy()
    keys = entries["item"].tolist()
    entries["item"] = known.items_of(entries["item"])
    item_of = dict(zip(keys, entries["item"].tolist(), strict=True))
    batch = Batch(entries[entries["item"] >= 0])
    for key, *finding in line["findings"]:
        if item_of[key] >= 0:
            batch.findings.setdefault(item_of[key], []).append(Finding(*finding))
    batch.shows = {item_of[key]: shown for key, shown in line["shows"] if item_of[key] >= 0}
    return batch


def keys_of(items: Items) -> NDArray[np.int64]:
    """Eight bytes for each item, of the name and version of its part and of what it is called; ``(N,)``."""

    def keys() -> Iterator[int]:
        for part in items.parts:
            start = hashlib.blake2b(json.dumps([_VERSION, part.name, part.version]).encode(), digest_size=8)
            for number in range(part.size):
                digest = start.copy()
                digest.update(os.fsencode(part.title(number)))
                yield int.from_bytes(digest.digest(), "little", signed=True)

    return np.fromiter(keys(), np.int64, len(items))
