"""Settings of detection by detectron2: the recipe's, without what detectron2 cannot do."""

from __future__ import annotations

from pydantic import model_validator

from downstream.detection.settings import DetectionConfig


class Detectron2Config(DetectionConfig):
    """Settings of detection with detectron2's Mask R-CNN."""

    @model_validator(mode="after")
    def _can_be_done(self) -> Detectron2Config:
        refused = {
            f"data.channels={self.data.channels}: detectron2 reads images as RGB": self.data.channels != 3,
            "data.max_bad_images: detectron2 stops at the first image that it cannot read; set it to 0": (
                self.data.max_bad_images > 0
            ),
            "train.ema: detectron2's trainer averages no weights; set it to null": self.train.ema is not None,
            "train.compile: detectron2's models are not compiled; set it to false": self.train.compile,
            "optim.schedule=poly: detectron2 has no such schedule; use multistep, cosine or constant": (
                self.optim.schedule == "poly"
            ),
        }
        faults = [text for text, wrong in refused.items() if wrong]
        if faults:
            raise ValueError("; ".join(faults))
        return self
