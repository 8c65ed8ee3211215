"""What a trained detector of MMDetection finds, by its own test pipeline and its own `predict`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from downstream.detection.predictions import Collector, pasted_records
from downstream.openmmlab.building import build_loader
from downstream.openmmlab.runner import undisturbed
from mae_bench import screen

if TYPE_CHECKING:
    from pathlib import Path

    from downstream.detection.evaluation import Finder
    from downstream.detection.records import Record
    from downstream.detection.source import CocoSource
    from mae_bench.run import Run

Context = Callable[[], AbstractContextManager[None]]


@torch.no_grad()
def detect(
    native: Any, model: nn.Module, source: CocoSource, run: Run, context: Context = nullcontext
) -> Path:
    """Find objects in every image of the native `test_dataloader`.

    The records of all processes end in one file.

    Args:
        source: the same images as we read them, for their number.
        context: what the model computes in, such as autocast.

    Raises:
        MaeBenchError: an image cannot be read.
        RuntimeError: the loader shows other images than ours.
    """
    model = model.to(run.device).eval()
    collector = Collector(run)
    done = 0
    with undisturbed(), screen.progress("detecting", -(-len(source) // run.world), "images") as work:
        loader = build_loader(native, "test_dataloader")
        categories = [{"id": number} for number in loader.dataset.cat_ids]
        for batch in loader:
            for sample in predicted(model, batch, context):
                collector.add(records(sample, int(sample.img_id), categories))
                done += 1
                work.advance(1)
    total = int(run.sum(torch.tensor(done)))
    if total != len(source):
        raise RuntimeError(f"detected in {total} of {len(source)} images")
    return collector.finish()


def predicted(model: nn.Module, batch: Any, context: Context) -> list[Any]:
    """The batch's samples with `pred_instances`."""
    with context():
        found: list[Any] = model.test_step(batch)  # type: ignore[operator]
    return found


def records(sample: Any, image_id: int, categories: list[dict[str, Any]]) -> list[Record]:
    """What a sample holds, as COCO's records; without masks where its detector has none."""
    found = sample.pred_instances
    detections = {"boxes": found.bboxes, "scores": found.scores.float(), "labels": found.labels + 1}
    height, width = sample.ori_shape[:2]
    if "masks" in found:
        detections["masks"] = torch.as_tensor(found.masks).bool()
    return pasted_records(detections, image_id, categories, (height, width))


def finder(
    native: Any,
    model: nn.Module,
    categories: list[dict[str, Any]],
    run: Run,
    context: Context = nullcontext,
) -> Finder:
    """What finds objects in images of one's own, prepared by the native test pipeline."""
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.registry import DefaultScope

    model = model.to(run.device).eval()
    loading = {"type": "mmdet.LoadImageFromNDArray"}
    with DefaultScope.overwrite_default_scope("mmdet"):
        prepare = Compose([loading, *native.test_dataloader.dataset.pipeline[1:]])

    @torch.no_grad()
    def find(image: Tensor) -> list[Record]:
        pixels = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())  # BGR
        with undisturbed():
            (sample,) = predicted(model, pseudo_collate([prepare({"img": pixels, "img_id": 0})]), context)
        return records(sample, 0, categories)

    return find
