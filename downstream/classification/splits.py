"""The two splits of a classification task: training images and the set that is reported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from mae_bench.augment import eval_transform
from mae_bench.data import ImageDataset, joint_fingerprint, train_dataset, val_dataset
from mae_bench.files import write_atomic
from mae_bench.run import Run
from mae_bench.settings import DataSettings

CLASSES_FILE = "classes.txt"
"""The name of each class a line, in the order of labels and logits, in the run's folder."""


class Splits:
    """Training and validation images of a recipe, each listed once.

    Args:
        mean: the backbone's mean pixel, with which RandAugment fills.

    Raises:
        MaeBenchError: on the way to either split, see `mae_bench.data.open_source`.
    """

    def __init__(self, data: DataSettings, run: Run, mean: Sequence[float]) -> None:
        self._data, self._run, self._mean = data, run, mean

    @cached_property
    def train(self) -> ImageDataset:
        """Training images with the recipe's augmentation."""
        return train_dataset(self._data, self._run.data_root, self._run.config.seed, mean=self._mean)

    @cached_property
    def train_as_evaluated(self) -> ImageDataset:
        """Training images with the evaluation transform."""
        return self.train.with_transform(eval_transform(self._data))

    @cached_property
    def val(self) -> ImageDataset:
        """Validation images with the evaluation transform."""
        return val_dataset(self._data, self._run.data_root)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.train.classes)

    def record(self) -> None:
        """Put the identity of both splits into the result, and the names of the classes into the folder."""
        self._leave_classes()
        self._run.record(
            dataset={
                "name": self._data.name,
                "fingerprint": joint_fingerprint(self.train, self.val),
                "val_images": len(self.val),
                "classes": self.classes,
            }
        )

    def _leave_classes(self) -> None:
        """Write the classes once; whoever uses the classifier later needs to know what its outputs are."""
        path = self._run.folder / CLASSES_FILE
        if self._run.is_main and not path.exists():
            write_atomic(path, "".join(f"{name}\n" for name in self.train.classes))


def unaugmented(data: DataSettings) -> bool:
    """Whether a training image always reaches the model as the evaluation transform makes it."""
    augment = data.augment
    return (
        augment.crop.kind == "center"
        and augment.flip == 0
        and augment.color_jitter == 0
        and augment.rand_augment is None
        and augment.erase is None
    )
