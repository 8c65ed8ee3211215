"""What has been counted already, in the run's folder: a killed evaluation goes on there."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_bench import screen
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

LEDGER_FILE = "cells.jsonl"


@dataclass(frozen=True)
class Count:
    """What came of one cell.

    Attributes:
        cell: its name.
        images: fingerprint of its images and their classes.
        weights: digest of the classifier.
        how: digest of all else that decides what is counted (transform, normalisation, precision, classes).
        right: images that were named rightly.
        scored: images.
        seconds: how long it took.
        unreadable: images that a neighbour stood in for.
        hits: which images were named rightly, a bit each, as base64; empty in ledgers of before it was kept.
    """

    cell: str
    images: str
    weights: str
    how: str
    right: int
    scored: int
    seconds: float
    unreadable: list[str] = field(default_factory=list)
    hits: str = ""

    def named(self) -> NDArray[np.bool_]:
        """(N,): which images were named rightly, in their order.

        Raises:
            ValueError: these are not the hits of as many images, or not as many as were right.
        """
        packed = np.frombuffer(base64.b64decode(self.hits, validate=True), dtype=np.uint8)
        if len(packed) != -(-self.scored // 8):
            raise ValueError(f"hits of {8 * len(packed)} images, not of {self.scored}")
        named = np.unpackbits(packed, count=self.scored).astype(np.bool_)
        if named.sum() != self.right:
            raise ValueError(f"{named.sum()} hits, not {self.right}")
        return named


def packed(named: NDArray[np.bool_]) -> str:
    """Hits (N,) as a `Count` has them."""
    return base64.b64encode(np.packbits(named).tobytes()).decode("ascii")


class Ledger:
    """The counts of a run, one JSON object a line; each is on the disk as soon as it is put down.

    Args:
        folder: the run's.
        weights: digest of the classifier.

    Raises:
        MaeBenchError: what is there was counted with other weights, or is no ledger.
    """

    def __init__(self, folder: Path, weights: str) -> None:
        self._path = folder / LEDGER_FILE
        self.counts: dict[str, Count] = {}
        """Cell -> its latest count."""
        if not self._path.exists():
            return
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                count = Count(**json.loads(line))
                if count.hits:
                    count.named()
            except (ValueError, TypeError) as error:
                raise MaeBenchError(
                    f"{self._path}, line {number} is damaged; start afresh with --force"
                ) from error
            if count.weights != weights:
                raise MaeBenchError(
                    f"the classifier's weights changed since this evaluation began ({self._path}); start "
                    "afresh with --force"
                )
            self.counts[count.cell] = count

    def done(self, cell: str, images: str, how: str) -> Count | None:
        """The count of a cell if these images were counted so; else None, said aloud where others were."""
        count = self.counts.get(cell)
        if count is None:
            return None
        if (count.images, count.how) != (images, how):
            what = "images" if count.images != images else "way of counting"
            screen.say(f"{cell}: the {what} changed since it was counted; it is counted again")
            return None
        if not count.hits:
            screen.say(f"{cell}: an earlier version kept no more than its sum; it is counted again")
            return None
        return count

    def put(self, count: Count) -> None:
        """Add a count, whole or not at all."""
        self.counts[count.cell] = count
        lines = [json.dumps(asdict(one), ensure_ascii=False) for one in self.counts.values()]
        write_atomic(self._path, "\n".join(lines) + "\n")
