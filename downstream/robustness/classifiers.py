"""What is evaluated: a trained classifier with all that belongs to it.

Shapes: B images, C channels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from downstream.robustness.settings import WHAT
from mae_bench.augment import CentreTransform
from mae_bench.errors import MaeBenchError
from mae_bench.settings import DataSettings, EvalTransform

if TYPE_CHECKING:
    from torch import nn

    from mae_bench.backbones import LoadReport
    from mae_bench.run import Run


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier as it was trained.

    Attributes:
        spec: as given with `--backbone`.
        model: normalised images (B, C, H, W) -> logits (B, K), in evaluation mode.
        classes: name of the class of each logit.
        classes_from: where the names are from.
        data: of which image size, interpolation, channels and evaluation transform are used.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
        digest: SHA-256 that tells its weights from others.
        facts: what results say of it (`mae_bench.results.Result`).
        origin: what it is, in words.
        report: of loading a whole classifier; None for a run of ours, whose weights fit or are refused.
    """

    spec: str
    model: nn.Module
    classes: list[str]
    classes_from: str
    data: DataSettings
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    facts: dict[str, Any]
    origin: str
    report: LoadReport | None = field(default=None)

    @property
    def transform(self) -> CentreTransform:
        """Its own evaluation transform."""
        return CentreTransform(self.data)

    def transform_of_cut_images(self, height: int, width: int) -> tuple[CentreTransform, str]:
        """The transform of images that have been cut already, and what it is in words.

        ImageNet-C's are of 224 x 224 pixels, and its authors' evaluation takes their centre without resizing.
        Where a classifier wants more pixels than there are, they are enlarged, of which nothing published
        says anything.
        """
        wanted = self.data.image_size
        if height >= wanted[0] and width >= wanted[1]:
            resize, words = None, f"centre of {wanted[0]} x {wanted[1]} pixels, not resized"
        else:
            resize = max(wanted)
            words = (
                f"enlarged from {height} x {width} to a short side of {resize} pixels for a classifier of "
                f"{wanted[0]} x {wanted[1]}; nothing published says how"
            )
        return CentreTransform(with_resize(self.data, resize)), words

    @property
    def transform_in_words(self) -> str:
        """Its own evaluation transform in words."""
        height, width = self.data.image_size
        short = self.data.evaluation.resize
        first = f"short side to {short} pixels ({self.data.interpolation}), " if short is not None else ""
        return f"{first}centre of {height} x {width}"


def with_resize(data: DataSettings, resize: int | None) -> DataSettings:
    """The settings with another short side before the centre crop."""
    return data.model_copy(update={"evaluation": EvalTransform(resize=resize)})


def open_classifier(run: Run) -> TrainedClassifier:
    """The classifier that the run's ``--backbone`` names, on the CPU.

    Raises:
        MaeBenchError: it is none, is not finished, or its weights do not fit.
    """
    from downstream.robustness.finished import from_run
    from downstream.robustness.whole import from_file, from_timm
    from mae_bench import registry
    from mae_bench.backbones import aliases
    from mae_bench.backbones.loading import Request, parse_spec

    spec = run.config.backbone
    if spec is None:
        raise MaeBenchError(f"{run.config.recipe} needs a classifier: add --backbone {WHAT}")
    meant = aliases.resolve(spec)
    source, body, arguments = parse_spec(
        spec if meant is None else meant, registry.backbone_sources().entries
    )
    request = Request(spec=spec, source=source, body=body, arguments=arguments)
    if source == "run":
        return from_run(Path(body).expanduser(), request)
    if source == "timm":
        return from_timm(request)
    if source == "file":
        return from_file(request)
    raise MaeBenchError(
        f"{spec}: what comes from {source}: has no trained classifier; {run.config.recipe} takes {WHAT}"
    )
