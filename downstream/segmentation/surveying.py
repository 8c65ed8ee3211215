"""What the data of segmentation is, for `data check`: pairs of files, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from downstream.segmentation.dataset import Listed, SegmentationSource, Split, list_split, source_of
from downstream.segmentation.labels import IGNORED
from downstream.segmentation.settings import SegmentationData
from mae_bench.data import joint_digest
from mae_bench.data.surveying import decoded, image_faults, pixel_digest
from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding, Identity, Part, Survey

SPLITS: tuple[Split, ...] = ("train", "val")


def survey(data: SegmentationData, data_root: Path) -> Survey:
    """The pairs of both splits; images without label map, and the other way round, are findings."""
    found = Survey(data.name)
    listings: dict[Split, Listed] = {}
    sources: dict[str, SegmentationSource] = {}
    for split in SPLITS:
        try:
            listings[split] = listed = list_split(data, split, data_root)
            pairs = sorted(listed.found.keys() & listed.maps.keys())
            sources[split] = source_of(data, listed, data_root, pairs)
        except MaeBenchError as error:
            found.tell(f"data.{split}", error)
    unpaired = _unpaired(listings)
    found.findings += unpaired
    found.parts += [_part(name, source, data) for name, source in sources.items() if len(source)]
    if len(sources) == len(SPLITS) and not unpaired:
        for name, source in sources.items():
            found.identities[name] = Identity(source.fingerprint(), len(source), len(source.classes))
        found.fingerprint = joint_digest(*(found.identities[name].digest for name in SPLITS))
    return found


def _unpaired(listings: Mapping[Split, Listed]) -> list[Finding]:
    """Images without label map and label maps without image."""
    findings = []
    for split, listed in listings.items():
        stems, maps = listed.found.keys(), listed.maps.keys()
        others = [other for name, other in listings.items() if name != split]
        exchanged = [other for other in others if not stems & maps and stems & other.maps.keys()]
        if exchanged:
            message = (
                f"the label maps of the images in {listed.images} are in {exchanged[0].labels}, and none is "
                f"in {listed.labels}: the folders of two splits are exchanged. Look at data.{split}.labels"
            )
            findings.append(Finding("swapped", f"data.{split}", message))
            continue
        for stem in sorted(stems - maps):
            where = str(listed.images / f"{stem}{listed.found[stem]}")
            message = f"has no label map {listed.labels / f'{stem}.png'}; add it, or remove the image"
            findings.append(Finding("missing-file", where, message))
        for stem in sorted(maps - stems):
            where = str(listed.labels / f"{stem}.png")
            message = f"is the label map of no image in {listed.images}; add that, or remove the map"
            findings.append(Finding("missing-file", where, message))
    return findings


def _part(name: str, source: SegmentationSource, data: SegmentationData) -> Part:
    # The last map, which is asked for twice; or what is wrong with it.
    labels = lru_cache(maxsize=1)(lambda item: _labels(source, item))

    def faults(item: int, content: bytes) -> list[Finding]:
        found, truth = image_faults(source.name(item), content, data.channels), labels(item)
        if isinstance(truth, Finding):
            return [*found, truth]
        return found or [
            *_sizes(source, item, decoded(content, data.channels), truth),
            *_without_a_class(source, item, truth),
        ]

    def shows(item: int, content: bytes) -> list[int]:
        truth = labels(item)
        if isinstance(truth, Finding):
            return []
        counts = torch.bincount(truth.flatten(), minlength=IGNORED + 1)
        shown: list[int] = counts[:IGNORED].nonzero().flatten().tolist()
        return shown

    return Part(
        name=name,
        where=str(source.images),
        size=len(source),
        title=source.name,
        read=lambda item: Path(source.name(item)).read_bytes(),
        faults=faults,
        pixels=lambda content: pixel_digest(content, data.channels),
        shows=shows,
        classes=source.classes,
        files=lambda item: (source.name(item), str(source.label_path(item))),
        version=repr((data.channels, len(source.classes), data.zero_is_ignored, data.ignore_label)),
    )


def _labels(source: SegmentationSource, item: int) -> Tensor | Finding:
    path = source.label_path(item)
    try:
        return source.reader.read(path)
    except MaeBenchError as error:
        return Finding(error.kind or "unreadable", str(path), str(error))


def _without_a_class(source: SegmentationSource, item: int, labels: Tensor) -> list[Finding]:
    """A note on a label map of which nothing is learned and nothing judged."""
    if bool((labels != IGNORED).any()):
        return []
    message = "no pixel of this label map has a class; is it the right one?"
    return [Finding("annotation", str(source.label_path(item)), message, note=True)]


def _sizes(source: SegmentationSource, item: int, image: Tensor, labels: Tensor) -> list[Finding]:
    try:
        source.check_size(item, image, labels)
    except MaeBenchError as error:
        return [Finding("annotation", source.name(item), str(error))]
    return []
