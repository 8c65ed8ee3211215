"""Made-up datasets for checking, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mae_bench.auditing import Report, audit
from mae_bench.datasets import DatasetFacts, digest_of
from mae_bench.survey import Finding, Part, Survey

Faults = Callable[[int, bytes], list[Finding]]


def none(item: int, content: bytes) -> list[Finding]:
    return []


def facts(
    images: Mapping[str, int], classes: Sequence[str] | None = None, *, count: int | None = None
) -> DatasetFacts:
    """What is known of a dataset called "The Set"."""
    return DatasetFacts.model_validate(
        {
            "title": "The Set",
            "licence": "none",
            "terms": "none",
            "homepage": "https://example.org",
            "root": "set",
            "images": dict(images),
            "classes": len(classes) if classes is not None else count,
            "classes_digest": None if classes is None else digest_of(classes),
            "source": ["made up"],
            "expects": "nothing",
            "download": [],
        }
    )


def part(
    folder: Path,
    contents: Sequence[bytes],
    faults: Faults = none,
    *,
    classes: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    pixels: Callable[[bytes], bytes] | None = None,
    shows: Callable[[int, bytes], Sequence[int]] | None = None,
    version: str = "",
) -> Part:
    """A part called as its folder, with a file for each of `contents` (written where there is none).

    What is read is written down in `reads` beside the folder, a path a line, by whatever process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04d}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        if not path.exists():
            path.write_bytes(content)

    def read(item: int) -> bytes:
        with open(folder.parent / "reads", "ab", buffering=0) as log:
            log.write(os.fsencode(f"{paths[item]}\n"))
        return paths[item].read_bytes()

    return Part(
        name=folder.name,
        where=str(folder),
        size=len(paths),
        title=lambda item: str(paths[item]),
        read=read,
        faults=faults,
        classes=classes,
        labels=None if labels is None else labels.__getitem__,
        pixels=pixels,
        shows=shows,
        version=version,
    )


def reads(root: Path) -> list[str]:
    """Names of the files read since the last call, as ``PART/FILE``, in order."""
    log = root / "reads"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [os.path.relpath(line, root) for line in lines]


def checked(
    survey: Survey | Sequence[Part],
    root: Path,
    known: DatasetFacts | None = None,
    *,
    workers: int = 0,
    quick: bool = False,
) -> Report:
    """The report on a survey, or on parts alone, remembering in `root`/state."""
    if not isinstance(survey, Survey):
        survey = Survey("the-set", parts=list(survey))
    return audit(survey, known, root / "state", workers, quick)


def told(report: Report, kind: str) -> list[str]:
    """The findings of one kind, ``WHERE: MESSAGE`` each."""
    return [f"{each.where}: {each.message}" for each in report.findings if each.kind == kind]


def kinds(report: Report) -> list[str]:
    """The kinds of all findings; notes in brackets."""
    return [f"({each.kind})" if each.note else each.kind for each in report.findings]
