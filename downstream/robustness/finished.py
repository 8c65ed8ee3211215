"""The classifier of a finished run of ours, rebuilt as it was at the end of that run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from downstream.classification.classifier import Classifier
from downstream.classification.finetune import Finetune, FinetuneConfig
from downstream.classification.heads import HeadGrid, LinearProbe
from downstream.classification.knn import KNN
from downstream.classification.linear import Linear, LinearConfig
from downstream.classification.partial import PartialConfig
from downstream.robustness.classes import of_a_run
from downstream.robustness.classifiers import TrainedClassifier
from downstream.robustness.settings import WHAT
from mae_bench import recipe
from mae_bench.adapter import Adapter
from mae_bench.backbones import Backbone, load_backbone
from mae_bench.backbones.loading import Request
from mae_bench.backbones.weights import read_checkpoint
from mae_bench.errors import MaeBenchError, near
from mae_bench.files import sha256_file
from mae_bench.results import Result, read_result

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_DIGEST = "model_sha256"
"""Under which a run's `result.json` keeps the SHA-256 of `WEIGHTS_FILE` among its details."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished classification run.

    Attributes:
        config: its resolved settings.
        adapter_class: `Linear`, or `Finetune` or one derived from it.
        digest: SHA-256 of its file of weights.
    """

    folder: Path
    config: FinetuneConfig | LinearConfig
    adapter_class: type[Adapter[Any]]
    result: Result
    digest: str


def from_run(folder: Path, request: Request) -> TrainedClassifier:
    """The classifier of a run's folder.

    Raises:
        MaeBenchError: no such folder, no finished classification run, a kNN (which has no classifier),
            weights that changed since the run finished or that do not fit, or a backbone that cannot be built
            again.
    """
    if request.arguments:
        name = next(iter(request.arguments))
        raise MaeBenchError(f"{request.spec}: a run's classifier takes no '{name}'; the run settles that")
    found = _open(folder, request.spec)
    state, _ = read_checkpoint(found.folder / WEIGHTS_FILE)
    config, result = found.config, found.result
    assert result.dataset is not None  # every classification run records its data
    backbone = _backbone(found)
    if isinstance(config, LinearConfig):
        outputs = _outputs(found, state, "grid.heads.0.weight")
        model: nn.Module = _chosen(_probe(config, backbone, outputs), state, found)
    else:
        outputs = _outputs(found, state, "head.weight")
        if isinstance(config, PartialConfig):
            backbone.trainable_from(config.blocks)
        model = _filled(Classifier(backbone, outputs, config.pooling), state, found)
    classes, classes_from = of_a_run(found.folder, result.dataset.name, outputs)
    top1 = result.metrics["top1"]
    return TrainedClassifier(
        spec=request.spec,
        model=model.requires_grad_(False).eval(),
        classes=classes,
        classes_from=classes_from,
        data=config.data,
        mean=backbone.mean,
        std=backbone.std,
        digest=found.digest,
        facts=_facts(found),
        origin=f"{found.folder}: {result.recipe} on {result.dataset.name}, {top1:.4g} % top-1 there",
    )


def _facts(found: FinishedRun) -> dict[str, Any]:
    """What a result says of the classifier: the row of tables that it belongs to is that of its run.

    Backbone and seed are those of the run, and so are its departures from its protocol, since a number that
    they made is no more comparable here than there.
    """
    result = found.result
    facts: dict[str, Any] = {
        "backbone": result.backbone.model_dump() if result.backbone is not None else None,
        "seed": result.seed,
        "deviations": [entry.model_dump() for entry in result.deviations],
        "details": {
            "classifier": {
                "run": str(found.folder),
                "recipe": result.recipe,
                "protocol": result.protocol,
                "recipe_hash": result.recipe_hash,
                "task": result.task,
                "dataset": result.dataset.name if result.dataset is not None else None,
                "seed": result.seed,
                "digest": found.digest,
                "top1": result.metrics["top1"],
            }
        },
    }
    if WEIGHTS_DIGEST not in result.details:
        facts["notes"] = [
            f"{found.folder} is from before runs kept the digest of their weights, so whether they are still "
            "the ones of its result was not checked"
        ]
    return facts


# ---------------------------------------------------------------- looking at the folder


def _open(folder: Path, spec: str) -> FinishedRun:
    if not folder.is_dir():
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise MaeBenchError(f"{spec}: no such folder as {folder}{near(folder.name, beside)}")
    config_file, result_file = folder / "config.yaml", folder / "result.json"
    if not config_file.exists():
        inner = sorted(path.parent for path in folder.glob(f"**/{WEIGHTS_FILE}"))
        hint = f"; there is one in {inner[0]}" if inner else ""
        raise MaeBenchError(f"{spec}: {folder} is not a run folder (no config.yaml in it){hint}")
    resolved = recipe.resolve(str(config_file))
    kind = resolved.adapter_class
    if issubclass(kind, KNN):
        raise MaeBenchError(
            f"{spec}: a kNN evaluation has no classifier, only votes of the training images; give {WHAT}"
        )
    if not issubclass(kind, Finetune | Linear):
        raise MaeBenchError(f"{spec}: {folder} is a run of {kind.task}, not of classification; give {WHAT}")
    if not result_file.exists():
        raise MaeBenchError(
            f"{spec}: this run has not finished (no result.json in {folder}); resume it with mae-bench run "
            f"--task {config_file} --runs {folder.parent} --name {folder.name}"
        )
    result = read_result(result_file)
    weights = folder / WEIGHTS_FILE
    if not weights.exists():
        raise MaeBenchError(f"{spec}: {weights} is gone, and without it there is no classifier to evaluate")
    digest = sha256_file(weights)
    if result.details.get(WEIGHTS_DIGEST, digest) != digest:
        raise MaeBenchError(
            f"{spec}: {weights} changed since the run finished ({digest[:12]} now, "
            f"{result.details[WEIGHTS_DIGEST][:12]} in {result_file}); its numbers are of other weights"
        )
    return FinishedRun(folder, resolved.config, kind, result, digest)  # type: ignore[arg-type]


# ---------------------------------------------------------------- building it again


def _backbone(found: FinishedRun) -> Backbone:
    """The network that the run trained; what weights it starts from is of no account.

    Raises:
        MaeBenchError: its source is not there any more.
    """
    config = found.config
    assert config.backbone is not None  # of every run of these tasks
    height, width = config.data.image_size
    try:
        return load_backbone(
            config.backbone, image_size=(height, width), channels=config.data.channels, seed=config.seed
        )
    except MaeBenchError as error:
        raise MaeBenchError(
            f"{found.folder}: its network is built as {config.backbone} makes it, before the run's weights "
            f"go in, and that cannot be had any more: {error}. If it is elsewhere now, write its place into "
            f"{found.folder / 'config.yaml'} (backbone)"
        ) from error


def _probe(config: LinearConfig, backbone: Backbone, outputs: int) -> LinearProbe:
    backbone.freeze("all")
    grid = HeadGrid(backbone.width, outputs, len(config.rates), config.norm_batch)
    return LinearProbe(backbone, config.pooling, grid)


class OneOfGrid(nn.Module):
    """A linear probe with one classifier, as one that gives (B, K)."""

    def __init__(self, probe: LinearProbe) -> None:
        super().__init__()
        self.probe = probe

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> logits (B, K)."""
        logits: Tensor = self.probe(images)[:, 0]
        return logits


def _chosen(probe: LinearProbe, state: dict[str, Tensor], found: FinishedRun) -> OneOfGrid:
    """The probe with its weights, reduced to the classifier that was reported."""
    config, details = found.config, found.result.details
    assert isinstance(config, LinearConfig)
    _filled(probe, state, found)
    index = 0
    if config.learning_rates is not None:
        rate = details.get("learning_rate")
        if rate not in config.rates:
            raise MaeBenchError(
                f"{found.folder}: its result.json chose the learning rate {json.dumps(rate)}, which is none "
                f"of {config.rates}"
            )
        index = config.rates.index(rate)
    probe.grid.heads = nn.ModuleList([probe.grid.heads[index]])
    probe.grid.diverged = probe.grid.diverged[index : index + 1]
    return OneOfGrid(probe)


def _outputs(found: FinishedRun, state: dict[str, Tensor], head: str) -> int:
    if head not in state:
        raise MaeBenchError(f"{found.folder / WEIGHTS_FILE} holds no {head}; it is not of this run")
    return len(state[head])


def _filled(model: nn.Module, state: dict[str, Tensor], found: FinishedRun) -> nn.Module:
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise MaeBenchError(
            f"{found.folder / WEIGHTS_FILE} does not fit the network that {found.config.backbone} makes now "
            f"({first})"
        ) from error
    return model
