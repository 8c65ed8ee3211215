"""Object detection and instance segmentation with Mask R-CNN, as a task of the suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from downstream.detection.judged import JudgedDetection
from downstream.detection.settings import DetectionConfig, DetectionData
from mae_bench.adapter import Batch, TrainedAdapter
from mae_bench.errors import MaeBenchError
from mae_bench.published import notice_departures, notice_other_size, other_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downstream.detection.dataset import CocoSource, DetectionDataset
    from downstream.detection.detector import Detector
    from downstream.detection.evaluation import Finder
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class Detection(JudgedDetection[DetectionConfig], TrainedAdapter[DetectionConfig]):
    """Trains Mask R-CNN end to end; box and mask AP of the last step's weights (ViTDet, arXiv:2203.16527)."""

    engine: ClassVar[str | None] = "torchvision"
    Config: ClassVar[type[DetectionConfig]] = DetectionConfig

    @property
    def data(self) -> DetectionData:
        """The dataset."""
        return self.config.data

    def backbone(self, run: Run) -> Backbone:
        """The backbone at the size of its weights, a plain ViT or a hierarchical one.

        The positions of a plain ViT are resampled by the detector.
        """
        return run.backbone(drop_path=self.config.drop_path, channels=self.config.data.channels)

    def model(self, backbone: Backbone | None, run: Run) -> Detector:
        """The detector over the backbone, with the weights of `detector` where one is given."""
        from downstream.detection.detector import build
        from downstream.detection.loading import load_detector
        from mae_bench import screen

        assert backbone is not None  # needs_backbone
        notice_other_size(run, backbone, self.config.published_arch)
        height, width = self.config.data.image_size
        names = self.source(run).classes
        model = build(backbone, len(names), self.config.model, (height, width))
        notice_departures(run, model.departures)
        if self.config.detector is not None:
            report = load_detector(model, Path(self.config.detector), classes=names)
            screen.say(report.summary())
            if run.is_main:
                report.save(run.folder / "detector_report.json")
            run.record(details={"detector": {"file": self.config.detector, "digest": report.digest_after}})
        return model

    def train_set(self, run: Run) -> DetectionDataset:
        """The training images, jittered in scale; the validation annotations are read too."""
        from downstream.detection.dataset import train_dataset

        return train_dataset(self.config.data, run.data_root, self.config.seed)

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The sum of the losses of proposals, boxes, classes and masks, and each of them."""
        losses: dict[str, Tensor] = model(batch["image"], batch["target"])
        return {"loss": sum(losses.values(), start=next(iter(losses.values())) * 0), **losses}

    def run(self, run: Run) -> dict[str, float]:
        """Train and judge the last step's weights, or only judge a given detector."""
        if not self.config.evaluate_only:
            return super().run(run)
        from mae_bench import precision

        model = self.model(self.backbone(run), run).to(run.device).eval()
        precision.suit_attention(model, run.device, run.precision)
        return self.evaluate(model, run)

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """Box and mask AP on the validation images; detections are left in `detections.json`."""
        from downstream.detection.dataset import val_dataset
        from downstream.detection.evaluation import detect

        images = val_dataset(self.config.data, run.data_root)
        self.record_data(images.source, run)
        return self.scored(images.source, detect(model, images, self.config.data, run), run)

    def record_data(self, source: CocoSource, run: Run) -> None:
        """Put on record what is judged and which weights; `source` are the validation images."""
        facts: dict[str, Any] = {
            "name": self.config.data.name,
            "val_images": len(source),
            "classes": len(source.classes),
        }
        if self.config.evaluate_only:
            run.record(dataset={**facts, "fingerprint": source.fingerprint(), "train_images": 0})
            run.record(selection=f"as given: {self.config.detector}")
        else:
            from downstream.detection.dataset import open_split
            from mae_bench.data import joint_fingerprint

            train = open_split(self.config.data, "train", run.data_root)
            run.record(dataset={**facts, "fingerprint": joint_fingerprint(train, source)})
            run.record(selection="last step (no step was chosen by its AP)")

    def check(self, run: Run) -> list[str]:
        """Both splits are read, an image of each is prepared, the detector is built with its weights."""
        from downstream.detection.dataset import val_dataset

        lines = []
        data = self.config.data
        if not self.config.evaluate_only:
            train = self.train_set(run)
            if self.config.train.batch > len(train):
                raise MaeBenchError(
                    f"train.batch: {self.config.train.batch} is more than the {len(train)} training images"
                )
            shown = len(train[(0, 0)]["target"]["labels"])
            lines.append(
                f"data {data.name}: {len(train):,} training images with {train.source.objects:,} objects; "
                f"the first image, jittered, shows {shown}"
            )
        val = val_dataset(data, run.data_root)
        shape = tuple(val[0]["image"].shape)
        lines.append(
            f"data {data.name}: {len(val):,} validation images, {len(val.source.classes)} categories; the "
            f"first image is tested at {shape[1]} x {shape[2]} on a canvas of "
            f"{data.image_size[0]} x {data.image_size[1]}"
        )
        backbone = self.backbone(run)
        lines.append(backbone.report.summary())
        model = self.model(backbone, run)
        weights = sum(param.numel() for param in model.parameters())
        stages = "three box heads in a row" if self.config.model.heads.cascade else "one box head"
        lines.append(f"detector: {weights / 1e6:.1f} million weights, {stages}")
        different = other_size(run, backbone, self.config.published_arch)
        return [*lines, *([f"note: {different}"] if different else [])]

    def finder(self, run: Run) -> Finder:
        """What finds objects in an image with the weights that a finished run reported."""
        from downstream.detection.evaluation import finder

        return finder(self, run)
