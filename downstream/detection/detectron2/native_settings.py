"""Settings of a detector trained by a configuration file of detectron2's own, with our backbone in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from downstream.detection.settings import AttentionSettings, Side, SplitSettings
from mae_bench.settings import (
    HANDLING,
    RUNTIME,
    Count,
    DatasetSettings,
    Positive,
    PublishedArch,
    Settings,
    TaskConfig,
)


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


class NativeTraining(Settings):
    """How the file's training is carried out."""

    evaluate_every_epochs: Positive | None = Field(default=None, json_schema_extra=HANDLING)
    """Also evaluate during training (for the curve; never for choosing); null: only at the end."""
    save_every_minutes: Positive = Field(default=15.0, json_schema_extra=HANDLING)
    save_every_steps: Count | None = Field(default=None, json_schema_extra=HANDLING)
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(default=2, json_schema_extra=HANDLING)
    log_every_steps: Count = Field(default=20, json_schema_extra=HANDLING)


class NativeConfig(TaskConfig):
    """Settings of detection by a configuration file of detectron2."""

    native: str | None = Field(None, json_schema_extra=HANDLING)
    """The file, .py or .yaml (LazyConfig). Python files are run."""
    native_sha256: str | None = None
    """SHA-256 of the file; filled in, and compared where it is given."""
    options: dict[str, Any] = Field(default={})
    """Dotted path -> value, laid over the file's."""
    data: NativeData
    attention: AttentionSettings = AttentionSettings()
    """How a plain ViT attends."""
    checkpointing: bool = Field(default=False, json_schema_extra=HANDLING)
    """Compute the activations of each block again on the way back: less memory, more time."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    train: NativeTraining = NativeTraining()
    published_arch: PublishedArch | None = Field(default=None, json_schema_extra=HANDLING)
    """The size of backbone that the file is meant for; another one gives a warning. Null: any."""

    @property
    def detector(self) -> None:
        """There is none to start from."""

    @property
    def evaluate_only(self) -> bool:
        """The file is there to train."""
        return False

    @model_validator(mode="before")
    @classmethod
    def _know_the_file(cls, values: Any) -> Any:
        """Fill in the digest of the file, or compare it."""
        if not isinstance(values, dict) or not isinstance(values.get("native"), str):
            return values
        path = Path(values["native"]).expanduser()
        if path.suffix not in (".py", ".yaml", ".yml"):
            raise ValueError(f"native: {path} should be a file of detectron2's LazyConfig, .py or .yaml")
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ValueError(f"native: {path} cannot be read: {error.strerror or error}") from None
        if values.get("native_sha256") not in (None, digest):
            raise ValueError(f"native: {path} has changed since; put the file as it was back, or start anew")
        return {**values, "native": str(path.resolve()), "native_sha256": digest}

    @model_validator(mode="after")
    def _can_be_done(self) -> NativeConfig:
        if self.data.channels != 3:
            raise ValueError(f"data.channels={self.data.channels}: detectron2 reads images as RGB")
        if self.data.max_bad_images:
            raise ValueError(
                "data.max_bad_images: detectron2 stops at the first image that it cannot read; set it to 0"
            )
        return self
