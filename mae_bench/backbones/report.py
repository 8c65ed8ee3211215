"""The load report: what became of every tensor, so that no half-loaded backbone goes unnoticed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mae_bench.files import write_atomic


@dataclass(frozen=True)
class Entry:
    """One tensor: its name and shape, and in words what it was before (or why it was left out)."""

    name: str
    shape: tuple[int, ...]
    note: str = ""


@dataclass
class LoadReport:
    """What was loaded into a backbone, tensor by tensor.

    Attributes:
        spec: the backbone's text as given.
        source: file, folder or name from which the weights came.
        format: the checkpoint's format, recognised from its keys; ``random`` for untrained weights.
        arch: timm's name of the architecture.
        matched: taken as they were.
        resized: resampled to another grid; the note says from and to.
        converted: renamed or cast; the note says from what.
        missing: in the model but not in the checkpoint (``random``: all of them).
        unexpected: in the checkpoint, with no place in the model and no known reason to be there.
        dropped: in the checkpoint and left out, as the format allows.
        loaded_parameters: scalars of the encoder that came from the checkpoint.
        total_parameters: scalars of the encoder.
        digest_before: SHA-256 of the encoder's tensors as the source holds them, under our names.
        digest_after: SHA-256 of the encoder as loaded; equal to `digest_before` unless something was
            resized or cast.
        image_size: (height, width) in pixels that the position embeddings now stand for.
        mean, std: the normalisation of the input, per channel, on a scale of 0 to 1.
        notes: anything else worth knowing, a sentence each.
    """

    spec: str
    source: str
    format: str
    arch: str
    matched: list[Entry] = field(default_factory=list)
    resized: list[Entry] = field(default_factory=list)
    converted: list[Entry] = field(default_factory=list)
    missing: list[Entry] = field(default_factory=list)
    unexpected: list[Entry] = field(default_factory=list)
    dropped: list[Entry] = field(default_factory=list)
    loaded_parameters: int = 0
    total_parameters: int = 0
    digest_before: str = ""
    digest_after: str = ""
    image_size: tuple[int, int] = (0, 0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """Percent of the encoder's parameters that came from the source."""
        return 100.0 * self.loaded_parameters / self.total_parameters if self.total_parameters else 0.0

    def summary(self) -> str:
        """One line: counts, what was resized, converted or dropped, coverage, digest."""
        digest = f"sha256 {self.digest_after[:12]}"
        size = f"{self.total_parameters / 1e6:.1f} M parameters"
        if self.format == "random":
            return f"{self.spec}: untrained, {size} drawn at random, {digest}"
        parts = [f"{len(self.matched)} matched"]
        parts += [
            f"{len(entries)} {word} ({_briefly(entries)})"
            for word, entries in (
                ("resized", self.resized),
                ("converted", self.converted),
                ("dropped", self.dropped),
                ("missing", self.missing),
                ("unexpected", self.unexpected),
            )
            if entries
        ]
        return f"{self.spec}: {self.format}: {', '.join(parts)}; {self.coverage:.1f} % of {size}, {digest}"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the whole report as JSON, completely or not at all.

        Raises:
            MaeBenchError: the file cannot be written.
        """
        values = {"schema": 1, "coverage": self.coverage, **asdict(self)}
        return write_atomic(path, json.dumps(values, indent=2) + "\n")


def _briefly(entries: Sequence[Entry]) -> str:
    """``pos_embed: 14x14 -> 32x32`` for one tensor, top-level names for more."""
    if len(entries) == 1 and entries[0].note:
        return f"{entries[0].name}: {entries[0].note}"
    tops = list(dict.fromkeys(entry.name.split(".")[0] for entry in entries))
    return ", ".join(tops[:3]) + (f" and {len(tops) - 3} more" if len(tops) > 3 else "")
