"""Checking the data of a task before it costs a day: what is the same for every task behind `data check`.

An adapter says what its data is (`mae_bench.survey`). Here counts and classes are compared with what is known
of the dataset (`counting`), every item is read (`reading`) by many `processes` and remembered, so that the
next call goes on (`remembering`), images that are there twice are found (`copies`), and it is all reported
(`report`).
"""

from __future__ import annotations

import time
from pathlib import Path

from mae_bench import screen
from mae_bench.auditing.copies import copy_findings
from mae_bench.auditing.counting import count_findings, counts_of
from mae_bench.auditing.processes import Readers
from mae_bench.auditing.reading import Items
from mae_bench.auditing.remembering import Memory
from mae_bench.auditing.report import Report, sorted_findings
from mae_bench.datasets import DatasetFacts
from mae_bench.stopping import InterruptedRunError, Stopper
from mae_bench.survey import Finding, Survey

__all__ = ["Report", "audit"]


def audit(survey: Survey, facts: DatasetFacts | None, state: Path, workers: int, quick: bool) -> Report:
    """Check all of a task's data.

    Args:
        facts: what is known of the dataset; None: nothing is.
        state: folder that remembers what has been read, in one file for each dataset. Images whose files are
            as they were are not read again.
        workers: processes that read; 0: this one does, and what image libraries print is not noticed.
        quick: read no image.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; what was read is remembered.
        MaeBenchError: `state` cannot be written, or reading processes end without reading.
    """
    began = time.monotonic()
    findings = [*survey.findings, *count_findings(survey, facts)]
    items = Items(survey.parts)
    read = resumed = 0
    if not quick and len(items):
        with Memory.of(items, state, survey.dataset) as memory:
            read = _read(items, memory, workers)
        resumed = len(items) - read
        findings += [finding for item in sorted(memory.findings) for finding in memory.findings[item]]
        findings += copy_findings(items, memory.content, memory.pixels, survey.disjoint)
        findings += _unused(items, memory)
    return Report(
        dataset=survey.dataset,
        fingerprint=survey.fingerprint,
        findings=sorted_findings(findings),
        counts={part.name: counts_of(part) for part in survey.parts},
        checked=read,
        resumed=resumed,
        seconds=time.monotonic() - began,
        quick=quick,
    )


def _read(items: Items, memory: Memory, workers: int) -> int:
    """Read what is not known; returns how many items that were."""
    read, known = 0, memory.known()
    with (
        Stopper() as stopper,
        Readers(items, memory.stamps, workers) as readers,
        screen.progress("reading images", len(items), "images", start=known) as work,
    ):
        for batch in readers.batches():
            if len(batch.entries):
                memory.add(batch)
                read += len(batch.entries)
                # Images that changed since they were read already counted among those known.
                work.advance(min(len(batch.entries), len(items) - work.done))
            if stopper.signal is not None:
                raise InterruptedRunError(
                    f"stopped: {int(work.done):,} of {len(items):,} images have been read, which "
                    f"{memory.path} remembers; the same command goes on from there",
                    128 + stopper.signal,
                )
    return read


def _unused(items: Items, memory: Memory) -> list[Finding]:
    """Classes that images of the training split could show and none does."""
    found = []
    for part, start in zip(items.parts, items.starts, strict=False):
        if part.shows is None or part.classes is None or part.name != "train":
            continue
        within = range(start, start + part.size)
        seen = {number for item in within for number in memory.shows.get(item, ())}
        found += [
            Finding("unused", part.where, f"no image of {part.name} shows the class '{name}'", note=True)
            for number, name in enumerate(part.classes)
            if number not in seen
        ]
    return found
