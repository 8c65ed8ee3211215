"""The load report: what became of every tensor, so that no half-loaded backbone goes unnoticed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mae_bench.files import write_atomic

SCHEMA = 2
"""Version of the saved report; 2 added ``allowed`` and ``family``."""

UNCHECKED = "as the factory made them"
"""The format of weights that a user's own code put into its module, and no file vouches for."""

_GROUPS = ("matched", "resized", "converted", "missing", "unexpected", "dropped", "allowed")
_SHOWN = 3  # names of each group in the summary for a person


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
        format: the checkpoint's format, recognised from its keys; ``random`` for untrained weights,
            `UNCHECKED` for those of a user's own code.
        arch: timm's name of the architecture; of a user's own module, the name of its class.
        family: whose surface it has, as `mae-bench list backbones` names it ("" where not known yet).
        matched: taken as they were.
        resized: resampled to another grid; the note says from and to.
        converted: renamed or cast; the note says from what.
        missing: in the model but not in the checkpoint (``random``: all of them).
        unexpected: in the checkpoint, with no place in the model and no known reason to be there.
        dropped: in the checkpoint and left out, as the format allows.
        allowed: missing or unexpected, and let pass because the user named exactly these with ``allow=``; the
            note says which of the two.
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
    family: str = ""
    matched: list[Entry] = field(default_factory=list)
    resized: list[Entry] = field(default_factory=list)
    converted: list[Entry] = field(default_factory=list)
    missing: list[Entry] = field(default_factory=list)
    unexpected: list[Entry] = field(default_factory=list)
    dropped: list[Entry] = field(default_factory=list)
    allowed: list[Entry] = field(default_factory=list)
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

    def percent(self) -> str:
        """`coverage` with one decimal, rounded down, so that only a whole load reads as 100.0."""
        return f"{math.floor(self.coverage * 10 + 1e-9) / 10:.1f}"

    def summary(self) -> str:
        """One line: counts, what was resized, converted, dropped or allowed, coverage, digest."""
        digest = f"sha256 {self.digest_after[:12]}"
        size = f"{self.total_parameters / 1e6:.1f} M parameters"
        if self.format == "random":
            return f"{self.spec}: untrained, {size} drawn at random, {digest}"
        if self.format == UNCHECKED:
            return f"{self.spec}: weights {UNCHECKED}, {size}, {digest}"
        parts = [f"{len(self.matched)} matched"]
        parts += [
            f"{len(entries)} {word} ({_briefly(entries)})"
            for word, entries in self._groups()
            if entries and word != "matched"
        ]
        return f"{self.spec}: {self.format}: {', '.join(parts)}; {self.percent()} % of {size}, {digest}"

    def lines(self, *more: tuple[str, str]) -> list[str]:
        """The report for a person: each group with its count and first names, coverage, digests, input.

        Args:
            more: further labels and texts, which stand before the notes.
        """
        told = [
            ("source", self.source),
            ("format", self.format),
            ("arch", self.arch),
            *((self._label(word), _counted(entries)) for word, entries in self._groups() if entries),
            ("coverage", self._coverage_in_words()),
            ("digest", self._digests()),
            ("input", self._input()),
            *more,
            *(("note", note) for note in self.notes),
        ]
        return [self.spec, *(f"  {label:<11} {text}" for label, text in told)]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the whole report as JSON, completely or not at all.

        Raises:
            MaeBenchError: the file cannot be written.
        """
        values = {"schema": SCHEMA, "coverage": self.coverage, **asdict(self)}
        return write_atomic(path, json.dumps(values, indent=2) + "\n")

    def _groups(self) -> list[tuple[str, list[Entry]]]:
        return [(word, getattr(self, word)) for word in _GROUPS]

    def _label(self, word: str) -> str:
        """What was not compared with anything is not called matched."""
        return "tensors" if word == "matched" and self.format == UNCHECKED else word

    def _coverage_in_words(self) -> str:
        if self.format == "random":
            return f"none of {self.total_parameters:,} parameters: drawn at random"
        words = f"{self.loaded_parameters:,} of {self.total_parameters:,} parameters, {self.percent()} %"
        return f"{words}, {UNCHECKED}" if self.format == UNCHECKED else words

    def _digests(self) -> str:
        if self.digest_before == self.digest_after:
            return f"sha256 {self.digest_after}"
        return f"sha256 {self.digest_after} as loaded, {self.digest_before} in the source"

    def _input(self) -> str:
        height, width = self.image_size
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{height}x{width} pixels, {len(self.mean)} channels, mean {mean}, std {std}"


def _briefly(entries: Sequence[Entry]) -> str:
    """``pos_embed: 14x14 -> 32x32`` for one tensor, top-level names for more."""
    if len(entries) == 1 and entries[0].note:
        return f"{entries[0].name}: {entries[0].note}"
    tops = list(dict.fromkeys(entry.name.split(".")[0] for entry in entries))
    return ", ".join(tops[:3]) + (f" and {len(tops) - 3} more" if len(tops) > 3 else "")


def _counted(entries: Sequence[Entry]) -> str:
    """``26: mask_token, decoder_embed.weight and 22 more (decoder); head.weight, head.bias (head)``."""
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        reasons.setdefault(entry.note, []).append(entry.name)
    if len(reasons) > _SHOWN:
        told = [f"{entry.name} ({entry.note})" if entry.note else entry.name for entry in entries[:_SHOWN]]
        return f"{len(entries)}: {', '.join(told)} and {len(entries) - _SHOWN} more"
    parts = []
    for reason, names in reasons.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts.append(f"{', '.join(names[:_SHOWN])}{more}" + (f" ({reason})" if reason else ""))
    return f"{len(entries)}: {'; '.join(parts)}"
