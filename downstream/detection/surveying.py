"""What the data of detection is, for `data check`: images, and the sanity of every annotation.

COCO's own files have boxes that touch the border, rounded to hundredths of a pixel, boxes without area, and
outlines that leave the image. So a box may reach out by a pixel, and the others are notes, as are objects too
small to cover the centre of a pixel: training and judging cut them off or leave them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from downstream.detection.annotations import Annotations
from downstream.detection.masks import patch_of_polygons
from downstream.detection.run_lengths import areas
from downstream.detection.settings import DetectionData
from downstream.detection.source import CocoSource, Split, annotations_of, missing_images, open_split
from mae_bench.data import joint_digest, make_if_generated
from mae_bench.data.surveying import decoded, image_faults, pixel_digest
from mae_bench.errors import MaeBenchError
from mae_bench.survey import Finding, Identity, Part, Survey

# By how many pixels a box may reach out of its image.
_TOLERANCE = 1.0


def survey(data: DetectionData, data_root: Path, splits: Sequence[Split]) -> Survey:
    """The images of the splits, those without an object included, and what is wrong with annotations."""
    make_if_generated(data.root, data_root)
    found = Survey(data.name)
    sources: list[CocoSource] = []
    for split in splits:
        try:
            annotations = annotations_of(data, split, data_root)
        except MaeBenchError as error:
            found.tell(f"data.{split}", error, "annotation")
            continue
        try:
            sources.append(open_split(data, split, data_root))
        except MaeBenchError as error:
            if error.kind != "missing-file":  # those are named one by one below
                found.tell(f"data.{split}", error)
        folder = data_root / data.root / getattr(data, split).images
        source, missing = _there(annotations, folder, data, split, data_root)
        found.findings += [*_annotation_faults(annotations, split), *missing]
        if len(source):
            found.parts.append(_part(split, source))
    if len(sources) == len(splits):
        for split, source in zip(splits, sources, strict=True):
            found.identities[split] = Identity(source.fingerprint(), len(source), len(source.classes))
        digests = [identity.digest for identity in found.identities.values()]
        found.fingerprint = joint_digest(*digests) if len(digests) == 2 else digests[0]
    return found


def _there(
    annotations: Annotations, folder: Path, data: DetectionData, split: Split, data_root: Path
) -> tuple[CocoSource, list[Finding]]:
    """The images that are there, and findings of those that are not."""
    missing = missing_images(annotations, folder)
    present = np.setdiff1d(np.arange(len(annotations.image_ids)), np.array(missing, dtype=np.int64))
    source = CocoSource(annotations, folder, present, channels=data.channels)
    other = data_root / data.root / (data.val if split == "train" else data.train).images
    if not len(source) and len(missing_images(annotations, other)) < len(missing):
        message = (
            f"{annotations.path} lists images of {other}, the folder of the other split, and none of "
            f"{folder}: it is the file of another split. Look at data.{split}.annotations"
        )
        return source, [Finding("swapped", f"data.{split}.annotations", message)]
    return source, [
        Finding(
            "missing-file",
            str(folder / annotations.names[image]),
            f"not there, but {annotations.path} lists it",
        )
        for image in missing
    ]


# ---------------------------------------------------------------- annotations


def _annotation_faults(annotations: Annotations, split: Split) -> list[Finding]:
    """What is wrong with annotations in themselves; `read_annotations` has seen to it that they are valid."""
    image = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.starts))
    found = [*_boxes(annotations, image), *_outlines(annotations, image)]
    if split == "train":
        seen = set(annotations.labels[~annotations.crowd].tolist())
        found += [
            Finding("unused", str(annotations.path), f"no object is a '{category['name']}'", note=True)
            for label, category in enumerate(annotations.categories, start=1)
            if label not in seen
        ]
    return found


def _finding(
    annotations: Annotations, which: int, image: int, message: str, *, note: bool = False
) -> Finding:
    height, width = annotations.sizes[image].tolist()
    where = f"{annotations.path}: annotation {annotations.ids[which]}"
    return Finding(
        "annotation",
        where,
        f"{message} (image {annotations.names[image]}, {width} x {height} pixels)",
        note=note,
    )


def _boxes(annotations: Annotations, image: NDArray[np.int64]) -> Iterator[Finding]:
    """Boxes that leave their image, and boxes without area."""
    corner, size = annotations.boxes[:, :2], annotations.boxes[:, 2:]
    beyond = np.maximum(-corner, corner + size - annotations.sizes[image][:, ::-1]).max(
        axis=1, initial=-np.inf
    )
    for which in np.flatnonzero(beyond > _TOLERANCE).tolist():
        far = f"reaches {beyond[which]:.4g} pixels out of the image; is it x, y, width, height?"
        message = f"its bbox {_shown(annotations, which)} {far}"
        yield _finding(annotations, which, image[which], message)
    for which in np.flatnonzero((size <= 0).any(axis=1)).tolist():
        message = f"its bbox {_shown(annotations, which)} has no area"
        yield _finding(annotations, which, image[which], message, note=True)


def _shown(annotations: Annotations, which: int) -> str:
    return f"[{', '.join(f'{value:.7g}' for value in annotations.boxes[which].tolist())}]"


def _outlines(annotations: Annotations, image: NDArray[np.int64]) -> Iterator[Finding]:
    """Empty run lengths, outlines that leave their image, groups that are given by outlines."""
    outlines, rows = annotations.outlines, annotations.rows
    coded = outlines.coded()[rows]
    places = np.flatnonzero(coded)
    pixels = annotations.sizes[image[places]].prod(axis=1)
    for which in places[areas(outlines.counts(rows[places]), pixels) == 0].tolist():
        message = "its mask is empty: its run lengths cover no pixel. Mend or remove it"
        yield _finding(annotations, which, image[which], message)
    for which, far in _far_out(annotations, image):
        message = f"its outline reaches {far:.4g} pixels out of the image, where it is cut off"
        yield _finding(annotations, which, image[which], message, note=True)
    for which in np.flatnonzero(annotations.crowd & ~coded).tolist():
        message = "it stands for a group (iscrowd), which COCO gives by run lengths, but has outlines"
        yield _finding(annotations, which, image[which], message, note=True)


def _far_out(annotations: Annotations, image: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    """Objects with a point of an outline out of the image by more than the tolerance, and by how much."""
    outlines = annotations.outlines
    points = outlines.points.reshape(-1, 2)
    if not len(points):
        return
    ends = outlines.polygon_ends[outlines.object_ends]  # of each row's points, after a leading 0
    of_row = np.empty(len(outlines), dtype=np.int64)
    of_row[annotations.rows] = np.arange(len(annotations.ids))
    owner = np.repeat(of_row, np.diff(ends))  # the object of each point
    beyond = np.maximum(-points, points - annotations.sizes[image[owner]][:, ::-1]).max(axis=1)
    out = np.flatnonzero(beyond > _TOLERANCE)
    farthest = np.zeros(len(annotations.ids))
    np.maximum.at(farthest, owner[out], beyond[out])
    yield from ((which, float(farthest[which])) for which in np.flatnonzero(farthest).tolist())


# ---------------------------------------------------------------- images


def _part(name: str, source: CocoSource) -> Part:
    def faults(item: int, content: bytes) -> list[Finding]:
        found = image_faults(source.name(item), content, source.channels)
        if not found:
            try:
                source.upright(item, content, decoded(content, source.channels))
            except MaeBenchError as error:
                found.append(Finding("annotation", source.name(item), str(error)))
        return [*found, *_empty_masks(source, item)]

    return Part(
        name=name,
        where=str(source.annotation_file),
        size=len(source),
        title=source.name,
        read=lambda item: Path(source.name(item)).read_bytes(),
        faults=faults,
        pixels=lambda content: pixel_digest(content, source.channels),
        classes=source.classes,
        version=f"{source.channels} {source.annotations.digest()}",
    )


def _empty_masks(source: CocoSource, item: int) -> Iterator[Finding]:
    """Objects of an image of whose outlines nothing is left when they are drawn."""
    annotations, image = source.annotations, int(source.chosen[item])
    for which in annotations.objects(image):
        outline = annotations.segmentation(which)
        if isinstance(outline, dict) or patch_of_polygons(outline, *source.size(item)).box() is not None:
            continue
        tiny = bool((annotations.boxes[which, 2:] < 1).any())
        what = "is too small to cover the centre of a pixel" if tiny else "covers no pixel of the image"
        yield _finding(annotations, which, image, f"its mask is empty: its outline {what}", note=tiny)
