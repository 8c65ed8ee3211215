"""What a check has read already, in a file that survives being killed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from mae_bench.auditing.reading import ENTRY, Batch, Items
from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding

# Raise it when the same files would be judged otherwise.
_VERSION = 1
_TITLES = 4096


class Memory:
    """What is known of N items: a file of one line for each batch, and the same in arrays.

    Digests lie in arrays of 48 bytes an item in all, so 14 million images take 0.6 GB.

    Attributes:
        path: the file.
        stamps: uint64 ``(N,)``, see `mae_bench.auditing.reading.ENTRY`; 0: not read.
        content: uint64 ``(N, 2)``, likewise.
        pixels: uint64 ``(N, 2)``, likewise.
        findings: item -> what was noticed when it was read.
        shows: item -> the classes it shows, of parts that tell.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.stamps = np.zeros(count, dtype=np.uint64)
        self.content = np.zeros((count, 2), dtype=np.uint64)
        self.pixels = np.zeros((count, 2), dtype=np.uint64)
        self.findings: dict[int, list[Finding]] = {}
        self.shows: dict[int, list[int]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self._recall() if path.exists() else 0
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__
            self._file.truncate(whole)
        except OSError as error:
            raise self._refused(error) from error

    @classmethod
    def of(cls, items: Items, folder: Path, dataset: str) -> Memory:
        """What the folder's file for this listing remembers; a new file where there is none."""
        name = re.sub(r"[^\w.-]+", "-", dataset)
        return cls(folder / f"{name}-{listing_digest(items)[:16]}.jsonl", len(items))

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
        line = {
            "entries": base64.b64encode(batch.entries.tobytes()).decode(),
            "findings": [[item, *astuple(each)] for item, found in batch.findings.items() for each in found],
            "shows": list(batch.shows.items()),
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
        whole = 0
        with open(self.path, "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # written when the process was killed
                try:
                    self._take(_batch(json.loads(line)))
                except (ValueError, KeyError, TypeError, IndexError):
                    break  # what comes after it is read again
                whole += len(line)
        return whole

    def _refused(self, error: OSError) -> MaeBenchError:
        return MaeBenchError(f"{self.path}, which remembers what was read: {error.strerror or error}")


def _batch(line: dict[str, Any]) -> Batch:
    batch = Batch(np.frombuffer(base64.b64decode(line["entries"]), ENTRY))
    for item, *finding in line["findings"]:
        batch.findings.setdefault(item, []).append(Finding(*finding))
    batch.shows = dict(line["shows"])
    return batch


def listing_digest(items: Items) -> str:
    """SHA-256 of names, sizes and versions of the parts, and of what every item is called, in order."""
    digest = hashlib.sha256(str(_VERSION).encode())
    for part in items.parts:
        digest.update(json.dumps([part.name, part.size, part.version]).encode())
        for start in range(0, part.size, _TITLES):
            titles = map(part.title, range(start, min(start + _TITLES, part.size)))
            digest.update(os.fsencode("\0".join(titles)) + b"\0")
    return digest.hexdigest()
