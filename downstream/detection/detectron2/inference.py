"""What a model of detectron2 finds: its own loader, its own predictions, our records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from downstream.detection.detectron2 import presence
from downstream.detection.detectron2.data import Readable
from downstream.detection.predictions import Collector, pasted_records
from downstream.detection.records import Record
from downstream.detection.source import CocoSource
from mae_bench import screen
from mae_bench.run import Run


@torch.no_grad()
def detect(model: nn.Module, batches: Iterable[list[dict[str, Any]]], source: CocoSource, run: Run) -> Path:
    """Find objects in every image that `batches` give, over all processes those of `source`, each once.

    Args:
        model: on the run's device.
        batches: detectron2's test loader.
    """
    model.eval()
    collector = Collector(run)
    own = -(-len(source) // run.world)
    done = 0
    with presence.quiet(), screen.progress("detecting", own, "images") as work:
        for batch in Readable(batches):
            for image, found in zip(batch, found_in(model, batch, run), strict=True):
                collector.add(pasted_records(found, image["image_id"], source.categories))
            done += len(batch)
            work.advance(len(batch))
    total = int(run.sum(torch.tensor(done)))
    if total != len(source):
        raise RuntimeError(f"detected in {total} of {len(source)} images")
    return collector.finish()


def found_in(model: nn.Module, batch: Sequence[Mapping[str, Any]], run: Run) -> list[dict[str, Tensor]]:
    """``boxes``, ``scores``, ``labels`` from 1 on and pasted ``masks`` of each image, in its file's pixels.

    The network computes in the run's precision; boxes and masks are brought to the size of the file by
    detectron2, in float32.
    """
    from detectron2.modeling.postprocessing import detector_postprocess

    with run.autocast():
        raw = model.inference(batch, do_postprocess=False)  # type: ignore[operator]
    found = []
    for image, instances in zip(batch, raw, strict=True):
        instances.pred_masks = instances.pred_masks.float()
        placed = detector_postprocess(instances, image["height"], image["width"])
        found.append(
            {
                "boxes": placed.pred_boxes.tensor,
                "scores": placed.scores.float(),
                "labels": placed.pred_classes + 1,
                "masks": placed.pred_masks,
            }
        )
    return found


@torch.no_grad()
def find(
    model: nn.Module, mapper: Any, categories: Sequence[Record], image: Tensor, run: Run
) -> list[Record]:
    """Records of the objects of one image, uint8 (3, h, w), brought to the size of testing by `mapper`."""
    from detectron2.data.transforms import AugInput

    given = AugInput(image.permute(1, 2, 0).numpy())
    mapper.augmentations(given)
    pixels = torch.from_numpy(given.image.copy()).permute(2, 0, 1)
    one = {"image": pixels, "height": int(image.shape[1]), "width": int(image.shape[2])}
    with presence.quiet():
        return pasted_records(found_in(model, [one], run)[0], 0, categories)
