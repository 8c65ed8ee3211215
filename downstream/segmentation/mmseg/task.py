"""Semantic segmentation on mmsegmentation: its UPerNet and Runner, our backbone, recipe and judge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from downstream.segmentation.mmseg.settings import MMSegConfig
from downstream.segmentation.settings import SegmentationConfig
from downstream.segmentation.task import PICTURE_FILE, PREDICTIONS, Segmentation
from mae_bench.published import notice_departures, notice_other_size

if TYPE_CHECKING:
    from torch import nn

    from mae_bench.backbones import Backbone
    from mae_bench.run import Run

CONFIG_FILE = "mmseg_config.py"


class MMSeg(Segmentation):
    """Trains mmsegmentation's UPerNet by its Runner on a recipe of ours; mIoU by our judge."""

    engine = "mmseg"
    Config: ClassVar[type[SegmentationConfig]] = MMSegConfig

    def ready(self) -> None:
        """mmsegmentation is there, with operators."""
        from downstream.openmmlab.presence import ready

        ready("mmseg")

    def run(self, run: Run) -> dict[str, float]:
        """Train, evaluate the last step, return its metrics; note what batch norm saw."""
        from downstream.openmmlab.native import engine_facts, write_config
        from downstream.openmmlab.training import fit

        run.record(**engine_facts("mmseg"))
        backbone = self.backbone(run)
        native = self.native(backbone, run)
        if run.is_main:
            write_config(native, run.folder / CONFIG_FILE, self.head())
        model = self.engine_model(native, backbone, run)
        every = self.config.train.evaluate_every_epochs

        def evaluate(trained: nn.Module) -> dict[str, float]:
            return self.evaluate_native(native, trained, run)

        run.record(dataset={"train_images": len(self.train_set(run))})
        metrics = fit(native, model, run, self.config.train, evaluate, evaluate_every_epochs=every)
        self._note_batch_norm(run)
        return metrics

    def native(self, backbone: Backbone, run: Run) -> Any:
        """The recipe as a `mmengine.Config` of mmsegmentation."""
        from mmengine.config import Config

        from downstream.openmmlab.recipe import loader_workers, plan
        from downstream.segmentation.mmseg import registered  # noqa: F401
        from downstream.segmentation.mmseg.config import whole

        self._statistics = backbone.mean, backbone.std
        train = self.train_set(run)
        return Config(
            whole(
                cast(MMSegConfig, self.config),
                backbone,
                train.source,
                self.val_set(run).source,
                plan(self.config, len(train), run.world),
                workers=loader_workers(self.config, train, run.world),
                precision=run.precision,
                device=run.device.type,
            )
        )

    def head(self) -> str:
        """What stands at the head of the written config."""
        return (
            f"The recipe {self.config.recipe} of mae-bench in mmsegmentation's own words, as one run carried "
            "it out.\nIts evaluator is mmsegmentation's; the run itself was judged by mae-bench.\n"
            "With mae-bench installed, mmsegmentation's tools/train.py and tools/test.py take it."
        )

    def engine_model(self, native: Any, backbone: Backbone, run: Run) -> nn.Module:
        """mmsegmentation's model with `backbone` in it."""
        from downstream.openmmlab.building import build_model
        from downstream.openmmlab.modules import supplying

        notice_other_size(run, backbone, self.config.published_arch)
        with supplying(backbone):
            model = build_model(native, seed=self.config.seed)
        notice_departures(run, model.backbone.departures)  # type: ignore[union-attr, arg-type]
        return model

    def evaluate_native(self, native: Any, model: nn.Module, run: Run) -> dict[str, float]:
        """mIoU, mean and pixel accuracy on the validation images; predictions are left as label maps."""
        from downstream.segmentation.mmseg.inference import label_all, predictor

        images = self.val_set(run)
        predict = predictor(native, model, run, self.test_precision(run))
        found = label_all(native, predict, images, self.config.data, run, run.folder / PREDICTIONS)
        return self._judged(found, images, run)

    def check(self, run: Run) -> list[str]:
        """Both splits are listed, one pair of each is read, the engine's model is built over the backbone."""
        from downstream.openmmlab.native import engine_line

        backbone = self.backbone(run)
        native = self.native(backbone, run)
        lines = []
        for images, word in ((self.train_set(run), "training"), (self.val_set(run), "validation")):
            height, width = images.source.read(0)[1].shape
            lines.append(
                f"data {self.config.data.name}: {len(images):,} {word} images with labels of "
                f"{len(images.source.classes)} classes; the first one is {height} x {width}"
            )
        model = self.engine_model(native, backbone, run)
        weights = sum(param.numel() for param in model.parameters())
        lines.append(backbone.report.summary())
        name = type(model).__name__
        return [*lines, f"{name}: {weights / 1e6:.1f} million weights", engine_line("mmseg")]

    def test_precision(self, run: Run) -> str:
        """In which images are tested."""
        return run.precision

    def visualize(self, run: Run, images: list[str], count: int) -> list[str]:
        """Predictions beside truth for validation images, or predictions alone on files of one's own."""
        if not images:
            return super().visualize(run, images, count)
        from downstream.openmmlab.building import load_trained
        from downstream.segmentation.evaluation import draw_files
        from downstream.segmentation.mmseg.inference import labeller, predictor

        self.ready()
        backbone = self.backbone(run)
        native = self.native(backbone, run)
        model = load_trained(self.engine_model(native, backbone, run), run)
        predict = predictor(native, model, run, self.test_precision(run))
        label, classes = labeller(native, predict), self.val_set(run).source.class_list
        return [str(draw_files(label, images, classes, run.folder / PICTURE_FILE))]
