"""The contract that a task fulfils.

Level 1 (`Adapter`) is all that the core ever calls: four class attributes and `run`. Level 2
(`TrainedAdapter`) supplies a model, a training set, a step and an evaluation, and gets the one
training loop (`mae_bench.train.fit`) for free.

This module and every module that defines an adapter import no torch at the top: the command line
reads an adapter's `Config` to validate a recipe, and must answer at once. Heavy imports belong inside
the methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from mae_bench.settings import FitConfig, TaskConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mae_bench.backbones import Backbone
    from mae_bench.data import Samples
    from mae_bench.optim import ParamGroup
    from mae_bench.outcomes import Outcomes
    from mae_bench.run import Run
    from mae_bench.survey import Survey

C = TypeVar("C", bound=TaskConfig)
T = TypeVar("T", bound=FitConfig)
Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """What a number means: its unit and which way is better."""

    unit: str = "%"
    higher_is_better: bool = True
    label: str = ""
    optional: bool = False
    """Left out where the data holds nothing to measure it on (AP of small objects, where there are none)."""


class Adapter(ABC, Generic[C]):
    """A task as the core sees it.

    Attributes:
        task: name of the task in results, for example ``imagenet-finetune``.
        metrics: what `run` returns, headline first.
        Config: the strict settings of the task; the YAML of a recipe is validated against it.
        needs_backbone: whether `--backbone` must be given.
        takes: what `--backbone` may be, in words.
        engine: what trains, for a task that has several engines, as ``--engine`` names it; None: the task has
            one way alone. The catalogue has siblings as ``FAMILY.ENGINE``.
        seeded: whether the run's seed decides anything but the weights of ``random:``.
        evaluates: what a finished run must be that ``--backbone`` may name, to evaluate its classifier: path
            in its result -> value, pattern, or list of them, as in layouts; ``task`` lists tasks, the usual
            one first. Empty: ``--backbone`` names weights to start from.
    """

    task: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    Config: ClassVar[type[TaskConfig]]
    needs_backbone: ClassVar[bool] = True
    takes: ClassVar[str] = (
        "timm:NAME, hf:REPO, torchhub:REPO:ENTRY, file:PATH?arch=NAME, python:MODULE:FACTORY, random:ARCH, "
        "the folder of a pretraining run or an alias"
    )
    engine: ClassVar[str | None] = None
    seeded: ClassVar[bool] = True
    evaluates: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: C) -> None:
        self.config = config

    def ready(self) -> None:
        """Look whether what the task needs is there and works; called before any work.

        Raises:
            MaeBenchError: an engine is missing, of a version that does not fit, or broken; it says what to
                install.
        """

    @abstractmethod
    def run(self, run: Run) -> dict[str, float]:
        """Do the whole task inside the open run folder; every process returns the same metrics."""

    def check(self, run: Run) -> list[str]:
        """Look at data and weights without training; one line per thing found in order.

        Raises:
            MaeBenchError: on the first thing that would stop `run`.
        """
        return []

    def survey(self, data_root: Path) -> Survey:
        """What the task's data is and what is wrong with it, for `mae_bench.auditing`; no image is read.

        Args:
            data_root: folder that roots of datasets are relative to.

        Raises:
            MaeBenchError: the task cannot tell.
        """
        from mae_bench.errors import MaeBenchError
        from mae_bench.settings import DataSettings

        data = getattr(self.config, "data", None)
        if not isinstance(data, DataSettings):
            raise MaeBenchError(f"the task '{self.task}' does not tell what its data is, to be checked")
        from mae_bench.data.surveying import survey

        return survey(data, data_root)

    def judge(self, run: Run) -> dict[str, float]:
        """Judge a finished run again from the predictions it left, without its model; returns the metrics."""
        from mae_bench.errors import MaeBenchError

        raise MaeBenchError(f"the task '{self.task}' leaves no predictions to judge again")

    @classmethod
    def outcomes(cls, folder: Path) -> Mapping[str, Outcomes]:
        """What a finished run's evaluation said of every sample (`mae_bench.outcomes`), by set of samples.

        The only set of an ordinary task has the name ``""``. Override for kinds of outcomes of one's own.

        Returns:
            Nothing for a run without such a file: one of a task that judges nothing, or of before there was
            one; run it again to have it.

        Raises:
            MaeBenchError: the file is damaged.
        """
        from mae_bench import outcomes

        return outcomes.read(folder)

    def visualize(self, run: Run, images: list[str], count: int) -> list[str]:
        """Draw pictures of a finished run into its folder; returns their paths.

        Args:
            images: files to draw; empty means `count` validation images, spread evenly.
        """
        from mae_bench.errors import MaeBenchError

        raise MaeBenchError(f"the task '{self.task}' has nothing to draw")


class TrainedAdapter(Adapter[T]):
    """A task trained by `mae_bench.train.fit`."""

    def backbone(self, run: Run) -> Backbone | None:
        """The backbone for `model`; override to ask for stochastic depth or another image size."""
        if not self.needs_backbone:
            return None
        height, width = self.config.data.image_size
        return run.backbone(image_size=(height, width), channels=self.config.data.channels)

    @abstractmethod
    def model(self, backbone: Backbone | None, run: Run) -> nn.Module:
        """The module to train; its parameters with `requires_grad` are the ones optimised."""

    @abstractmethod
    def train_set(self, run: Run) -> Samples:
        """The training images, in a fixed order."""

    @abstractmethod
    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """One forward pass on a micro-batch already on the device: ``{"loss": scalar, ...}``.

        Other entries are scalars to log. `model` may be wrapped for distributed training, so call it
        rather than its parts.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """The metrics on the reported set; the same on every process. `model` is unwrapped."""

    def groups(self, model: nn.Module) -> list[ParamGroup]:
        """Parameter groups with their weight decay and learning-rate scale."""
        from mae_bench.optim import parameter_groups

        return parameter_groups(model, self.config.optim)

    def finish(self, model: nn.Module, run: Run) -> None:
        """Called once on the main process after the last step, for what the task leaves besides the weights.

        `model` is unwrapped and holds the weights that were reported.
        """

    def run(self, run: Run) -> dict[str, float]:
        """Train, evaluate the last step, return its metrics."""
        from mae_bench.train import fit

        return fit(self, run)
