"""Settings of semantic segmentation: dataset, segmenter, and how it is tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mae_bench.settings import (
    HANDLING,
    RUNTIME,
    Count,
    DatasetSettings,
    FitConfig,
    Fraction,
    NonNegative,
    Positive,
    PublishedArch,
    Settings,
)

Side = Annotated[list[Count], Field(min_length=2, max_length=2)]


class SplitSettings(Settings):
    """One split: two folders relative to `data.root` that hold images and label maps of the same stems."""

    images: str
    labels: str


class SceneCropSettings(Settings):
    """Training augmentation, in the order of mmsegmentation's ADE20K recipe."""

    scale: Annotated[list[Positive], Field(min_length=2, max_length=2)] = Field(default=[0.5, 2.0])
    """Lowest and highest factor on `base`."""
    base: Side = Field(default=[512, 2048])
    """The box, short and long side in pixels, into which an image is resized before the factor."""
    largest_class: Fraction = 0.75
    """A crop of which one class takes more than this share is drawn again, up to ten times; 1: any crop."""
    flip: Fraction = 0.5
    photometric: bool = True
    """Brightness, contrast, saturation and hue, each with probability one half; for RGB only."""

    @model_validator(mode="after")
    def _ranges_ascend(self) -> SceneCropSettings:
        for name in ("scale", "base"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be [low, high], not [{low}, {high}]")
        return self


class InferenceSettings(Settings):
    """How an image is tested; the prediction is brought to the original size before it is judged."""

    mode: Literal["slide", "whole"] = "slide"
    stride: Side = Field(default=[341, 341])
    """`slide`: vertical and horizontal step of the window, which has the size of `data.image_size`."""
    base: Side | None = Field(default=[512, 2048])
    """The box, short and long side, into which an image is resized first; null: as it is."""
    scales: list[Positive] = Field(default=[1.0])
    """Factors on `base`; several: probabilities are averaged (multi-scale testing)."""
    flip: bool = False
    """Also test mirrored, and average."""


class SegmentationData(DatasetSettings):
    """A dataset of images with label maps."""

    root: str = Field(json_schema_extra=RUNTIME)
    """Folder below `--data-root`, or an absolute path."""
    train: SplitSettings = Field(json_schema_extra=RUNTIME)
    val: SplitSettings = Field(json_schema_extra=RUNTIME)
    class_list: str = "ade20k"
    """`ade20k`: the 150 classes of SceneParse150 with their colours; or a text file below `root` with
    one class a line, in order, optionally followed by a tab and its colour as `R G B`."""
    zero_is_ignored: bool = False
    """Label 0 of the files is no class, and class k is stored as k + 1 (ADE20K)."""
    ignore_label: Annotated[int, Field(ge=0, le=65535)] | None = 255
    """Label of the files that is left out of training and judging, besides 0 with `zero_is_ignored`."""
    image_size: Side = Field(default=[512, 512])
    """Height and width of the crop that the model sees."""
    augment: SceneCropSettings = SceneCropSettings()
    evaluation: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _windows_overlap(self) -> SegmentationData:
        stride, size = self.evaluation.stride, self.image_size
        if self.evaluation.mode == "slide" and (stride[0] > size[0] or stride[1] > size[1]):
            raise ValueError(f"evaluation.stride {stride} leaves gaps between windows of {size}")
        return self

    @model_validator(mode="after")
    def _colours_are_rgb(self) -> SegmentationData:
        if self.channels != 3 and self.augment.photometric:
            raise ValueError(
                f"augment.photometric is for RGB and channels is {self.channels}; "
                "set data.augment.photometric=false"
            )
        return self


class SegmenterSettings(Settings):
    """A head over a backbone."""

    head: Literal["uper", "linear"] = "uper"
    """`uper`: UperNet (arXiv:1807.10221) with an auxiliary FCN head; `linear`: BatchNorm and a 1x1
    convolution on the maps of `blocks`, side by side."""
    blocks: list[Annotated[int, Field(ge=0)]] | Literal["quarters", "last"] = "quarters"
    """Blocks whose maps are taken: four for `uper`. `quarters`: the last block of each quarter."""
    channels: Count = 768
    """Width of the UperNet."""
    pool_scales: list[Count] = Field(default=[1, 2, 3, 6])
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    auxiliary_weight: NonNegative = 0.4
    """Weight of the auxiliary head's loss; 0: no such head."""
    auxiliary_channels: Count = 256
    relative_positions: bool = True
    """A bias for each relative position of two patches in every block, zero at first (as in BEiT)."""
    layer_scale: Positive | None = None
    """Add LayerScale with this value to blocks that have none; null: leave the blocks as they are."""
    final_norm: bool = False
    """Send every map through the backbone's final norm."""
    freeze: bool = False
    """Keep the backbone as it was pretrained."""
    checkpointing: bool = Field(default=False, json_schema_extra=HANDLING)
    """Compute the activations of each block again on the way back: less memory, more time."""

    @model_validator(mode="after")
    def _four_maps(self) -> SegmenterSettings:
        if self.head == "uper" and (
            self.blocks == "last" or (isinstance(self.blocks, list) and len(self.blocks) != 4)
        ):
            raise ValueError(f"blocks: a UperNet takes four, not {self.blocks}")
        if self.freeze and self.relative_positions:
            raise ValueError("relative_positions: a frozen backbone learns none; set it to false")
        return self


class SegmentationConfig(FitConfig):
    """Settings of semantic segmentation."""

    data: SegmentationData
    model: SegmenterSettings = SegmenterSettings()
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    published_arch: PublishedArch | None = Field(default=None, json_schema_extra=HANDLING)
    """The size of backbone that the recipe is meant for; another one gives a warning. Null: any."""
