"""Detection by a config file of MMDetection's own, with our backbone, data and judge, as a task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from downstream.detection.judged import JudgedDetection
from downstream.detection.mmdet.native_settings import NativeConfig, path_of
from mae_bench.adapter import Metric
from mae_bench.errors import MaeBenchError
from mae_bench.published import notice_other_size

if TYPE_CHECKING:
    from torch import nn

    from downstream.detection.evaluation import Finder
    from downstream.detection.source import CocoSource
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class MMDetNative(JudgedDetection[NativeConfig]):
    """Trains what a config file of MMDetection says; our backbone, dataset and judge in it.

    A detector without masks is judged by its boxes alone.
    """

    engine: ClassVar[str | None] = "mmdet"
    Config: ClassVar[type[NativeConfig]] = NativeConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        name: replace(metric, optional=metric.optional or name.startswith("mask_"))
        for name, metric in JudgedDetection.metrics.items()
    }

    @property
    def data(self) -> Any:
        """The dataset."""
        return self.config.data

    def ready(self) -> None:
        """Import MMDetection, and ask for the file."""
        from downstream.openmmlab.presence import ready

        ready("mmdet")
        if self.config.native is None:
            raise MaeBenchError(
                "native: give a config of MMDetection's own: native=FILE.py, or native=mmdet::NAME for one "
                "that comes with it (mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py)"
            )

    def run(self, run: Run) -> dict[str, float]:
        """Train as the file says and judge the last weights."""
        from downstream.detection.mmdet.running import CONFIG_FILE, built
        from downstream.openmmlab.native import engine_facts, write_config
        from downstream.openmmlab.training import fit

        run.record(**engine_facts("mmdet"))
        backbone = self._backbone(run)
        notice_other_size(run, backbone, self.config.published_arch)
        train = self._train_source(run)
        native = self.native(backbone, run)
        if run.is_main:
            write_config(native, run.folder / CONFIG_FILE, self._head())
        model = built(native, backbone, run)
        run.record(precision=_precision(native), dataset=self._facts(train, self.source(run)))

        def evaluate(trained: nn.Module) -> dict[str, float]:
            from downstream.detection.mmdet.inference import detect

            source = self.source(run)
            metrics = self.scored(source, detect(native, trained, source, run), run)
            run.record(selection="last step (no step was chosen by its AP)")
            return metrics

        every = self.config.train.evaluate_every_epochs
        metrics = fit(native, model, run, self.config.train, evaluate, evaluate_every_epochs=every)
        return metrics

    def _backbone(self, run: Run) -> Backbone:
        return run.backbone(drop_path=self.config.drop_path, channels=3)

    def _train_source(self, run: Run) -> CocoSource:
        from downstream.detection.dataset import open_split

        return open_split(self.data, "train", run.data_root)

    def native(self, backbone: Backbone, run: Run) -> Any:
        """The file with the options, our backbone and our data, as a `mmengine.Config`.

        Raises:
            MaeBenchError: see `openmmlab.native.read` and `adapted.adapt`.
        """
        from downstream.detection.mmdet import adapted, registered  # noqa: F401
        from downstream.detection.mmdet.running import CONFIG_FILE
        from downstream.openmmlab.native import need, read, same_as_before, text_of
        from downstream.openmmlab.runner import undisturbed
        from mae_bench.settings import flatten

        assert self.config.native is not None  # ready
        path = path_of(self.config.native)
        with undisturbed():
            native = read(path, flatten(self.config.options))
        need(native, adapted.NEEDED, path)
        fingerprint = hashlib.sha256(text_of(native).encode()).hexdigest()
        self._made_from = same_as_before(run.folder / CONFIG_FILE, fingerprint, self.config.native)
        adapted.adapt(native, self.config, backbone, self.source(run).classes, run.data_root)
        return native

    def kinds(self, run: Run) -> Sequence[str]:
        """Boxes, and masks where the file's detector has them."""
        from downstream.detection.mmdet.adapted import has_masks
        from downstream.detection.mmdet.running import opened

        return ("box", "mask") if has_masks(opened(run)) else ("box",)

    def finder(self, run: Run) -> Finder:
        """What finds objects in an image with the weights that a finished run reported."""
        from downstream.detection.mmdet.running import finder

        return finder(run, self._backbone(run), self.source(run).categories)

    def check(self, run: Run) -> list[str]:
        """Both splits are read, and the file's model is built over the backbone."""
        from downstream.detection.mmdet.running import built
        from downstream.openmmlab.native import engine_line

        data, train, val = self.config.data, self._train_source(run), self.source(run)
        backbone = self._backbone(run)
        model = built(self.native(backbone, run), backbone, run)
        weights = sum(param.numel() for param in model.parameters())
        return [
            f"data {data.name}: {len(train):,} training and {len(val):,} validation images, "
            f"{len(val.classes)} categories",
            backbone.report.summary(),
            f"detector: {type(model).__name__} of {self.config.native}, {weights / 1e6:.1f} million weights",
            engine_line("mmdet"),
        ]

    def _facts(self, train: CocoSource, val: CocoSource) -> dict[str, Any]:
        from mae_bench.data import joint_fingerprint

        return {
            "name": self.config.data.name,
            "fingerprint": joint_fingerprint(train, val),
            "train_images": len(train),
            "val_images": len(val),
            "classes": len(val.classes),
        }

    def _head(self) -> str:
        """The comment above the native config."""
        return (
            f"{self._made_from}\nmae-bench put the backbone {self.config.backbone} and the dataset "
            f"{self.config.data.name} in.\nFor MMDetection's own tools, where mae-bench is installed."
        )


def _precision(native: Any) -> str:
    """In what the file has MMDetection train."""
    wrapper = native.optim_wrapper
    if wrapper.get("type") != "AmpOptimWrapper":
        return "fp32"
    return "bf16" if "bfloat16" in str(wrapper.get("dtype")) else "fp16"
