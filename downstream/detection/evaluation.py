"""From a detector to its AP: detections of every validation image once, saved, judged, drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from downstream.detection.dataset import CocoSource, DetectionDataset
from downstream.detection.jitter import resize_for_test
from downstream.detection.judge import KINDS, Scores, judge_file
from downstream.detection.pictures import draw, sheet
from downstream.detection.predictions import Collector, read_detections, to_records
from downstream.detection.records import Record
from mae_bench import screen
from mae_bench.data import UnreadableImageError, decode, evaluation_batches
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    from downstream.detection.settings import DetectionData
    from downstream.detection.task import Detection
    from mae_bench.run import Run

Finder = Callable[[Tensor], list[Record]]
"""Finds the objects of an image, uint8 (C, h, w): COCO's records, in its pixels."""


@torch.no_grad()
def detect(model: nn.Module, images: DetectionDataset, data: DetectionData, run: Run) -> Path:
    """Find objects in every image of `images`; the records of all processes end in one file.

    Images go through the model one by one, so that a detection does not depend on its neighbours in a batch,
    nor on the number of processes.
    """
    collector = Collector(run)
    own = -(-len(images) // run.world)
    done = 0
    with screen.progress("detecting", own, "images") as work:
        for batch in evaluation_batches(
            images, batch=1, rank=run.rank, world=run.world, workers=data.workers
        ):
            pixels = [image.to(run.device, non_blocking=True) for image in batch["image"]]
            with run.autocast():
                found = model(pixels, None)
            for image, size, image_id, one in zip(
                pixels, batch["size"], batch["image_id"], found, strict=True
            ):
                shape = int(image.shape[1]), int(image.shape[2])
                collector.add(to_records(one, image_id, images.source.categories, shape, size))
            done += len(pixels)
            work.advance(len(pixels))
    total = int(run.sum(torch.tensor(done)))
    if total != len(images):
        raise RuntimeError(f"detected in {total} of {len(images)} images")
    run.note_unreadable(images)
    return collector.finish()


def score(source: CocoSource, detections: Path, run: Run, kinds: Sequence[str] = KINDS) -> Scores:
    """AP of a file of detections; the main process judges, every process gets the same numbers.

    The main process keeps what came of every image.
    """
    scores = None
    if run.is_main:
        scores = judge_file(source.annotation_file, detections, kinds=kinds, samples=source.fingerprint())
        assert scores.outcomes is not None  # asked for
        run.keep({"": scores.outcomes})
    metrics, per_class = run.share((scores.metrics, scores.per_class) if scores is not None else None)
    return Scores(metrics, per_class)


# ---------------------------------------------------------------- pictures


def draw_saved(source: CocoSource, detections: Path, count: int, path: Path) -> Path:
    """Ground truth beside the saved detections of `count` images, spread evenly over the dataset."""
    if not detections.exists():
        raise MaeBenchError(f"{detections}: there is no such file; a run writes it when it is evaluated")
    by_image: dict[int, list[dict[str, Any]]] = {}
    for record in read_detections(detections):
        by_image.setdefault(record["image_id"], []).append(record)
    chosen = [index * len(source) // count for index in range(min(count, len(source)))]
    rows = []
    for index in chosen:
        try:
            image = source.read(index)
        except (UnreadableImageError, OSError) as error:
            raise MaeBenchError(f"{source.name(index)}: {error}") from None
        rows.append(
            draw(image, source.truth(index), by_image.get(source.image_id(index), []), source.categories)
        )
    return _save(rows, path)


def draw_files(
    find: Finder, files: Sequence[str], categories: Sequence[Record], path: Path, *, channels: int
) -> Path:
    """Detections on image files of one's own.

    Args:
        categories: ``id`` and ``name`` of each.
        channels: of the images, see `mae_bench.data.decode`.
    """
    rows = []
    for file in files:
        try:
            image = decode(Path(file).read_bytes(), channels)
        except (UnreadableImageError, OSError) as error:
            raise MaeBenchError(f"{file}: cannot be read as an image: {error}") from None
        rows.append(draw(image, None, find(image), categories))
    return _save(rows, path)


def finder(adapter: Detection, run: Run) -> Finder:
    """What finds objects with the weights that the run reported."""
    model = trained(adapter, run)
    data = adapter.config.data
    categories = adapter.source(run).categories

    @torch.no_grad()
    def find(image: Tensor) -> list[Record]:
        size = int(image.shape[1]), int(image.shape[2])
        resized = resize_for_test(image, data.evaluation)
        shape = int(resized.shape[1]), int(resized.shape[2])
        with run.autocast():
            found = model([resized.to(run.device)], None)[0]
        return to_records(found, 0, categories, shape, size)

    return find


def trained(adapter: Detection, run: Run) -> nn.Module:
    """The detector with the weights that the run reported."""
    from safetensors.torch import load_file

    file = run.folder / "model.safetensors"
    if not file.exists():
        raise MaeBenchError(f"{file}: there is no such file; a run writes its weights when it has finished")
    model = adapter.model(adapter.backbone(run), run)
    model.load_state_dict(load_file(file))
    return model.to(run.device).eval()


def _save(rows: list[Image.Image], path: Path) -> Path:
    stream = io.BytesIO()
    sheet(rows).save(stream, format="PNG")
    return write_atomic(path, stream.getvalue())
