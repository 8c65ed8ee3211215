"""Segmentation by a config file of mmsegmentation's own, with our backbone, data and judge, as a task."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, ClassVar, cast

from downstream.segmentation.mmseg.native_settings import NativeConfig
from downstream.segmentation.mmseg.task import CONFIG_FILE, MMSeg
from mae_bench.errors import MaeBenchError

if TYPE_CHECKING:
    from downstream.segmentation.dataset import SegmentationDataset
    from mae_bench.backbones import Backbone
    from mae_bench.run import Run


class MMSegNative(MMSeg):
    """Trains what a config file of mmsegmentation says; our backbone, dataset and judge in it."""

    Config: ClassVar[Any] = NativeConfig

    def ready(self) -> None:
        """mmsegmentation is there, and so is the file."""
        super().ready()
        if self._own.native is None:
            raise MaeBenchError("native: give mmsegmentation's own config file: native=FILE.py")

    @property
    def _own(self) -> NativeConfig:
        return cast(NativeConfig, self.config)

    def train_set(self, run: Run) -> SegmentationDataset:
        """The training images; the engine reads and augments them."""
        from downstream.segmentation.dataset import SegmentationDataset, open_split

        return SegmentationDataset(open_split(self.config.data, "train", run.data_root))

    def native(self, backbone: Backbone, run: Run) -> Any:
        """The file with the options of the recipe, our backbone and our data."""
        from pathlib import Path

        from downstream.openmmlab.native import need, read, same_as_before, text_of
        from downstream.openmmlab.recipe import precision_of, use_precision
        from downstream.openmmlab.runner import undisturbed
        from downstream.segmentation.mmseg import registered  # noqa: F401
        from downstream.segmentation.mmseg.swapping import NEEDED, swap_backbone, swap_data

        config = self._own
        assert config.native is not None  # ready
        path = Path(config.native)
        with undisturbed():
            native = read(path, config.options)
        need(native, NEEDED, path)
        fingerprint = hashlib.sha256(text_of(native).encode()).hexdigest()
        self._made_from = same_as_before(run.folder / CONFIG_FILE, fingerprint, config.native)
        if config.precision != "auto":
            use_precision(native.optim_wrapper, run.precision, run.device.type)
        run.record(precision=precision_of(native.optim_wrapper, run.device.type, path))
        swap_backbone(native, config, backbone)
        swap_data(native, config, self.train_set(run).source, self.val_set(run).source)
        own = "downstream.segmentation.mmseg.registered"
        theirs = (native.get("custom_imports") or {}).get("imports", [])
        native.custom_imports = {"imports": [*theirs, own], "allow_failed_imports": False}
        native.default_scope = native.get("default_scope") or "mmseg"
        return native

    def test_precision(self, run: Run) -> str:
        """That of the recipe where it says one; else fp32, in which the engine tests."""
        return run.precision if self.config.precision != "auto" else "fp32"

    def head(self) -> str:
        """What stands at the head of the written config."""
        return (
            f"{self._made_from}\nmae-bench put the backbone {self.config.backbone} and the dataset "
            f"{self.config.data.name} in. The run was judged by mae-bench."
        )
