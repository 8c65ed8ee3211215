"""Top-1 and top-5 accuracy, counted over all processes and checked to be complete.

Shapes: B images, C classes, G classifiers that are scored in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from downstream.classification.inference import InParts
from mae_bench import screen
from mae_bench.augment import normalise
from mae_bench.data import ImageDataset, evaluation_batches
from mae_bench.errors import MaeBenchError
from mae_bench.run import Run
from mae_bench.settings import DataSettings

# Images handed over by the loaders at once; how many go through the model at once `InParts` decides.
BATCH = 256


def count_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How often the label is first and among the first five: (G, 2) int64 for logits (B, G, C), labels (B,).

    Logits that are not finite name nothing, so they are no hits.
    """
    named = logits.topk(min(5, logits.shape[2]), dim=2).indices  # (B, G, 5)
    right = (named == labels[:, None, None]) & torch.isfinite(logits).all(dim=2, keepdim=True)
    return torch.stack([right[:, :, 0].sum(dim=0), right.any(dim=2).sum(dim=0)], dim=1)


def percentages(hits: Tensor, scored: int, dataset_size: int, run: Run) -> Tensor:
    """Hits (G, 2) of this process -> percent (G, 2) of the whole dataset, the same on every process.

    Args:
        scored: images that this process scored.

    Raises:
        MaeBenchError: together the processes did not score each image once.
    """
    total = run.sum(torch.cat([hits.flatten(), hits.new_tensor([scored])]))
    if int(total[-1]) != dataset_size:
        raise MaeBenchError(
            f"{int(total[-1])} images were scored and the set has {dataset_size}: the accuracy would be "
            "wrong. Did the dataset change during the run?"
        )
    return 100.0 * total[:-1].view_as(hits).double().cpu() / dataset_size


def score(
    model: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    data: DataSettings,
    run: Run,
    statistics: tuple[Sequence[float], Sequence[float]],
) -> Tensor:
    """Accuracy of a model on a set.

    Args:
        model: normalised images (B, 3, H, W) -> logits (B, C), or (B, G, C) for several classifiers.
        statistics: mean and std of the model's input.

    Returns:
        (G, 2) float64: top-1 and top-5 in percent.

    Raises:
        MaeBenchError: see `percentages`.
    """
    forward = InParts(model)
    hits: Tensor | None = None
    scored = 0
    with screen.progress("scoring", own_share(dataset, run), "images") as work:
        for batch in evaluation_batches(
            dataset, batch=BATCH, rank=run.rank, world=run.world, workers=data.workers
        ):
            images = normalise(batch["image"].to(run.device, non_blocking=True), *statistics)
            with run.autocast():
                logits = forward(images).float()
            found = count_hits(logits if logits.ndim == 3 else logits[:, None], batch["label"].to(run.device))
            hits = found if hits is None else hits + found
            scored += len(images)
            work.advance(len(images))
    run.note_unreadable(dataset)
    assert hits is not None  # every process has a share
    return percentages(hits, scored, len(dataset), run)


def own_share(dataset: ImageDataset, run: Run) -> int:
    """How many images of an evaluation fall to one process, at most.

    Raises:
        MaeBenchError: fewer images than processes.
    """
    if len(dataset) < run.world:
        raise MaeBenchError(f"{len(dataset)} images cannot be shared by {run.world} processes; start fewer")
    return -(-len(dataset) // run.world)
