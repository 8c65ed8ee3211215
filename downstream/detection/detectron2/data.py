"""The datasets of a recipe in detectron2's data pipeline, which configurations name as their target."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.detection.settings import DetectionData, SplitSettings
from mae_bench.data.loaders import clear_errors
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch.utils.data import Sampler

    from downstream.detection.source import CocoSource

_OURS = "downstream.detection.detectron2"


def dataset(*, names: str, annotations: str, images: str, filter_empty: bool) -> list[dict[str, Any]]:
    """The target of a loader's ``dataset``: detectron2's records of the images of an annotation file.

    Args:
        names: under which the dataset is known to detectron2, which it is made known under if need be.
        annotations: the JSON file.
        images: folder of the images.
        filter_empty: leave out images without an object that is no crowd.

    Raises:
        MaeBenchError: detectron2 cannot use the file.
    """
    from detectron2.data import DatasetCatalog, get_detection_dataset_dicts
    from detectron2.data.datasets import register_coco_instances

    if names not in DatasetCatalog.list():
        register_coco_instances(names, {}, annotations, images)
    try:
        found: list[dict[str, Any]] = get_detection_dataset_dicts(names=names, filter_empty=filter_empty)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise MaeBenchError(f"{annotations}: detectron2 cannot use it: {error}") from error
    for each in found:
        for thing in each["annotations"]:
            if isinstance(thing.get("segmentation"), list):
                # It would resize outlines in whole numbers as whole numbers, and cut off what comes behind.
                thing["segmentation"] = [list(map(float, outline)) for outline in thing["segmentation"]]
    return found


def sampler(*, size: int, seed: int, start: int) -> Sampler[int]:
    """The target of the training loader's ``sampler``: detectron2's endless shuffle, from image `start` on.

    Args:
        size: number of images.
        seed: of the order.
        start: how many images all processes together have had before.
    """
    made: Sampler[int] = _later()(size, seed, start)
    return made


@cache
def _later() -> Any:
    from detectron2.data.samplers import TrainingSampler
    from detectron2.utils import comm

    class Later(TrainingSampler):
        """A sampler that has been going on for a while."""

        def __init__(self, size: int, seed: int, start: int) -> None:
            super().__init__(size, seed=seed)
            self._skip = start // comm.get_world_size()

        def __iter__(self) -> Iterator[int]:
            return itertools.islice(super().__iter__(), self._skip, None)

    return Later


def test_loader(data: DetectionData, source: CocoSource, data_root: Path, workers: int) -> DictConfig:
    """``dataloader.test``: every validation image once over all processes, at the size of testing."""
    import detectron2.data.transforms as transforms
    from detectron2.config import LazyCall as Lazy
    from detectron2.data import DatasetMapper, build_detection_test_loader

    size = Lazy(transforms.ResizeShortestEdge)(
        short_edge_length=data.evaluation.short_edge, max_size=data.evaluation.long_edge
    )
    return Lazy(build_detection_test_loader)(
        dataset=records(data.val, data, source, data_root, filter_empty=False),
        mapper=Lazy(DatasetMapper)(is_train=False, augmentations=[size], image_format="RGB"),
        num_workers=min(workers, len(source)),
    )


def train_loader(
    data: DetectionData, source: CocoSource, data_root: Path, *, batch: int, seed: int, workers: int
) -> DictConfig:
    """``dataloader.train``: large-scale jitter as in detectron2's ViTDet.

    Images are not grouped by their shape, as all are padded to one canvas; so their order is known, and a
    run goes on where it stopped.
    """
    import detectron2.data.transforms as transforms
    from detectron2.config import LazyCall as Lazy
    from detectron2.data import DatasetMapper, build_detection_train_loader

    height, width = data.image_size
    low, high = data.augment.scale
    flip = Lazy(transforms.RandomFlip)(prob=data.augment.flip, horizontal=True)
    jitter = [
        Lazy(transforms.ResizeScale)(min_scale=low, max_scale=high, target_height=height, target_width=width),
        Lazy(transforms.FixedSizeCrop)(crop_size=[height, width], pad=False),
    ]
    return Lazy(build_detection_train_loader)(
        dataset=records(data.train, data, source, data_root, filter_empty=data.filter_empty),
        mapper=Lazy(DatasetMapper)(
            is_train=True,
            augmentations=[flip, *jitter] if data.augment.flip_first else [*jitter, flip],
            image_format="RGB",
            use_instance_mask=True,
            instance_mask_format=mask_format(source),
            recompute_boxes=True,
        ),
        sampler=Lazy(f"{_OURS}.data.sampler")(size=len(source), seed=seed, start=0),
        total_batch_size=batch,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )


def records(
    split: SplitSettings, data: DetectionData, source: CocoSource, data_root: Path, *, filter_empty: bool
) -> DictConfig:
    """The ``dataset`` of a loader, under a name that no other dataset has."""
    from detectron2.config import LazyCall as Lazy

    annotations = str(source.annotation_file.resolve())
    images = str((data_root / data.root / split.images).resolve())
    mark = hashlib.sha256(f"{annotations}\n{images}".encode()).hexdigest()[:12]
    return Lazy(f"{_OURS}.data.dataset")(
        names=f"{data.name}-{mark}", annotations=annotations, images=images, filter_empty=filter_empty
    )


def mask_format(source: CocoSource) -> str:
    """``polygon``, as detectron2's ViTDet has it, or ``bitmask`` where an object is given as run lengths."""
    known = source.annotations
    coded = known.outlines.coded()[known.rows]
    return "bitmask" if bool(coded[~known.crowd].any()) else "polygon"


class Readable:
    """A loader of detectron2 whose faults are told in one sentence.

    Args:
        batches: the loader, gone through once.
    """

    def __init__(self, batches: Iterable[list[dict[str, Any]]]) -> None:
        # At once: it draws a seed, which in the middle of a training step would make that step another.
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        from detectron2.data.detection_utils import SizeMismatchError

        try:
            with clear_errors():
                yield from self._batches
        except (OSError, SizeMismatchError) as error:
            # From a loader process comes a whole traceback, of which the last line says what was wrong.
            said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise MaeBenchError(f"an image cannot be used: {said}") from error
