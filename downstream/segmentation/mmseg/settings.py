"""Settings of segmentation on mmsegmentation: those of the default engine, without what it cannot do."""

from __future__ import annotations

from pydantic import model_validator

from downstream.openmmlab.recipe import refuse
from downstream.segmentation.settings import SegmentationConfig


class MMSegConfig(SegmentationConfig):
    """Settings of segmentation with mmsegmentation's UPerHead and FCNHead."""

    @model_validator(mode="after")
    def _can_be_done(self) -> MMSegConfig:
        refuse(self, "mmseg")
        if self.model.head == "linear":
            raise ValueError(
                "model.head: mmsegmentation has no head that normalises maps side by side before one linear "
                "layer; take uper or leave --engine out"
            )
        return self
