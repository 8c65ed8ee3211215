"""Settings of detection on MMDetection: those of the default engine, without what MMDetection cannot do."""

from __future__ import annotations

from pydantic import model_validator

from downstream.detection.settings import DetectionConfig
from downstream.openmmlab.recipe import refuse


class MMDetConfig(DetectionConfig):
    """Settings of detection with MMDetection's Mask R-CNN."""

    @model_validator(mode="after")
    def _can_be_done(self) -> MMDetConfig:
        refuse(self, "mmdet")
        return self
