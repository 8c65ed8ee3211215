"""Object detection and instance segmentation trained by detectron2, as a task of the suite."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from downstream.detection.detectron2.settings import Detectron2Config
from downstream.detection.task import Detection

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from downstream.detection.detector import Detector
    from downstream.detection.detectron2.config import Facts
    from downstream.detection.evaluation import Finder
    from mae_bench.backbones import Backbone
    from mae_bench.plan import Plan
    from mae_bench.run import Run


class Detectron2(Detection):
    """Trains detectron2's Mask R-CNN over our backbone with detectron2's loaders and trainer; our judge."""

    engine: ClassVar[str | None] = "detectron2"
    Config: ClassVar[type[Detectron2Config]] = Detectron2Config
    config: Detectron2Config

    def ready(self) -> None:
        """Import detectron2."""
        from downstream.detection.detectron2 import presence

        presence.ready()

    # ------------------------------------------------------------ the model

    def model(self, backbone: Backbone | None, run: Run) -> Any:
        """detectron2's model over the backbone, with the weights of `detector` where one is given."""
        return self.built(backbone, run)[0]

    def built(self, backbone: Backbone | None, run: Run) -> tuple[nn.Module, DictConfig]:
        """The model, on the CPU, and the part of the configuration that it is made by."""
        from detectron2.config import instantiate
        from omegaconf import OmegaConf

        from downstream.detection.detectron2 import config, presence, weights
        from downstream.detection.detectron2.model import supplying
        from downstream.detection.trunk import Trunk
        from mae_bench.train import seed_everything

        seed_everything(self.config.seed)  # its heads are drawn
        detector = super().model(backbone, run)
        facts = self._facts(detector, run)
        lazy = OmegaConf.create({"model": config.model(self.config, facts)}, flags={"allow_objects": True})
        trunk = Trunk(detector.body, detector.pyramid, detector.blocks, list(facts.strides))
        with supplying(trunk), presence.quiet():
            model = instantiate(lazy.model)
        if self.config.detector is not None:
            weights.take(model, detector)
        return model, lazy

    def _facts(self, detector: Detector, run: Run) -> Facts:
        from downstream.detection.detectron2.config import Facts

        assert self.config.backbone is not None  # needs_backbone
        strides: Any = detector.rpn.anchor_generator.strides
        return Facts(
            spec=self.config.backbone,
            classes=len(self.source(run).classes),
            strides=strides,
            mean=detector.mean,
            std=detector.std,
            shared_norms=run.world > 1 and run.device.type == "cuda",
        )

    # ------------------------------------------------------------ training

    def run(self, run: Run) -> dict[str, float]:
        """Train and judge the last step's weights, or only judge a given detector."""
        from downstream.detection.detectron2 import training
        from downstream.detection.detectron2.hooks import FOLDER

        self._record_engine(run)
        if self.config.evaluate_only:
            return self.evaluate(training.prepared(self.model(self.backbone(run), run), run), run)
        plan = self._plan(run)
        model, lazy = self.built(self.backbone(run), run)
        self._complete(lazy, plan, run)
        if run.is_main:
            self._write(lazy, run)
        self._record_training(plan, run)
        evaluate = partial(self.evaluate, run=run)
        handling = self.config.train
        work = training.Work(model, lazy, plan, handling, handling.keep_checkpoints, evaluate)
        (run.folder / FOLDER).mkdir(exist_ok=True)
        return training.train(work, run)

    def _plan(self, run: Run) -> Plan:
        from downstream.detection.detectron2.training import whole_batch
        from mae_bench.plan import Plan

        settings = self.config.train
        share = whole_batch(settings.batch, settings.micro_batch, run.world)
        return Plan.of(self.config, len(self.train_set(run)), share, run.world)

    def _complete(self, lazy: DictConfig, plan: Plan, run: Run) -> None:
        """Add loaders, evaluator, optimiser and schedule to a configuration that has the model."""
        from detectron2.config import LazyCall as Lazy
        from detectron2.evaluation import COCOEvaluator

        from downstream.detection.detectron2 import data, schedule
        from downstream.detection.detectron2.hooks import FOLDER

        settings = self.config
        lazy.dataloader = {
            "train": data.train_loader(
                settings.data,
                self.train_set(run).source,
                run.data_root,
                batch=plan.batch,
                seed=settings.seed,
                workers=self._workers(run),
            ),
            "test": self._test_loader(run),
            "evaluator": Lazy(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
        }
        lazy.optimizer = schedule.optimizer(settings, plan)
        lazy.lr_multiplier = schedule.lr_multiplier(settings, plan)
        lazy.train = schedule.training(settings, plan, run.folder / FOLDER, run.precision, run.device.type)

    def _write(self, lazy: DictConfig, run: Run) -> None:
        from downstream.detection.detectron2.config import CONFIG_FILE, write

        write(lazy, run.folder / CONFIG_FILE, _head(self.config, run.precision))

    def _workers(self, run: Run) -> int:
        from mae_bench.data.loaders import loader_processes

        return loader_processes(self.config.data.workers, self.train_set(run), run.world)

    def _test_loader(self, run: Run) -> DictConfig:
        from downstream.detection.dataset import val_dataset
        from downstream.detection.detectron2.data import test_loader
        from mae_bench.data.loaders import loader_processes

        images = val_dataset(self.config.data, run.data_root)
        workers = loader_processes(self.config.data.workers, images, run.world)
        return test_loader(self.config.data, images.source, run.data_root, workers)

    # ------------------------------------------------------------ judging

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """Box and mask AP of what detectron2 finds in the validation images; left in `detections.json`."""
        from detectron2.config import instantiate

        from downstream.detection.detectron2.inference import detect

        source = self.source(run)
        self.record_data(source, run)
        return self.scored(source, detect(model, instantiate(self._test_loader(run)), source, run), run)

    def finder(self, run: Run) -> Finder:
        """What finds objects in an image with the weights that a finished run reported."""
        from detectron2.config import instantiate

        from downstream.detection.detectron2.inference import find
        from downstream.detection.evaluation import trained

        model = trained(self, run)
        mapper = instantiate(self._test_loader(run).mapper)
        categories = self.source(run).categories
        return lambda image: find(model, mapper, categories, image, run)

    def check(self, run: Run) -> list[str]:
        """As for our own engine; the batch fits the processes."""
        lines = super().check(run)
        if not self.config.evaluate_only:
            self._plan(run)
        return [*lines, engine_line()]

    # ------------------------------------------------------------ the record

    def _record_engine(self, run: Run) -> None:
        from downstream.detection.detectron2 import presence

        known = presence.versions()
        run.record(
            versions=known,
            details={"engine": {"name": "detectron2", "versions": known, "compiled": presence.compiled()}},
        )

    def _record_training(self, plan: Plan, run: Run) -> None:
        train = self.train_set(run)
        run.record(
            dataset={
                "name": self.config.data.name,
                "fingerprint": train.source.fingerprint(),
                "train_images": len(train),
                "classes": len(train.source.classes),
            },
            steps=plan.total_steps,
            images_seen=plan.total_steps * plan.batch,
            epochs=round(plan.total_steps / plan.steps_per_epoch, 4),
            batch=plan.batch,
            micro_batch=plan.micro_batch,
            selection="last step",
        )


def engine_line() -> str:
    """What a check says of detectron2."""
    from downstream.detection.detectron2 import presence

    known = presence.versions()
    built = "compiled" if presence.compiled() else "not compiled, which it need not be"
    return f"engine: detectron2 {known['detectron2']} over fvcore {known['fvcore']}, {built}"


def _head(config: Detectron2Config, precision: str) -> str:
    """The comment above the configuration."""
    return (
        f"{config.recipe} with {config.backbone}, as mae-bench gave it to detectron2 (LazyConfig).\n"
        "By detectron2's own tools, where mae-bench is installed:\n"
        "  python tools/lazyconfig_train_net.py --config-file THIS_FILE\n"
        f"mae-bench computed in {precision}; detectron2's tools compute in fp16 where train.amp.enabled is "
        "true."
    )
