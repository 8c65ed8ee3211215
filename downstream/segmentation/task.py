"""Semantic segmentation with UperNet or a linear head, as a task of the suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from downstream.segmentation.settings import SegmentationConfig
from mae_bench.adapter import Batch, Metric, TrainedAdapter
from mae_bench.errors import MaeBenchError
from mae_bench.published import notice_departures, notice_other_size, other_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downstream.segmentation.dataset import SegmentationDataset
    from downstream.segmentation.outcomes import ImageConfusions
    from downstream.segmentation.segmenter import Segmenter
    from mae_bench.backbones import Backbone
    from mae_bench.outcomes import Outcomes
    from mae_bench.run import Run
    from mae_bench.survey import Survey

PREDICTIONS = "predictions"
PICTURE_FILE = "segmentation.png"


class Segmentation(TrainedAdapter[SegmentationConfig]):
    """Trains a head with the backbone, or on the frozen one; mIoU of the last step's weights."""

    task = "segmentation"
    engine: ClassVar[str | None] = "native"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "miou": Metric("%", label="mean IoU"),
        "macc": Metric("%", label="mean accuracy of classes"),
        "aacc": Metric("%", label="pixel accuracy"),
    }
    Config: ClassVar[type[SegmentationConfig]] = SegmentationConfig

    def backbone(self, run: Run) -> Backbone:
        """The backbone at the size of its weights: positions are resampled by the segmenter."""
        return run.backbone(drop_path=self.config.drop_path, channels=self.config.data.channels)

    def model(self, backbone: Backbone | None, run: Run) -> Segmenter:
        """The head over the backbone."""
        from downstream.segmentation.segmenter import build

        assert backbone is not None  # needs_backbone
        notice_other_size(run, backbone, self.config.published_arch)
        height, width = self.config.data.image_size
        classes = self.val_set(run).source.classes
        self._statistics = backbone.mean, backbone.std
        model = build(backbone, len(classes), self.config.model, (height, width))
        notice_departures(run, model.departures)
        return model

    def train_set(self, run: Run) -> SegmentationDataset:
        """The training images, cut, distorted and padded with the mean pixel of `model`'s backbone."""
        from downstream.segmentation.dataset import train_dataset

        mean, _ = self._statistics
        return train_dataset(self.config.data, run.data_root, self.config.seed, mean=mean)

    def val_set(self, run: Run) -> SegmentationDataset:
        """The validation images as they are."""
        from downstream.segmentation.dataset import val_dataset

        return val_dataset(self.config.data, run.data_root)

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the head, and of the auxiliary head with its weight."""
        from downstream.segmentation.segmenter import loss
        from mae_bench.augment import normalise

        logits = model(normalise(batch["image"], *self._statistics))
        return loss(logits, batch["target"], self.config.model.auxiliary_weight)

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """mIoU, mean and pixel accuracy on the validation images; predictions are left as label maps."""
        from downstream.segmentation.evaluation import label_all
        from downstream.segmentation.segmenter import Segmenter

        assert isinstance(model, Segmenter)
        images = self.val_set(run)
        found = label_all(model, images, self.config.data, run, run.folder / PREDICTIONS)
        return self._judged(found, images, run)

    def _judged(self, found: ImageConfusions, images: SegmentationDataset, run: Run) -> dict[str, float]:
        """The metrics of what was found in all images; put on record with the classes, and kept by image."""
        from downstream.segmentation.scoring import Confusion

        self._record(images, run)
        confusion = Confusion.of(found)
        run.record(details={"per_class": confusion.per_class(images.source.classes)})
        run.keep({"": found})
        return confusion.metrics()

    def _record(self, images: SegmentationDataset, run: Run) -> None:
        from downstream.segmentation.dataset import open_split
        from mae_bench.data import joint_fingerprint

        train = open_split(self.config.data, "train", run.data_root)
        run.record(
            dataset={
                "name": self.config.data.name,
                "fingerprint": joint_fingerprint(train, images.source),
                "val_images": len(images),
                "classes": len(images.source.classes),
            },
            selection="last step (no step was chosen by its mIoU)",
        )

    def run(self, run: Run) -> dict[str, float]:
        """Train, evaluate the last step, return its metrics; note what batch norm saw."""
        metrics = super().run(run)
        self._note_batch_norm(run)
        return metrics

    def _note_batch_norm(self, run: Run) -> None:
        """Say so where batch norm took its statistics from less than the recipe's batch."""
        micro = run.fact("micro_batch")
        together = micro * run.world
        run.record(details={"batch_norm_images": together})
        batch = run.fact("batch")
        if together != batch:
            run.record(
                notes=[
                    f"Batch norm took its statistics from {together} images at a time, not from the batch of "
                    f"{batch}."
                ]
            )

    def survey(self, data_root: Path) -> Survey:
        """Images and label maps of both splits, and what is wrong with them."""
        from downstream.segmentation.surveying import survey

        return survey(self.config.data, data_root)

    def judge(self, run: Run) -> dict[str, float]:
        """The metrics of the label maps in the run's folder."""
        from downstream.segmentation.scoring import score_saved

        return score_saved(self.val_set(run).source, run.folder / PREDICTIONS).metrics()

    @classmethod
    def outcomes(cls, folder: Path) -> Mapping[str, Outcomes]:
        """Which class was taken for which in every image."""
        from downstream.segmentation.outcomes import ImageConfusions
        from mae_bench.outcomes import read

        return read(folder, (ImageConfusions,))

    def check(self, run: Run) -> list[str]:
        """Both splits are listed, one pair of each is read, the segmenter is built and its weights loaded."""
        backbone = self.backbone(run)
        model = self.model(backbone, run)
        data, batch = self.config.data, self.config.train.batch
        lines = []
        for images, word in ((self.train_set(run), "training"), (self.val_set(run), "validation")):
            if word == "training" and batch > len(images):
                raise MaeBenchError(f"train.batch: {batch} is more than the {len(images)} training images")
            height, width = images[0]["target"].shape
            lines.append(
                f"data {data.name}: {len(images):,} {word} images with labels of "
                f"{len(images.source.classes)} classes; the first one comes as {height} x {width}"
            )
        weights = sum(param.numel() for param in model.parameters())
        lines.append(backbone.report.summary())
        lines.append(f"segmenter: {weights / 1e6:.1f} million weights, {self.config.model.head} head")
        different = other_size(run, backbone, self.config.published_arch)
        return [*lines, *([f"note: {different}"] if different else [])]

    def visualize(self, run: Run, images: list[str], count: int) -> list[str]:
        """Predictions beside truth for validation images, or predictions alone on files of one's own."""
        from downstream.segmentation.evaluation import Labeller, draw_files, draw_saved, load_trained

        path = run.folder / PICTURE_FILE
        source = self.val_set(run).source
        if not images:
            return [str(draw_saved(source, run.folder / PREDICTIONS, count, path))]
        label = Labeller(load_trained(self.model(self.backbone(run), run), run), self.config.data, run)
        return [str(draw_files(label, images, source.class_list, path, self.config.data.channels))]
