"""What a trained segmenter of mmsegmentation says of images, by its own test pipeline and `predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from downstream.openmmlab.building import build_loader, scope
from downstream.openmmlab.runner import plain_errors, undisturbed
from downstream.segmentation.evaluation import Judged
from downstream.segmentation.mmseg.data import indices
from downstream.segmentation.outcomes import ImageConfusions
from mae_bench import screen
from mae_bench.precision import autocast

if TYPE_CHECKING:
    from pathlib import Path

    from downstream.segmentation.dataset import SegmentationDataset
    from downstream.segmentation.settings import SegmentationData
    from mae_bench.run import Run

Predict = Callable[[Any], list[tuple[Tensor, str]]]
"""A batch of a native loader -> (classes int64 (h, w), path) of each image."""


@torch.no_grad()
def label_all(
    native: Any, predict: Predict, images: SegmentationDataset, data: SegmentationData, run: Run, folder: Path
) -> ImageConfusions:
    """Label every image of the native `test_dataloader`, save the label maps below `folder`, and count.

    Counts are whole numbers and images come one by one, so the scores are the same for any number of
    processes.

    Args:
        predict: of `predictor`.
        images: the same images as we read them; the truth is read by us.

    Raises:
        MaeBenchError: an image or a label map cannot be read; the engine finds other images than we do.
    """
    native = _with_views(native)
    judged = Judged(images, data, run, folder)
    with undisturbed(), screen.progress("segmenting", -(-len(images) // run.world), "images") as work:
        loader = build_loader(native, "test_dataloader")
        numbers = indices(loader, images.source)
        with plain_errors("the validation set"):
            for batch in loader:
                for found, path in predict(batch):
                    index = numbers[path]
                    judged.add(index, found, images.source.reader.read(images.source.label_path(index)))
                    work.advance()
    return judged.together()


def labeller(native: Any, predict: Predict) -> Callable[[Tensor], Tensor]:
    """What labels images of one's own, prepared by the native test pipeline: uint8 (3, h, w) -> (h, w)."""
    from mmengine.dataset import Compose, pseudo_collate

    native = _with_views(native)
    with scope(native.default_scope):
        prepare = Compose([{"type": "LoadImageFromNDArray"}, *_without_labels(_pipeline(native)[1:])])

    def label(image: Tensor) -> Tensor:
        pixels = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())  # BGR
        with undisturbed(), torch.no_grad():
            ((found, _),) = predict(pseudo_collate([prepare({"img": pixels})]))
        return found

    return label


def predictor(native: Any, model: nn.Module, run: Run, precision: str) -> Predict:
    """What labels a batch of the native loader.

    Args:
        precision: ``bf16``, ``fp16`` or ``fp32``.
    """
    from mmengine.registry import MODELS

    whole = model.to(run.device).eval()
    if native.get("tta_model") is not None:
        with scope(native.default_scope):
            whole = MODELS.build({**native.tta_model, "module": whole})

    def predict(batch: Any) -> list[tuple[Tensor, str]]:
        with autocast(precision, run.device):  # type: ignore[arg-type]
            samples = whole.test_step(batch)  # type: ignore[operator]
        return [(one.pred_sem_seg.data.squeeze(0).long(), one.get("img_path", "")) for one in samples]

    return predict


def _with_views(native: Any) -> Any:
    """The config with the pipeline of several views in place, where it has one."""
    import copy

    native = copy.deepcopy(native)
    if native.get("tta_model") is not None:
        _set_pipeline(native.test_dataloader.dataset, native.tta_pipeline)
    return native


def _set_pipeline(dataset: Any, pipeline: Any) -> None:
    for part in dataset.get("datasets", [dataset]):
        part["pipeline"] = pipeline


def _pipeline(native: Any) -> list[Any]:
    dataset = native.test_dataloader.dataset
    (first, *_) = dataset.get("datasets", [dataset])
    return list(first.pipeline)


def _without_labels(pipeline: list[Any]) -> list[Any]:
    """Steps that need no label map; `TestTimeAug` holds steps of its own."""
    kept = []
    for step in pipeline:
        if step["type"] == "TestTimeAug":
            inner = [_without_labels(list(steps)) for steps in step["transforms"]]
            step = {**step, "transforms": [steps for steps in inner if steps]}
        if not step["type"].endswith(("LoadLabels", "LoadAnnotations")):
            kept.append(step)
    return kept
