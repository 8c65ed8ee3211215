"""Object detection and instance segmentation with Mask R-CNN, as a task of the suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from downstream.detection.settings import DetectionConfig
from mae_bench.adapter import Batch, Metric, TrainedAdapter
from mae_bench.errors import MaeBenchError
from mae_bench.published import notice_departures, notice_other_size, other_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downstream.detection.dataset import CocoSource, DetectionDataset
    from downstream.detection.detector import Detector
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run

DETECTIONS_FILE = "detections.json"
PICTURE_FILE = "detections.png"


def _metrics() -> dict[str, Metric]:
    """The twelve numbers of COCO for boxes, and for masks; both headlines first."""
    named = {
        "ap": "AP",
        "ap50": "AP at IoU 0.5",
        "ap75": "AP at IoU 0.75",
        "ap_small": "AP of small objects",
        "ap_medium": "AP of medium objects",
        "ap_large": "AP of large objects",
        "ar1": "AR with 1 detection",
        "ar10": "AR with 10 detections",
        "ar100": "AR with 100 detections",
        "ar_small": "AR of small objects",
        "ar_medium": "AR of medium objects",
        "ar_large": "AR of large objects",
    }
    every = {
        f"{kind}_{name}": Metric(
            "%", label=f"{kind} {label}", optional=name.endswith(("small", "medium", "large"))
        )
        for kind in ("box", "mask")
        for name, label in named.items()
    }
    first = {name: every[name] for name in ("box_ap", "mask_ap")}
    return first | every


def _headlines_first(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in Detection.metrics if name in metrics}


class Detection(TrainedAdapter[DetectionConfig]):
    """Trains Mask R-CNN end to end; box and mask AP of the last step's weights (ViTDet, arXiv:2203.16527)."""

    task = "detection"
    metrics: ClassVar[Mapping[str, Metric]] = _metrics()
    Config: ClassVar[type[DetectionConfig]] = DetectionConfig

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

    def source(self, run: Run) -> CocoSource:
        """The validation split."""
        from downstream.detection.dataset import open_split

        return open_split(self.config.data, "val", run.data_root)

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
        from downstream.detection.evaluation import detect, score

        images = val_dataset(self.config.data, run.data_root)
        self._record(images, run)
        detections = detect(model, images, self.config.data, run)
        scores = score(images.source, detections, run)
        run.record(details={"per_class": scores.per_class})
        return _headlines_first(scores.metrics)

    def _record(self, images: DetectionDataset, run: Run) -> None:
        facts: dict[str, Any] = {
            "name": self.config.data.name,
            "val_images": len(images),
            "classes": len(images.source.classes),
        }
        if self.config.evaluate_only:
            run.record(dataset={**facts, "fingerprint": images.source.fingerprint(), "train_images": 0})
            run.record(selection=f"as given: {self.config.detector}")
        else:
            from downstream.detection.dataset import open_split
            from mae_bench.data import joint_fingerprint

            train = open_split(self.config.data, "train", run.data_root)
            run.record(dataset={**facts, "fingerprint": joint_fingerprint(train, images.source)})
            run.record(selection="last step (no step was chosen by its AP)")

    def judge(self, run: Run) -> dict[str, float]:
        """AP of the detections in the run's folder."""
        from downstream.detection.judge import judge_file

        path = run.folder / DETECTIONS_FILE
        if not path.exists():
            raise MaeBenchError(f"{path}: there is no such file; a run writes it when it is evaluated")
        return _headlines_first(judge_file(self.source(run).annotation_file, path).metrics)

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

    def visualize(self, run: Run, images: list[str], count: int) -> list[str]:
        """Detections beside ground truth for validation images; detections alone for given files."""
        from downstream.detection.evaluation import draw_files, draw_saved

        if images:
            return [str(draw_files(self, run, images, run.folder / PICTURE_FILE))]
        return [
            str(draw_saved(self.source(run), run.folder / DETECTIONS_FILE, count, run.folder / PICTURE_FILE))
        ]
