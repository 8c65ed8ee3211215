"""The settings of a run: strict models, loading, overriding, hashing, comparing.

A recipe is a YAML file of values (`mae_bench.yamlfile` reads it). `resolve` lays overrides over it and
validates the whole against the adapter's model, so that an unknown key, a wrong type or a missing value
is one sentence with the dotted path. What comes out is what `config.yaml` of a run folder holds, and
running that file repeats the run.

This module imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Settings(BaseModel):
    """Base of every settings model: strict types, unknown keys refused, frozen once built."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


# A field marked RUNTIME says how a run is carried out, not what is computed: it is left out of the
# recipe hash and of the comparison with the published protocol.
RUNTIME: dict[str, Any] = {"runtime": True}
# A field marked HANDLING moreover leaves the result as it is, so changing it goes on with the same run.
HANDLING: dict[str, Any] = {"runtime": True, "handling": True}
# A field marked LATER came when there were results already: at its default it stands in no hash, so recipes
# and runs from before keep theirs.
LATER: dict[str, Any] = {"later": True}

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class CropSettings(Settings):
    """How a training image is cut to `image_size`."""

    kind: Literal["random_resized", "random_resized_once", "fixed", "pad", "center"] = "random_resized"
    """`random_resized`: torchvision's (ten tries); `random_resized_once`: one draw, clamped, as the MAE
    linear probe does (main_linprobe.py / util/crop.py); `fixed`: short side to `evaluation.resize`, then
    `image_size` cut out anywhere; `pad`: zero-pad by `padding` and cut at random (CIFAR); `center`: no
    augmentation, the evaluation transform."""
    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.2, 1.0]
    ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [0.75, 1.3333333333333333]
    padding: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _ranges_ascend(self) -> CropSettings:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high, not [{low}, {high}]")
        return self


class EraseSettings(Settings):
    """Random erasing (timm's, on the normalised batch)."""

    prob: Fraction = 0.25
    mode: Literal["const", "rand", "pixel"] = "pixel"
    count: Count = 1


class AugmentSettings(Settings):
    """Training-time augmentation, in the order crop, flip, colour or RandAugment, erase."""

    crop: CropSettings = CropSettings()
    flip: Fraction = 0.5
    color_jitter: NonNegative = 0.0
    rand_augment: str | None = None
    """timm's notation, for example ``rand-m9-mstd0.5-inc1``."""
    erase: EraseSettings | None = None

    @model_validator(mode="after")
    def _one_colour_augmentation(self) -> AugmentSettings:
        if self.rand_augment is not None and self.color_jitter > 0:
            raise ValueError("give color_jitter or rand_augment, not both")
        return self


class EvalTransform(Settings):
    """Short side to `resize` (null: no resize), then a centre crop of `image_size`."""

    resize: Count | None = 256


class DatasetSettings(Settings):
    """What every dataset has, whatever its labels are."""

    name: str
    """Identity of the dataset in results and tables, for example ``imagenet-1k``."""
    max_bad_images: Annotated[int, Field(ge=0)] = 0
    """Unreadable images allowed (replaced by a neighbour and listed); one more stops the run."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", json_schema_extra=HANDLING)
    """Loader processes per training process."""
    image_size: Annotated[list[Count], Field(min_length=2, max_length=2)] = [224, 224]
    """Height and width that the model sees."""
    channels: Count = Field(3, json_schema_extra=LATER)
    """Of an image. 3: RGB, to which other colours are converted; 1 (grey), 4 (RGBA, CMYK) and any other
    number: as the files store them."""


class SubsetSettings(Settings):
    """A part of the training images with every class in it: one of `fraction`, `per_class` and `list`."""

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each class, rounded, at least one image."""
    per_class: Count | None = None
    """Images of each class."""
    list: str | None = None
    """A text file below the dataset's root that names the images, one a line, as SimCLR's lists do."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draw; not the run's, so that runs of several seeds train on the same images."""

    @model_validator(mode="after")
    def _one_way(self) -> SubsetSettings:
        given = [name for name in ("fraction", "per_class", "list") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of fraction, per_class and list, not {' and '.join(given) or 'none'}")
        return self


class DataSettings(DatasetSettings):
    """An image-classification dataset and how its images are read."""

    source: Literal["folder", "tar", "hf", "webdataset", "inat", "filelist"] = Field(
        "folder", json_schema_extra=RUNTIME
    )
    """`folder`: class folders (or a flat folder with a label file); `tar`: tar files of the same layout;
    `hf`: a Hugging Face dataset; `webdataset`: local shards; `inat`: the annotation files of the iNaturalist
    competitions; `filelist`: text files with `FILE LABEL` a line, as Places has them."""
    root: str = Field(json_schema_extra=RUNTIME)
    """Folder (or dataset name) below `--data-root`, or an absolute path."""
    train: str = Field("train", json_schema_extra=RUNTIME)
    val: str = Field("val", json_schema_extra=RUNTIME)
    train_images: str | None = Field(None, json_schema_extra=RUNTIME | LATER)
    """`filelist`: the folder below `root` that the training list's files lie in (null: `root` itself).
    `inat`: the folder below `root` that stands in for the first part of the file names (null: as written)."""
    val_images: str | None = Field(None, json_schema_extra=RUNTIME | LATER)
    """The same for the validation images."""
    val_labels: str | None = Field(None, json_schema_extra=RUNTIME)
    """For a flat validation folder: a text file with `FILE CLASS` a line, CLASS a name or an index."""
    class_list: str | None = Field(None, json_schema_extra=RUNTIME)
    """A text file with one class name a line, in order; default: folder names sorted."""
    image_key: str = Field("image", json_schema_extra=RUNTIME)
    """`hf`: the column that holds the images."""
    label_key: str = Field("label", json_schema_extra=RUNTIME)
    """`hf`: the column that holds the labels; `webdataset`: the entry of KEY.json, without KEY.cls."""
    classes: Count | None = None
    """How many classes there must be; null: whatever is found."""
    subset: SubsetSettings | None = Field(None, json_schema_extra=LATER)
    """The part of the training split that is trained on; null: all of it."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    augment: AugmentSettings = AugmentSettings()
    evaluation: EvalTransform = EvalTransform()
    cache: Literal["none", "memory"] = Field("none", json_schema_extra=HANDLING)
    """`memory`: keep the decoded uint8 images, for sets that fit."""

    @model_validator(mode="after")
    def _colours_are_rgb(self) -> DataSettings:
        if self.channels != 3:
            for key, off, used in (
                ("rand_augment", "null", self.augment.rand_augment is not None),
                ("color_jitter", "0", self.augment.color_jitter > 0),
            ):
                if used:
                    raise ValueError(
                        f"augment.{key} is for RGB and channels is {self.channels}; "
                        f"set data.augment.{key}={off}"
                    )
        return self


class OptimSettings(Settings):
    """Optimiser, learning-rate curve and per-layer scaling."""

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: Positive | None = None
    """Peak learning rate; give this or `blr`."""
    blr: Positive | None = None
    """Base learning rate: lr = blr x effective batch / 256 (linear scaling rule)."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.999]
    momentum: Fraction = 0.9
    trust_coefficient: Positive = 0.001
    """LARS only (You et al., arXiv:1708.03888)."""
    weight_decay: NonNegative = 0.05
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of layer i is scaled by layer_decay ** (depth + 1 - i); null: no scaling."""
    decay_biases: bool = False
    """Decay biases too, as detectron2 does; norms and LayerScale have no bias in this sense."""
    decay_norms: bool = False
    """Decay gain and bias of norms, and LayerScale."""
    decay_positions: bool = False
    """Decay position embeddings, class token and registers."""
    schedule: Literal["cosine", "constant", "multistep", "poly"] = "cosine"
    milestones: list[Count] = []
    """`multistep`: the steps at which the rate is multiplied by `gamma`."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    power: Positive = 1.0
    """`poly`: the rate falls as (1 - progress) ** power."""
    warmup_epochs: NonNegative | None = None
    warmup_steps: NonNegative | None = None
    warmup_factor: Fraction = 0.0
    """Share of the rate at which the linear warm-up begins."""
    min_lr: NonNegative = 0.0

    @model_validator(mode="after")
    def _one_of_each(self) -> OptimSettings:
        _exactly_one(self, "lr", "blr")
        if self.warmup_epochs is not None and self.warmup_steps is not None:
            raise ValueError("give warmup_epochs or warmup_steps, not both (null takes one away)")
        if bool(self.milestones) != (self.schedule == "multistep"):
            raise ValueError("milestones and schedule=multistep belong together")
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(f"milestones must ascend, not {self.milestones}")
        return self


class TrainSettings(Settings):
    """Length of training, batch, averaging, and what is kept on disk."""

    epochs: Positive | None = None
    steps: Count | None = None
    batch: Count
    """The effective, global batch; `micro_batch` and the number of processes must divide it."""
    micro_batch: Count | Literal["auto"] = Field("auto", json_schema_extra=HANDLING)
    """Images in one forward pass of one process; `auto`: the largest exact divisor that fits."""
    clip_grad: Positive | None = None
    """Largest L2 norm of the whole gradient."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights; the averaged weights are the ones reported."""
    evaluate_every_epochs: Positive | None = Field(None, json_schema_extra=HANDLING)
    """Also evaluate during training (for the curve; never for choosing); null: only at the end."""
    save_every_minutes: Positive = Field(15.0, json_schema_extra=HANDLING)
    save_every_steps: Count | None = Field(None, json_schema_extra=HANDLING)
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(2, json_schema_extra=HANDLING)
    log_every_steps: Count = Field(20, json_schema_extra=HANDLING)
    compile: bool = Field(False, json_schema_extra=HANDLING)
    """torch.compile the model (GPU)."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        _exactly_one(self, "epochs", "steps")
        return self


class WandbSettings(Settings):
    """Weights & Biases as a mirror of metrics.jsonl (never the record)."""

    project: str = "mae-bench"
    entity: str | None = None
    mode: Literal["online", "offline"] = "offline"


class PublishedArch(Settings):
    """The backbone that a recipe's values were published for."""

    name: str
    """As a person says it, for example ``ViT-B``."""
    width: Count
    depth: Count


class Expected(Settings):
    """What the recipe should give, and who says so."""

    metric: str
    value: float
    source: str


class TaskConfig(Settings):
    """What every recipe has; an adapter's `Config` adds its own keys.

    `recipe` is filled in from the file's name and is what tables show.
    """

    task: str
    """Name of the adapter in the catalogue."""
    recipe: str = Field(json_schema_extra=HANDLING)
    """Name of the recipe, for example ``demo/imagenet-knn``."""
    protocol: str | None = Field(None, json_schema_extra=HANDLING)
    """Recipe that holds the published protocol, if this one is a variation of it; null: this one."""
    notes: list[str] = Field([], json_schema_extra=HANDLING)
    """Where the recipe itself departs from the paper, or what the paper leaves open."""
    expected: list[Expected] = Field([], json_schema_extra=HANDLING)
    backbone: str | None = Field(None, json_schema_extra=RUNTIME)
    """`timm:NAME`, `random:ARCH`, `run:FOLDER`, `file:PATH?arch=NAME`."""
    seed: Annotated[int, Field(ge=0)] = Field(0, json_schema_extra=RUNTIME)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", json_schema_extra=RUNTIME)
    wandb: WandbSettings | None = Field(None, json_schema_extra=HANDLING)


class FitConfig(TaskConfig):
    """Settings of a task that `mae_bench.train.fit` trains; a task narrows `data` to its kind of dataset."""

    data: DatasetSettings
    train: TrainSettings
    optim: OptimSettings


class TrainedConfig(FitConfig):
    """Settings of a task that is trained on images with a class each."""

    data: DataSettings


def _exactly_one(model: BaseModel, first: str, second: str) -> None:
    given = [name for name in (first, second) if getattr(model, name) is not None]
    if not given:
        raise ValueError(f"give {first} or {second}")
    if len(given) == 2:
        raise ValueError(f"give {first} or {second}, not both (null takes one away)")


# ---------------------------------------------------------------- plain values, hashes, differences


def plain(config: BaseModel) -> dict[str, Any]:
    """The settings as nested plain values, every default written out."""
    return config.model_dump(mode="json")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values as dotted paths; lists count as values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, path + "."))
        else:
            flat[path] = value
    return flat


def submodel(annotation: Any) -> type[BaseModel] | None:
    """The settings model inside an annotation such as `EraseSettings | None`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = submodel(part)
        if found is not None:
            return found
    return None


def marked_paths(model: type[BaseModel], mark: Literal["runtime", "handling"], prefix: str = "") -> set[str]:
    """Dotted paths of the fields marked RUNTIME (HANDLING included) or HANDLING."""
    paths: set[str] = set()
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get(mark):
            paths.add(prefix + name)
            continue
        inner = submodel(field.annotation)
        if inner is not None:
            paths |= marked_paths(inner, mark, f"{prefix}{name}.")
    return paths


def later_defaults(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> default of the fields marked LATER: what a configuration from before meant."""
    defaults: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("later"):
            defaults[prefix + name] = field.default
            continue
        inner = submodel(field.annotation)
        if inner is not None:
            defaults |= later_defaults(inner, f"{prefix}{name}.")
    return defaults


def _without(config: BaseModel, mark: Literal["runtime", "handling"]) -> dict[str, Any]:
    """The settings as dotted paths, fields with a mark left out."""
    skip = marked_paths(type(config), mark)
    return {
        path: value
        for path, value in flatten(plain(config)).items()
        if not any(path == entry or path.startswith(entry + ".") for entry in skip)
    }


def identity_values(config: BaseModel) -> dict[str, Any]:
    """Dotted path -> value of everything that decides a run's result, backbone, seed and data included."""
    return _without(config, "handling")


def protocol_values(config: BaseModel) -> dict[str, Any]:
    """Dotted path -> value of everything that decides what is computed (RUNTIME fields left out)."""
    return _without(config, "runtime")


def digest_of(values: Any) -> str:
    """SHA-256 of plain values in canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_hash(config: BaseModel) -> str:
    """Digest of what decides the result, whatever the machine, seed or backbone."""
    return _digest_as_before(config, protocol_values(config))


def identity_hash(config: BaseModel) -> str:
    """Digest of all that decides a run's result: recipe values, data, backbone, seed, precision."""
    return _digest_as_before(config, identity_values(config))


def _digest_as_before(config: BaseModel, values: Mapping[str, Any]) -> str:
    """The digest without fields marked LATER that are at their defaults."""
    absent = later_defaults(type(config)).items()
    return digest_of({path: value for path, value in values.items() if (path, value) not in absent})


@dataclass(frozen=True)
class Deviation:
    """One key in which a run departs from the published protocol."""

    key: str
    published: Any
    ours: Any


def deviations(config: BaseModel, published: BaseModel) -> list[Deviation]:
    """Where `config` departs from the recipe that holds the published protocol, in key order."""
    ours, theirs = protocol_values(config), protocol_values(published)
    return [
        Deviation(key, theirs.get(key), ours.get(key))
        for key in [*theirs, *(key for key in ours if key not in theirs)]
        if theirs.get(key) != ours.get(key)
    ]
