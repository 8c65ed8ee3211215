"""Our datasets for mmsegmentation: where its files are, and label maps that are never read wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.segmentation.labels import LabelReader
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from downstream.openmmlab.recipe import Native
    from downstream.segmentation.dataset import SegmentationSource
    from downstream.segmentation.settings import SegmentationData

LABELS = "MaeBenchLoadLabels"
# What OpenCV decodes of what we read; the rest (GIF, NumPy files) mmcv cannot.
_DECODED = (".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def dataset(data: SegmentationData, source: SegmentationSource, pipeline: Sequence[Native]) -> Native:
    """A split as mmsegmentation's `BaseSegDataset`, or one for each extension that its images have.

    Args:
        source: the split as we read it.

    Raises:
        MaeBenchError: images of a kind that mmcv does not decode.
    """
    extensions = sorted({Path(source.name(index)).suffix for index in range(len(source))})
    unknown = [one for one in extensions if one.lower() not in _DECODED]
    if unknown:
        raise MaeBenchError(
            f"{source.images} holds images of type {' '.join(unknown)}, which mmcv does not decode; convert "
            "them or leave --engine out"
        )
    parts = [
        {
            "type": "BaseSegDataset",
            "data_root": str(source.images.absolute()),
            "data_prefix": {"img_path": "", "seg_map_path": str(source.labels.absolute())},
            "img_suffix": extension,
            "seg_map_suffix": ".png",
            "reduce_zero_label": data.zero_is_ignored,
            "metainfo": {
                "classes": list(source.class_list.names),
                "palette": [list(colour) for colour in source.class_list.colours],
            },
            "pipeline": list(pipeline),
        }
        for extension in extensions
    ]
    return parts[0] if len(parts) == 1 else {"type": "ConcatDataset", "datasets": parts}


def indices(loader: Any, source: SegmentationSource) -> dict[str, int]:
    """Path of each image of a loader, as mmsegmentation says it -> its number in `source`.

    Raises:
        MaeBenchError: the engine found other images than we do.
    """
    own = {str(Path(source.name(index)).absolute()): index for index in range(len(source))}
    theirs = [loader.dataset.get_data_info(index)["img_path"] for index in range(len(loader.dataset))]
    known = {path: own[str(Path(path).absolute())] for path in theirs if str(Path(path).absolute()) in own}
    if len(theirs) != len(own) or len(known) != len(own):
        raise MaeBenchError(
            f"mmsegmentation finds {len(theirs)} images in {source.images}, of which {len(known)} are among "
            f"the {len(own)} that we find; name files and folders without a dot in front"
        )
    return known


def load_labels(data: SegmentationData, classes: int) -> Native:
    """The native step that reads a label map."""
    return {
        "type": LABELS,
        "classes": classes,
        "zero_is_ignored": data.zero_is_ignored,
        "ignore_label": data.ignore_label,
    }


@cache
def register_data() -> None:
    """Make the reading of label maps known to mmsegmentation."""
    from mmseg.datasets.transforms import LoadAnnotations
    from mmseg.registry import TRANSFORMS

    @TRANSFORMS.register_module(name=LABELS)
    class LoadLabels(LoadAnnotations):
        """mmsegmentation's `LoadAnnotations`, with files read as we read them.

        The engine's own takes the lower 8 bits of 16, knows no other ignored number than 255, and leaves
        numbers that are no class to the loss. The map that comes out is of its form: uint8, classes from 0,
        255 for none.
        """

        def __init__(self, classes: int, zero_is_ignored: bool, ignore_label: int | None) -> None:
            super().__init__()
            self.reader = LabelReader(classes, zero_is_ignored=zero_is_ignored, ignore_label=ignore_label)

        def _load_seg_map(self, results: dict[str, Any]) -> None:
            path = Path(results["seg_map_path"])
            labels = self.reader.read(path).numpy()
            if labels.shape != tuple(results["ori_shape"]):
                sizes = [f"{width}x{height}" for height, width in (results["ori_shape"], labels.shape)]
                raise MaeBenchError(
                    f"image {results['img_path']} has {sizes[0]} pixels, but its label map {path} "
                    f"{sizes[1]}; they must be of one size"
                )
            results["gt_seg_map"] = labels
            results["seg_fields"].append("gt_seg_map")
