"""What a check found: for the screen, and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, get_args

from mae_bench.screen import duration
from mae_bench.survey import Finding, Kind

SCHEMA = 1
# So many findings of one kind are shown on the screen.
_SHOWN = 20
# Heaviest first.
_WEIGHT: tuple[Kind, ...] = (
    "layout",
    "missing-class",
    "unknown-class",
    "swapped",
    "class-order",
    "wrong-count",
    "missing-file",
    "label-range",
    "annotation",
    "unreadable",
    "leak",
    "label-conflict",
    "damaged",
    "duplicate",
    "unused",
)
# Where a finding is about a split as a whole.
_SETTING = re.compile(r"(data|sets)(\.\w+)+")
assert set(_WEIGHT) == set(get_args(Kind))


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Each once: faults before notes, heavy kinds first, else in the order they came."""
    return sorted(dict.fromkeys(findings), key=lambda each: (each.note, _WEIGHT.index(each.kind)))


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        dataset: name of the dataset.
        fingerprint: the digest that results carry; None where not all splits could be opened.
        findings: faults and notes, see `sorted_findings`.
        counts: part -> ``where``, ``images``, ``classes``, ``per_class`` (``least``, ``median``, ``most``).
        checked: how many images were read.
        resumed: how many more had been read by an earlier check and have not changed since.
        seconds: how long it took.
        quick: no image was looked at.
    """

    dataset: str
    fingerprint: str | None
    findings: list[Finding]
    counts: dict[str, dict[str, Any]]
    checked: int
    resumed: int
    seconds: float
    quick: bool = False

    @property
    def ok(self) -> bool:
        """Nothing but notes was found."""
        return all(finding.note for finding in self.findings)

    @property
    def rate(self) -> float:
        """Images read a second."""
        return self.checked / self.seconds if self.seconds > 0 else 0.0

    def as_text(self, most: int = _SHOWN) -> str:
        """The report for people; of each kind of finding the first `most`."""
        lines = [f"data check of {self.dataset}: {self._verdict()}", ""]
        lines += [f"  {_counted(name, counts)}" for name, counts in self.counts.items()]
        lines += [f"  {self._effort()}"]
        if self.fingerprint is not None:
            lines.append(f"  fingerprint {self.fingerprint}")
        for (note, kind), several in groupby(self.findings, key=lambda each: (each.note, each.kind)):
            found = list(several)
            lines += ["", f"{'note' if note else 'FAULT'}: {kind} ({len(found):,})"]
            lines += [f"  {finding.where}: {finding.message}" for finding in found[:most]]
            if len(found) > most:
                lines.append(f"  and {len(found) - most:,} more: see the report")
        return "\n".join(lines)

    def as_json(self) -> str:
        """Everything, as one JSON object."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "dataset": self.dataset,
                "fingerprint": self.fingerprint,
                "ok": self.ok,
                "quick": self.quick,
                "counts": self.counts,
                "checked": self.checked,
                "resumed": self.resumed,
                "seconds": round(self.seconds, 3),
                "images_per_second": round(self.rate, 1),
                "bad_files": self.bad_files(),
                "findings": [asdict(finding) for finding in self.findings],
            },
            indent=2,
        )

    def bad_files(self) -> list[str]:
        """Paths of the images that are not there or cannot be read."""
        bad = (each.where for each in self.findings if each.kind in ("unreadable", "missing-file"))
        return [where for where in dict.fromkeys(bad) if not _SETTING.fullmatch(where)]

    def _verdict(self) -> str:
        notes = sum(finding.note for finding in self.findings)
        told = [_plural(len(self.findings) - notes, "fault")] if not self.ok else ["no fault"]
        return " and ".join(told + ([_plural(notes, "note")] if notes else []))

    def _effort(self) -> str:
        if self.quick:
            return "images were not looked at (quick)"
        again = f"; {self.resumed:,} more were read by an earlier check" if self.resumed else ""
        rate = f", {self.rate:,.0f} images/s" if self.checked else ""
        return f"{self.checked:,} images read in {duration(self.seconds)}{rate}{again}"


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _counted(name: str, counts: dict[str, Any]) -> str:
    text = f"{name}: {_plural(counts['images'], 'image')}"
    if "classes" in counts:
        text += f", {counts['classes']:,} classes"
    if "per_class" in counts:
        per_class = counts["per_class"]
        text += f" ({per_class['least']:,} to {per_class['most']:,} each, median {per_class['median']:g})"
    return f"{text}: {counts['where']}"
