"""Settings of object detection and instance segmentation: dataset, detector, and how it is tested."""

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
    Positive,
    PublishedArch,
    Settings,
)

Side = Annotated[list[Count], Field(min_length=2, max_length=2)]


class SplitSettings(Settings):
    """One split of a dataset in COCO format; both are relative to `data.root`."""

    images: str
    """Folder of the images."""
    annotations: str
    """The JSON file (COCO instances format)."""


class JitterSettings(Settings):
    """Large-scale jitter (arXiv:2012.07177): flip, resize by a random scale, crop to the canvas."""

    flip: Fraction = 0.5
    scale: Annotated[list[Positive], Field(min_length=2, max_length=2)] = Field(default=[0.1, 2.0])
    """Lowest and highest size of the image, as a share of the largest that fits into the canvas."""
    flip_first: bool = True
    """Flip before resizing and cropping (detectron2's ViTDet), or after (arXiv:2111.11429)."""

    @model_validator(mode="after")
    def _range_ascends(self) -> JitterSettings:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be [low, high], not {self.scale}")
        return self


class TestSizeSettings(Settings):
    """The size at which images are tested: short edge first, then the long edge is cut down."""

    short_edge: Count = 1024
    long_edge: Count = 1024


class DetectionData(DatasetSettings):
    """A dataset in COCO format."""

    root: str = Field(json_schema_extra=RUNTIME)
    """Folder below `--data-root`, or an absolute path."""
    train: SplitSettings = Field(json_schema_extra=RUNTIME)
    val: SplitSettings = Field(json_schema_extra=RUNTIME)
    classes: Count | None = None
    """How many categories there must be; null: whatever the annotations list."""
    image_size: Side = Field(default=[1024, 1024])
    """Height and width of the canvas to which every image is padded (right and bottom)."""
    augment: JitterSettings = JitterSettings()
    filter_empty: bool = True
    """Leave out training images without an object that is no crowd."""
    evaluation: TestSizeSettings = TestSizeSettings()

    @model_validator(mode="after")
    def _tests_fit(self) -> DetectionData:
        if self.evaluation.long_edge > min(self.image_size):
            raise ValueError(
                f"evaluation.long_edge {self.evaluation.long_edge} does not fit into "
                f"image_size {self.image_size}"
            )
        return self


class AttentionSettings(Settings):
    """How a plain ViT attends on large images (ViTDet, arXiv:2203.16527, section 3)."""

    window: Count | None = 14
    """Side of a window in patches; null: every block attends globally."""
    global_blocks: list[Annotated[int, Field(ge=0)]] | Literal["quarters"] = "quarters"
    """Blocks that attend globally; `quarters`: the last of each quarter of the blocks."""
    window_padding: Literal["masked", "attended"] = "masked"
    """Where windows reach over the edge: `masked` hides the padding; `attended` lets patches attend to it, as
    detectron2's ViTDet does (published numbers were made so)."""
    relative_positions: bool = True
    """Decomposed relative position biases (arXiv:2112.01526), zero at first."""
    prefix_tokens: Literal["drop", "keep"] = "drop"
    """Class token and registers: taken out of the network, or kept. A kept token attends to each window
    and is averaged over the windows."""


class PyramidSettings(Settings):
    """From the backbone's maps to the levels that the heads read (strides patch/4, /2, 1, 2, and pooled)."""

    kind: Literal["simple", "fpn"] = "simple"
    """`simple`: ViTDet's, from the last map. `fpn`: a feature pyramid network over `blocks`
    (arXiv:2111.11429); hierarchical backbones always get one over their own maps."""
    blocks: list[Annotated[int, Field(ge=0)]] | Literal["quarters"] = "quarters"
    """`fpn`: the four blocks whose maps are taken."""
    channels: Count = 256
    norm: Literal["layer", "batch"] = "layer"
    """Norm of pyramid and heads; `batch` is synchronised over processes."""


class ProposalSettings(Settings):
    """Region proposal network."""

    convs: Count = 2
    anchor_sizes: Annotated[list[Count], Field(min_length=5, max_length=5)] = Field(
        default=[32, 64, 128, 256, 512]
    )
    """Side of the anchors of each level, in pixels."""
    ratios: list[Positive] = Field(default=[0.5, 1.0, 2.0])
    """Height / width of the anchors."""
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    batch: Count = 256
    """Anchors sampled in an image."""
    positive: Fraction = 0.5
    """Share of positive ones, at most."""
    before_nms: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(default=[2000, 1000])
    """Proposals of a level kept before suppression, in training and in testing."""
    after_nms: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(default=[1000, 1000])
    """Proposals of an image kept after suppression, in training and in testing."""
    nms: Fraction = 0.7


class HeadSettings(Settings):
    """Box and mask heads, and what is kept at test time."""

    box_convs: Annotated[int, Field(ge=0)] = 4
    box_fcs: Count = 1
    box_width: Count = 1024
    mask_convs: Count = 4
    batch: Count = 512
    """Proposals sampled in an image."""
    positive: Fraction = 0.25
    iou: Fraction = 0.5
    """Overlap from which on a proposal counts as an object."""
    cascade: bool = False
    """Cascade Mask R-CNN (arXiv:1906.09756): three box heads at IoU 0.5, 0.6 and 0.7."""
    score: Fraction = 0.05
    """Least score of a detection."""
    nms: Fraction = 0.5
    detections: Count = 100
    """Detections of an image kept at most."""


class DetectorSettings(Settings):
    """Mask R-CNN over a backbone."""

    attention: AttentionSettings = AttentionSettings()
    pyramid: PyramidSettings = PyramidSettings()
    proposals: ProposalSettings = ProposalSettings()
    heads: HeadSettings = HeadSettings()
    checkpointing: bool = Field(default=False, json_schema_extra=HANDLING)
    """Compute the activations of each block again on the way back: less memory, more time."""


class DetectionConfig(FitConfig):
    """Settings of detection with Mask R-CNN."""

    data: DetectionData
    model: DetectorSettings = DetectorSettings()
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    detector: str | None = Field(default=None, json_schema_extra=RUNTIME)
    """A whole detector to start from: a checkpoint in the key format of detectron2's ViTDet, or the
    model.safetensors of a run of ours. Null: heads start untrained."""
    evaluate_only: bool = Field(default=False, json_schema_extra=RUNTIME)
    """Judge `detector` as it is, training nothing."""
    published_arch: PublishedArch | None = Field(default=None, json_schema_extra=HANDLING)
    """The size of backbone that the recipe is meant for; another one gives a warning. Null: any."""

    @model_validator(mode="after")
    def _something_to_judge(self) -> DetectionConfig:
        if self.evaluate_only and self.detector is None:
            raise ValueError("evaluate_only: there is nothing to evaluate; give detector=FILE")
        return self
