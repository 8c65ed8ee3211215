"""Our backbone, dataset and classes put into a config file of mmsegmentation's own; all else stays."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from downstream.openmmlab import recipe
from downstream.openmmlab.native import replace_everywhere
from downstream.segmentation.mmseg.data import LABELS, dataset, load_labels
from downstream.segmentation.mmseg.model import BACKBONE
from mae_bench.backbones import HierarchicalBackbone
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from downstream.segmentation.dataset import SegmentationSource
    from downstream.segmentation.mmseg.native_settings import NativeConfig
    from mae_bench.backbones import Backbone

NEEDED = ("model", "train_dataloader", "test_dataloader", "train_cfg", "optim_wrapper")
# Necks that make a pyramid of maps of one size.
_RESCALING = ("Feature2Pyramid", "MultiLevelNeck")
# Constructors that know the names of one family of backbones.
_LAYER_WISE = ("LayerDecayOptimizerConstructor", "LearningRateDecayOptimizerConstructor")
# Wrappers of a dataset that leave it as it is.
_WRAPPERS = ("RepeatDataset",)


def swap_backbone(native: Any, config: NativeConfig, backbone: Backbone) -> None:
    """Put `backbone` in, with what depends on it: normalisation, the width of necks and heads, layer decay.

    Raises:
        MaeBenchError: a part of the config whose input we cannot fit to the backbone.
    """
    model, file = native.model, config.native
    if model.get("decode_head") is None:
        raise MaeBenchError(f"native: the model of {file} has no decode_head, so it is no segmenter")
    size = _crop(native, file)
    hierarchical = isinstance(backbone, HierarchicalBackbone)
    widths = list(backbone.widths) if isinstance(backbone, HierarchicalBackbone) else [backbone.width] * 4
    neck = model.get("neck")
    flat = neck is not None and neck["type"] in _RESCALING
    model.pretrained = None
    model.backbone = {
        "type": BACKBONE,
        "spec": config.backbone,
        "crop": size,
        "drop_path": config.drop_path,
        "seed": config.seed,
        "rescaled": not flat,
        **config.model.model_dump(mode="json"),
    }
    if neck is not None:
        widths = _fit_neck(model, widths, hierarchical, file)
    if neck is None or (neck["type"] == "Feature2Pyramid"):
        for head in _heads(model):
            _fit_head(head, widths, file)
    _normalise(native, backbone, size)
    _fit_constructor(native)


def _crop(native: Any, file: str | None) -> list[int]:
    """Height and width of a training crop."""
    preprocessor = native.model.get("data_preprocessor") or native.get("data_preprocessor") or {}
    size = preprocessor.get("size") or native.get("crop_size")
    if not size:
        raise MaeBenchError(
            f"native: {file} does not say how large a crop is; add it with "
            "options={model.data_preprocessor.size: [HEIGHT, WIDTH]}"
        )
    return [int(side) for side in size]


def _fit_neck(model: Any, widths: list[int], hierarchical: bool, file: str | None) -> list[int]:
    """Let the neck take maps of `widths`; returns the widths of what it gives, if they follow from these."""
    neck = model.neck
    if neck["type"] in _RESCALING and hierarchical:
        raise MaeBenchError(
            f"native: the neck {neck['type']} of {file} makes a pyramid of a plain backbone's maps, and this "
            "backbone has a pyramid; take the neck out with options={model.neck: null}"
        )
    if neck["type"] == "Feature2Pyramid":
        neck["embed_dim"] = widths[0]
    elif neck["type"] == "MultiLevelNeck" or (
        isinstance(neck.get("in_channels"), list | tuple) and len(neck["in_channels"]) == 4
    ):
        neck["in_channels"] = widths
    else:
        raise MaeBenchError(
            f"native: the neck {neck['type']} of {file} takes other maps than four, or says so by a name "
            "that we do not know; take it out with options={model.neck: null}, or choose another config"
        )
    return widths


def _heads(model: Any) -> list[Any]:
    auxiliary = model.get("auxiliary_head") or []
    found = [model.decode_head] if isinstance(model.decode_head, Mapping) else list(model.decode_head)
    return found + ([auxiliary] if isinstance(auxiliary, Mapping) else list(auxiliary))


def _fit_head(head: Any, widths: Sequence[int], file: str | None) -> None:
    index = head.get("in_index", -1)
    try:
        several = isinstance(index, list | tuple)
        head["in_channels"] = [widths[one] for one in index] if several else widths[index]
    except IndexError as error:
        raise MaeBenchError(
            f"native: the head {head['type']} of {file} takes map {index}, and a backbone has maps 0 to 3; "
            "change its in_index with options={...}"
        ) from error


def _normalise(native: Any, backbone: Backbone, size: list[int]) -> None:
    """The pixels as the backbone wants them, and test images padded to what it can take."""
    if native.model.get("data_preprocessor") is None and native.get("data_preprocessor") is not None:
        native.model.data_preprocessor = native.pop("data_preprocessor")
    preprocessor = native.model.data_preprocessor
    preprocessor.mean = [255 * value for value in backbone.mean]
    preprocessor.std = [255 * value for value in backbone.std]
    preprocessor.bgr_to_rgb, preprocessor.rgb_to_bgr = True, False
    sliding = (native.model.get("test_cfg") or {}).get("mode") == "slide"
    if not preprocessor.get("test_cfg"):
        window = native.model.test_cfg.crop_size if sliding else size
        patches = {"size_divisor": math.lcm(*backbone.patch_size)}
        preprocessor.test_cfg = {"size": list(window)} if sliding else patches


def _fit_constructor(native: Any) -> None:
    """Layer decay by our backbone's layers, where the file's constructor knows the names of another one's."""
    wrapper = native.optim_wrapper
    if str(wrapper.get("constructor")).rpartition(".")[2] in _LAYER_WISE:
        values = wrapper.get("paramwise_cfg") or {}
        wrapper.constructor = "MaeBenchGroups"
        # These constructors decay position embeddings: they spare names that a segmenter does not have.
        wrapper.paramwise_cfg = {
            "layer_decay": values.get("decay_rate", values.get("layer_decay_rate", 1.0)),
            "decay_positions": True,
        }
        wrapper.optimizer.setdefault("weight_decay", 0.0)


def swap_data(native: Any, config: NativeConfig, train: SegmentationSource, val: SegmentationSource) -> None:
    """Put our dataset and its classes in: files, numbers of label maps, outputs of the heads.

    Raises:
        MaeBenchError: a dataset of the config that is put together of several, or class weights for others.
    """
    classes = len(val.class_list)
    for key, source in (("train_dataloader", train), ("test_dataloader", val)):
        place = _innermost(native[key], key, config.native)
        steps = place["dataset"]["pipeline"]
        labels = load_labels(config.data, classes)  # type: ignore[arg-type]
        if not replace_everywhere(steps, "LoadAnnotations", labels) and LABELS not in str(steps):
            raise MaeBenchError(f"native: the pipeline of {key} in {config.native} loads no annotations")
        place["dataset"] = dataset(config.data, source, steps)  # type: ignore[arg-type]
    # One image at a time, each once over all processes, whatever the file's sampler does.
    workers = native.test_dataloader.get("num_workers", 0)
    native.test_dataloader = recipe.test_dataloader(native.test_dataloader.dataset, workers)
    native.val_dataloader = copy.deepcopy(native.test_dataloader)
    if native.get("tta_pipeline"):
        replace_everywhere(native.tta_pipeline, "LoadAnnotations", load_labels(config.data, classes))  # type: ignore[arg-type]
    for head in _heads(native.model):
        head["num_classes"] = classes
        if head.get("out_channels", 1) != 1:
            head["out_channels"] = classes
        _check_weights(head, classes, config.native)


def _innermost(place: Any, key: str, file: str | None) -> Any:
    """What holds the dataset itself, below wrappers that leave it as it is."""
    inner = place["dataset"]
    if inner.get("type") in _WRAPPERS:
        return _innermost(inner, key, file)
    if "pipeline" not in inner or "dataset" in inner or "datasets" in inner:
        raise MaeBenchError(
            f"native: the dataset of {key} in {file} is a {inner.get('type')}, put together of others, which "
            "we cannot replace; give one dataset with its pipeline by options={" + key + ".dataset: {...}}"
        )
    return place


def _check_weights(head: Any, classes: int, file: str | None) -> None:
    losses = head.get("loss_decode") or []
    for loss in [losses] if isinstance(losses, Mapping) else losses:
        weights = loss.get("class_weight")
        if isinstance(weights, list | tuple) and len(weights) != classes:
            raise MaeBenchError(
                f"native: the head {head['type']} of {file} weighs {len(weights)} classes, and the dataset "
                f"has {classes}; change class_weight with options={{...}}"
            )
