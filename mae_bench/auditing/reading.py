"""Reading the items of a survey: what is wrong with each, and by what it is known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding, Part

ENTRY = np.dtype([("item", "<i8"), ("stamp", "<u8"), ("content", "<u8", 2), ("pixels", "<u8", 2)])
"""What is remembered of an item: its number; a digest of its files' sizes and times of change, 0 if it is to
be read again in any case; half of the SHA-256 of its content and a digest of its pixels, 0 if unreadable."""


class Items:
    """The items of all parts, one after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.starts: list[int] = np.cumsum([0, *(part.size for part in parts)]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]

    def part_of(self, item: int) -> int:
        """Number of the part that an item is in."""
        return int(np.searchsorted(self.starts, item, side="right")) - 1

    def locate(self, item: int) -> tuple[Part, int]:
        """The part that an item is in, and its number there."""
        number = self.part_of(item)
        return self.parts[number], item - self.starts[number]

    def title(self, item: int) -> str:
        """What the item is called in messages."""
        part, number = self.locate(item)
        return part.title(number)


@dataclass
class Batch:
    """What came of reading some items: an `ENTRY` for each; by item, what was noticed and what it shows."""

    entries: NDArray[Any]
    findings: dict[int, list[Finding]] = field(default_factory=dict)
    shows: dict[int, list[int]] = field(default_factory=dict)


def read(
    items: Items,
    several: range,
    stamps: NDArray[np.uint64],
    heard: Callable[[], str] = str,
    in_hand: Callable[[int], None] = lambda item: None,
) -> Batch:
    """Read some items, without those whose files are as `stamps` says.

    Args:
        heard: gives what libraries have printed since it was last called.
        in_hand: called with each item before anything is done with it.
    """
    batch, kept = Batch(np.zeros(len(several), ENTRY)), 0
    for item in several:
        in_hand(item)
        part, number = items.locate(item)
        stamp = stamp_of(part, number)
        if stamp and stamp == stamps[item]:
            continue
        entry = batch.entries[kept]
        entry["item"], entry["stamp"] = item, stamp
        findings, shows = _look(part, number, entry)
        complaint = heard()
        if complaint and not findings:
            message = f"it can be read, but may be damaged: {complaint}"
            findings = [Finding("damaged", part.title(number), message, note=True)]
        if findings:
            batch.findings[item] = findings
        if shows:
            batch.shows[item] = shows
        kept += 1
    batch.entries = batch.entries[:kept]
    return batch


def stamp_of(part: Part, number: int) -> int:
    """A digest of sizes and times of change of an item's files; 0 where there is no such file."""
    files = [part.title(number)] if part.files is None else part.files(number)
    try:
        known = [(status.st_size, status.st_mtime_ns) for status in map(os.stat, files)]
    except OSError:
        return 0
    return int.from_bytes(hashlib.blake2b(repr(known).encode(), digest_size=8).digest(), "little")


def _look(part: Part, number: int, entry: Any) -> tuple[list[Finding], list[int]]:
    """What is wrong with an item, and the classes it shows; its digests are put into `entry`."""
    title = part.title(number)
    try:
        content = part.read(number)
        findings = part.faults(number, content)
    except (OSError, MemoryError) as error:
        entry["stamp"] = 0  # may be the network's fault, or another program's that takes the memory
        reason = getattr(error, "strerror", None) or str(error) or "there is not enough memory for it"
        missing = isinstance(error, FileNotFoundError)
        where = str(getattr(error, "filename", None) or title)
        return [Finding("missing-file" if missing else "unreadable", where, reason)], []
    except MaeBenchError as error:
        return [Finding(error.kind or "unreadable", title, str(error))], []
    if any(finding.kind == "unreadable" and finding.where == title for finding in findings):
        return findings, []
    entry["content"] = np.frombuffer(hashlib.sha256(content).digest()[:16], "<u8")
    if part.pixels is not None:
        entry["pixels"] = np.frombuffer(part.pixels(content), "<u8")
    return findings, [] if part.shows is None else [int(shown) for shown in part.shows(number, content)]
