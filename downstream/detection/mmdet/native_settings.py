"""Settings of a detector trained by a config file of MMDetection's own, with our backbone in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from downstream.detection.detectron2.native_settings import NativeData, NativeTraining
from downstream.detection.settings import AttentionSettings
from downstream.openmmlab.native import sha256_of
from mae_bench.settings import HANDLING, PublishedArch, TaskConfig

SHIPPED = "mmdet::"
"""Before the name of a config that comes with MMDetection, as mmengine has it."""


class NativeConfig(TaskConfig):
    """Settings of detection by a config file of MMDetection."""

    native: str | None = Field(None, json_schema_extra=HANDLING)
    """The file, or ``mmdet::NAME`` for one that comes with MMDetection. Python files are run."""
    native_sha256: str | None = None
    """SHA-256 of the file and of those that it builds on; filled in, and compared where it is given."""
    options: dict[str, Any] = Field(default={})
    """Dotted path -> value, laid over the file's, as MMDetection's ``--cfg-options``."""
    data: NativeData
    attention: AttentionSettings = AttentionSettings(window=None, relative_positions=False)
    """How a plain ViT attends; the file's images may be of any size."""
    blocks: list[Annotated[int, Field(ge=0)]] | Literal["quarters"] = "quarters"
    """The four blocks of a plain ViT whose maps the file's neck takes."""
    checkpointing: bool = Field(default=False, json_schema_extra=HANDLING)
    """Compute the activations of each block again on the way back: less memory, more time."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    train: NativeTraining = NativeTraining()
    published_arch: PublishedArch | None = Field(default=None, json_schema_extra=HANDLING)
    """The size of backbone that the file is meant for; another one gives a warning. Null: any."""

    @model_validator(mode="before")
    @classmethod
    def _know_the_file(cls, values: Any) -> Any:
        """Fill in the digest of the file, or compare it."""
        if not isinstance(values, dict) or not isinstance(values.get("native"), str):
            return values
        native = values["native"]
        digest = sha256_of(path_of(native))
        if digest is None:
            raise ValueError(f"native: {native} cannot be read")
        if values.get("native_sha256") not in (None, digest):
            raise ValueError(f"native: {native} has changed since; put it back as it was, or start anew")
        if not native.startswith(SHIPPED):
            native = str(Path(native).expanduser().resolve())
        return {**values, "native": native, "native_sha256": digest}

    @model_validator(mode="after")
    def _can_be_done(self) -> NativeConfig:
        if self.data.channels != 3:
            raise ValueError(f"data.channels={self.data.channels}: MMDetection reads images as RGB")
        if self.data.max_bad_images:
            raise ValueError(
                "data.max_bad_images: MMDetection stops at the first image that it cannot read; set it to 0"
            )
        if self.precision != "auto":
            raise ValueError(
                f"precision={self.precision}: that is the file's affair; for low precision give "
                "options={optim_wrapper.type: AmpOptimWrapper}"
            )
        return self


def path_of(native: str) -> Path:
    """Where a config file is."""
    if not native.startswith(SHIPPED):
        return Path(native).expanduser()
    from importlib.util import find_spec

    spec = find_spec("mmdet")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0] if folders else "mmdet") / ".mim" / "configs" / native.removeprefix(SHIPPED)
