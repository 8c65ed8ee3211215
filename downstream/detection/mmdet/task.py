"""Detection and instance segmentation on MMDetection: its detector and Runner, our backbone and judge."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar

from downstream.detection.mmdet.settings import MMDetConfig
from downstream.detection.settings import DetectionConfig
from downstream.detection.task import Detection
from mae_bench.published import notice_other_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from downstream.detection.evaluation import Finder
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class MMDet(Detection):
    """Trains MMDetection's Mask R-CNN with its pipelines and its Runner; our recipe, backbone and judge."""

    engine: ClassVar[str | None] = "mmdet"
    Config: ClassVar[type[DetectionConfig]] = MMDetConfig

    def ready(self) -> None:
        """Import MMDetection."""
        from downstream.openmmlab.presence import ready

        ready("mmdet")

    def run(self, run: Run) -> dict[str, float]:
        """Train and judge the last step's weights, or only judge a given detector."""
        from downstream.detection.mmdet.running import CONFIG_FILE, built
        from downstream.openmmlab.native import engine_facts, write_config
        from downstream.openmmlab.training import fit
        from mae_bench import precision

        run.record(**engine_facts("mmdet"))
        backbone = self.backbone(run)
        given = self._given(backbone, run)
        if given is None:
            notice_other_size(run, backbone, self.config.published_arch)
        native = self.native(backbone, run)
        if run.is_main:
            write_config(native, run.folder / CONFIG_FILE, _head(self.config))
        model = built(native, backbone, run)
        if given is not None:
            model.load_state_dict(given)

        def evaluate(trained: nn.Module) -> dict[str, float]:
            return self._evaluated(native, trained, run)

        if self.config.evaluate_only:
            precision.suit_attention(model, run.device, run.precision)
            return evaluate(model)
        run.record(dataset={"train_images": len(self.train_set(run))})
        every = self.config.train.evaluate_every_epochs
        return fit(native, model, run, self.config.train, evaluate, evaluate_every_epochs=every)

    def _given(self, backbone: Backbone, run: Run) -> dict[str, Tensor] | None:
        """The weights of `detector` under MMDetection's names, if there is one."""
        from downstream.detection.mmdet.weights import to_mmdet

        if self.config.detector is None:
            return None
        # The detector changes the backbone that it stands on, and MMDetection's needs one as it was loaded.
        return to_mmdet(self.model(copy.deepcopy(backbone), run).state_dict())

    def native(self, backbone: Backbone, run: Run) -> Any:
        """The recipe as a `mmengine.Config`; nothing of the backbone is changed.

        Raises:
            MaeBenchError: a batch that does not divide; a schedule that mmengine lacks; see `trunk.plan`.
        """
        from mmengine.config import Config

        from downstream.detection.dataset import val_dataset
        from downstream.detection.mmdet import registered  # noqa: F401
        from downstream.detection.mmdet.config import whole
        from downstream.openmmlab.recipe import loader_workers, plan

        images = val_dataset(self.config.data, run.data_root)
        planned = None
        if not self.config.evaluate_only:
            planned = plan(self.config, len(self.train_set(run)), run.world)
        return Config(
            whole(
                self.config,
                backbone,
                images.source.classes,
                data_root=run.data_root,
                plan=planned,
                workers=loader_workers(self.config, images, run.world),
                precision=run.precision,
                device=run.device.type,
            )
        )

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """Box and mask AP of a model of MMDetection on the validation images, see `running.opened`."""
        from downstream.detection.mmdet.running import opened

        return self._evaluated(opened(run), model, run)

    def _evaluated(self, native: Any, model: nn.Module, run: Run) -> dict[str, float]:
        from downstream.detection.mmdet.inference import detect

        source = self.source(run)
        self.record_data(source, run)
        return self.scored(source, detect(native, model, source, run, run.autocast), run)

    def finder(self, run: Run) -> Finder:
        """What finds objects in an image with the weights that a finished run reported."""
        from downstream.detection.mmdet.running import finder

        return finder(run, self.backbone(run), self.source(run).categories, run.autocast)

    def check(self, run: Run) -> list[str]:
        """As for our own engine; and the config of MMDetection is made, and a model by it."""
        from downstream.detection.mmdet.running import built
        from downstream.openmmlab.native import engine_line

        lines = super().check(run)
        backbone = self.backbone(run)
        built(self.native(backbone, run), backbone, run)
        return [*lines, engine_line("mmdet")]


def _head(config: DetectionConfig) -> str:
    """The comment above the native config."""
    return (
        f"{config.recipe} with {config.backbone}, as mae-bench gave it to MMDetection.\n"
        "For MMDetection's own tools, where mae-bench is installed."
    )
