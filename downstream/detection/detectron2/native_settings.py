"""Settings of a detector trained by a configuration file of detectron2's own, with our backbone in it."""

from __future__ import annotations

from pathlib import Path

from downstream.detection.native_settings import NativeDetection
from downstream.detection.settings import AttentionSettings


class NativeConfig(NativeDetection):
    """Settings of detection by a LazyConfig, .py or .yaml."""

    attention: AttentionSettings = AttentionSettings()
    """How a plain ViT attends."""

    @property
    def detector(self) -> None:
        """There is none to start from."""

    @property
    def evaluate_only(self) -> bool:
        """The file is there to train."""
        return False

    @classmethod
    def located(cls, native: str) -> tuple[str, Path]:
        """The file; see `NativeFile`."""
        kept, path = super().located(native)
        if path.suffix not in (".py", ".yaml", ".yml"):
            raise ValueError(f"native: {native} should be a file of detectron2's LazyConfig, .py or .yaml")
        return kept, path
