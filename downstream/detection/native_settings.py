"""Settings of a detector trained by a configuration file of an engine's own; common to the engines."""

from __future__ import annotations

from pydantic import Field, model_validator

from downstream.detection.settings import Side, SplitSettings
from downstream.native import NativeFile
from mae_bench.settings import HANDLING, RUNTIME, Count, DatasetSettings


class NativeData(DatasetSettings):
    """A dataset in COCO format, in place of the file's own."""

    root: str = Field(json_schema_extra=RUNTIME)
    """Folder below `--data-root`, or an absolute path."""
    train: SplitSettings = Field(json_schema_extra=RUNTIME)
    val: SplitSettings = Field(json_schema_extra=RUNTIME)
    classes: Count | None = None
    """How many categories there must be; null: whatever the annotations list."""
    image_size: Side = Field(default=[1024, 1024])
    """Height and width of the images that relative positions are laid out for; how large images are is the
    file's."""
    filter_empty: bool = True
    """Leave out training images without an object that is no crowd."""

    @model_validator(mode="after")
    def _can_be_read(self) -> NativeData:
        if self.channels != 3:
            raise ValueError(f"channels={self.channels}: the engine reads images as RGB")
        if self.max_bad_images:
            raise ValueError(
                "max_bad_images: the engine stops at the first image that it cannot read; set it to 0"
            )
        return self


class NativeDetection(NativeFile):
    """Settings of detection by an engine's file."""

    data: NativeData
    checkpointing: bool = Field(default=False, json_schema_extra=HANDLING)
    """Compute the activations of each block again on the way back: less memory, more time."""
