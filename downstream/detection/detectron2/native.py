"""Detection by a configuration file of detectron2's own, with our backbone, data and judge, as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from downstream.detection.detectron2.native_settings import NativeConfig
from downstream.detection.detectron2.task import Detectron2
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from mae_bench.backbones import Backbone
    from mae_bench.plan import Plan
    from mae_bench.run import Run


class Detectron2Native(Detectron2):
    """Trains what a configuration file of detectron2 says; our backbone, dataset and judge in it."""

    Config: ClassVar[Any] = NativeConfig
    config: Any

    def ready(self) -> None:
        """Import detectron2, and ask for the file."""
        super().ready()
        if self.config.native is None:
            raise MaeBenchError(
                "native: give detectron2's own configuration, a LazyConfig: native=FILE.py or FILE.yaml"
            )

    def lazy(self, run: Run) -> DictConfig:
        """The file with the options and the data of the recipe, without the backbone."""
        from pathlib import Path

        from downstream.detection.detectron2 import data, native_config, presence

        with presence.quiet():
            config = native_config.read(Path(self.config.native))
        native_config.lay_over(config, self.config.options)
        own, train, val = self.config.data, self.train_set(run).source, self.source(run)
        native_config.use_data(
            config,
            data.records(own.train, own, train, run.data_root, filter_empty=own.filter_empty),
            data.records(own.val, own, val, run.data_root, filter_empty=False),
            size=len(train),
            seed=self.config.seed,
            workers=own.workers,
        )
        return config

    def built(self, backbone: Backbone | None, run: Run) -> tuple[nn.Module, DictConfig]:
        """The file's model over the backbone, on the CPU, and the configuration."""
        from downstream.detection.detectron2 import maps, native_config, presence
        from downstream.detection.detectron2.model import supplying
        from downstream.detection.detectron2.training import made
        from mae_bench.published import notice_departures, notice_other_size
        from mae_bench.train import seed_everything

        seed_everything(self.config.seed)  # its heads are drawn
        assert backbone is not None  # needs_backbone
        notice_other_size(run, backbone, self.config.published_arch)
        config = self.lazy(run)
        kind = native_config.swap(
            config,
            self.config,
            spec=self.config.backbone,
            classes=len(self.source(run).classes),
            mean=backbone.mean,
            std=backbone.std,
        )
        native_config.follow_depth(config, backbone.depth)
        settings = {"attention": self.config.attention, "checkpointing": self.config.checkpointing}
        trunk = maps.trunk_of(backbone, settings, self.config.data.image_size, kind)
        if trunk.strides[:4] != native_config.STRIDES:
            shown = ", ".join(f"{stride:g}" for stride in trunk.strides[:4])
            raise MaeBenchError(
                f"{self.config.backbone} has maps of strides {shown}; a configuration of detectron2 pools "
                "from strides 4, 8, 16 and 32"
            )
        notice_departures(run, list(getattr(trunk.body, "departures", ())))
        with supplying(trunk), presence.quiet():
            model = made(config, "model")
        model.backbone.register_forward_hook(_in_float32)
        return model, config

    def _plan(self, run: Run) -> Plan:
        from downstream.detection.detectron2.training import whole_batch
        from mae_bench.data import steps_per_epoch
        from mae_bench.plan import Plan

        config = self.lazy(run)
        batch = int(config.dataloader.train.total_batch_size)
        share = whole_batch(batch, "auto", run.world)
        return Plan(
            steps_per_epoch=steps_per_epoch(len(self.train_set(run)), batch),
            total_steps=int(config.train.max_iter),
            batch=batch,
            micro_batch=share,
            accumulate=1,
            peak_lr=float(config.optimizer.get("lr", 0.0)),
            warmup_steps=0,
        )

    def check(self, run: Run) -> list[str]:
        """Both splits are read, and the file's model is built over the backbone, with the file's batch."""
        from downstream.detection.detectron2.task import engine_line

        train, val = self.train_set(run).source, self.source(run)
        backbone = self.backbone(run)
        model, plan = self.model(backbone, run), self._plan(run)
        weights = sum(param.numel() for param in model.parameters())
        return [
            f"data {self.config.data.name}: {len(train):,} training images with {train.objects:,} objects, "
            f"{len(val):,} validation images, {len(val.classes)} categories",
            backbone.report.summary(),
            f"file {self.config.native}: {weights / 1e6:.1f} million weights, {plan.total_steps:,} steps of "
            f"{plan.batch} images",
            engine_line(),
        ]

    def _complete(self, lazy: DictConfig, plan: Plan, run: Run) -> None:
        from downstream.detection.detectron2.hooks import FOLDER

        lazy.train.output_dir = str((run.folder / FOLDER).resolve())
        lazy.train.device = run.device.type
        lazy.train.init_checkpoint = ""

    def _write(self, lazy: DictConfig, run: Run) -> None:
        from downstream.detection.detectron2.config import CONFIG_FILE, write
        from downstream.detection.detectron2.native_config import essence, read

        path = run.folder / CONFIG_FILE
        if path.exists() and essence(read(path)) != essence(lazy):
            raise MaeBenchError(
                f"{self.config.native}, or a file that it builds on, has changed since this run began "
                f"({path} holds what it was); put it as it was, or start afresh with --force"
            )
        head = f"{self.config.native} with {self.config.backbone}, as mae-bench gave it to detectron2"
        write(lazy, path, f"{head} (LazyConfig).")

    def _test_loader(self, run: Run) -> DictConfig:
        return self.lazy(run).dataloader.test


def _in_float32(_module: nn.Module, _inputs: Any, maps: dict[str, Any]) -> dict[str, Any]:
    """Maps that boxes are pooled from: detectron2 gives boxes the type of the maps, too coarse in bf16."""
    return {name: each.float() for name, each in maps.items()}
