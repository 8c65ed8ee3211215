"""Settings of a segmenter trained by a config file of mmsegmentation's own, with our backbone in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from downstream.native import NativeFile
from downstream.openmmlab.native import sha256_of
from downstream.segmentation.settings import SplitSettings
from mae_bench.settings import HANDLING, RUNTIME, Positive, Settings


class NativeData(Settings):
    """A dataset in place of the file's own; how its images are augmented and tested stays the file's."""

    name: str
    """Identity of the dataset in results and tables."""
    root: str = Field(json_schema_extra=RUNTIME)
    """Folder below `--data-root`, or an absolute path."""
    train: SplitSettings = Field(json_schema_extra=RUNTIME)
    val: SplitSettings = Field(json_schema_extra=RUNTIME)
    class_list: str = "ade20k"
    """`ade20k`, or a text file below `root` with one class a line."""
    zero_is_ignored: bool = False
    """Label 0 of the files is no class, and class k is stored as k + 1 (ADE20K)."""
    ignore_label: Annotated[int, Field(ge=0, le=65535)] | None = 255
    """Label of the files that is left out of training and judging."""

    @property
    def channels(self) -> int:
        """The engine reads RGB."""
        return 3

    @property
    def max_bad_images(self) -> int:
        """The engine stops at the first image that it cannot read."""
        return 0


class NativeBody(Settings):
    """How our backbone is put in."""

    blocks: list[Annotated[int, Field(ge=0)]] | Literal["quarters"] = "quarters"
    """The four blocks of a plain backbone whose maps are taken."""
    relative_positions: bool = False
    """A bias for each relative position of two patches in every block, zero at first (as in BEiT)."""
    layer_scale: Positive | None = None
    """Add LayerScale with this value to blocks that have none."""
    final_norm: bool = False
    """Send every map through the backbone's final norm."""
    freeze: bool = False
    """Keep the backbone as it was pretrained."""
    checkpointing: bool = Field(default=False, json_schema_extra=HANDLING)
    """Compute the activations of each block again on the way back: less memory, more time."""


class NativeConfig(NativeFile):
    """Settings of segmentation by a config file of mmsegmentation."""

    data: NativeData
    model: NativeBody = NativeBody()

    @classmethod
    def digest(cls, path: Path) -> str | None:
        """SHA-256 of the file and of those it builds on; see `NativeFile`."""
        return sha256_of(path)
