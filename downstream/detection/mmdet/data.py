"""What MMDetection reads a dataset in COCO's format with: its own classes, a little stricter.

They differ from MMDetection's where a dataset would be taken for another than our judge takes it for: labels
follow the ids of the categories and not their order in the file, images that show crowds only are no
training images, and an image that cannot be read, or is not of the size in the annotations, is an error.
"""

from __future__ import annotations

import functools
import io
from contextlib import redirect_stdout
from typing import Any

from mae_bench.errors import MaeBenchError

DATASET = "MaeBenchCocoDataset"
LOADING = "MaeBenchLoadImage"
FITTING = "MaeBenchFitResize"
METRIC = "MaeBenchCocoMetric"


@functools.cache
def register_data() -> None:
    """Make dataset, transforms and metric known to MMDetection, under the names above."""
    _register_dataset()
    _register_transforms()


def _register_dataset() -> None:
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.api_wrappers import COCO
    from mmdet.evaluation import CocoMetric
    from mmdet.registry import DATASETS, METRICS

    class OrderedCOCO(COCO):
        def get_cat_ids(self, *args: Any, **others: Any) -> list[int]:
            """Ids of categories, ascending."""
            return sorted(super().get_cat_ids(*args, **others))

    class OrderedCocoDataset(CocoDataset):
        """MMDetection's `CocoDataset` with labels in the order of the categories' ids."""

        COCOAPI = OrderedCOCO

        def load_data_list(self) -> list[dict[str, Any]]:
            """The images with their objects; pycocotools tells how long it takes, which is not shown."""
            with redirect_stdout(io.StringIO()):
                loaded: list[dict[str, Any]] = super().load_data_list()
            return loaded

        def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any]:
            """As MMDetection's, where objects may come without an area."""
            objects = raw_data_info["raw_ann_info"]
            measured = [{"area": each["bbox"][2] * each["bbox"][3], **each} for each in objects]
            parsed: dict[str, Any] = super().parse_data_info({**raw_data_info, "raw_ann_info": measured})
            parsed["only_crowds"] = all(each.get("iscrowd", 0) for each in objects)
            return parsed

        def filter_data(self) -> list[dict[str, Any]]:
            """As MMDetection's, without images of crowds only where those without objects are left out."""
            kept: list[dict[str, Any]] = super().filter_data()
            if self.test_mode or not (self.filter_cfg or {}).get("filter_empty_gt", False):
                return kept
            return [each for each in kept if not each["only_crowds"]]

    class OrderedCocoMetric(CocoMetric):
        """MMDetection's `CocoMetric` with labels in the order of the categories' ids."""

        def compute_metrics(self, results: list[Any]) -> dict[str, float]:
            self.cat_ids = sorted(self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"]))
            metrics: dict[str, float] = super().compute_metrics(results)
            return metrics

    DATASETS.register_module(name=DATASET, module=OrderedCocoDataset)
    METRICS.register_module(name=METRIC, module=OrderedCocoMetric)


def _register_transforms() -> None:
    import cv2
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets.transforms import Resize
    from mmdet.registry import TRANSFORMS

    class LoadImage(LoadImageFromFile):
        """mmcv's `LoadImageFromFile`, which insists on an image of the size that the annotations say."""

        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            """Adds ``img``, ``img_shape`` and ``ori_shape``."""
            try:
                loaded: dict[str, Any] = super().transform(results)
            except (OSError, AssertionError, cv2.error) as error:
                raise MaeBenchError(
                    f"unreadable image {results['img_path']}: {str(error) or type(error).__name__}. Mend or "
                    "remove it"
                ) from None
            height, width = loaded["ori_shape"]
            if (height, width) != (loaded["height"], loaded["width"]):
                raise MaeBenchError(
                    f"{loaded['img_path']} is {height} pixels high and {width} wide, but the annotations say "
                    f"{loaded['height']} and {loaded['width']}: correct them, or put the right image in place"
                )
            return loaded

    class FitResize(Resize):
        """MMDetection's `Resize` to the largest size that fits into ``scale``, (width, height), unstretched.

        MMDetection's own takes the larger number of ``scale`` for the longer side of whatever image.
        """

        def transform(self, results: dict[str, Any]) -> dict[str, Any]:
            """Resizes ``img`` and what is known of it."""
            width, height = self.scale  # type: ignore[has-type]
            try:
                tall, wide = results["img"].shape[:2]
                factor = min(width / wide, height / tall)
                self.scale = max(1, round(wide * factor)), max(1, round(tall * factor))
                resized: dict[str, Any] = super().transform(results)
                return resized
            finally:
                self.scale = width, height

    TRANSFORMS.register_module(name=LOADING, module=LoadImage)
    TRANSFORMS.register_module(name=FITTING, module=FitResize)
