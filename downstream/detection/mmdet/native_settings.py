"""Settings of a detector trained by a config file of MMDetection's own, with our backbone in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from downstream.detection.native_settings import NativeDetection
from downstream.detection.settings import AttentionSettings
from downstream.openmmlab.native import sha256_of

SHIPPED = "mmdet::"
"""Before the name of a config that comes with MMDetection, as mmengine has it."""


class NativeConfig(NativeDetection):
    """Settings of detection by a config file, or by ``mmdet::NAME`` of one that comes with MMDetection."""

    attention: AttentionSettings = AttentionSettings(window=None, relative_positions=False)
    """How a plain ViT attends; the file's images may be of any size."""
    blocks: list[Annotated[int, Field(ge=0)]] | Literal["quarters"] = "quarters"
    """The four blocks of a plain ViT whose maps the file's neck takes."""

    @classmethod
    def located(cls, native: str) -> tuple[str, Path]:
        """The file; see `NativeFile`."""
        return (native, path_of(native)) if native.startswith(SHIPPED) else super().located(native)

    @classmethod
    def digest(cls, path: Path) -> str | None:
        """SHA-256 of the file and of those it builds on; see `NativeFile`."""
        return sha256_of(path)

    @model_validator(mode="after")
    def _can_be_done(self) -> NativeConfig:
        if self.precision != "auto":
            raise ValueError(
                f"precision={self.precision}: that is the file's affair; for low precision give "
                "options={optim_wrapper.type: AmpOptimWrapper}"
            )
        return self


def path_of(native: str) -> Path:
    """Where a config file is."""
    if not native.startswith(SHIPPED):
        return Path(native)
    from importlib.util import find_spec

    spec = find_spec("mmdet")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(folders[0] if folders else "mmdet") / ".mim" / "configs" / native.removeprefix(SHIPPED)
