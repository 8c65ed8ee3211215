"""Top-1 and top-5 accuracy: which images are hit, over all processes and checked to be complete.

Shapes: B images, N images of the whole set, C classes, G classifiers that are scored in one pass.
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
from mae_bench.outcomes import Hits
from mae_bench.run import Run
from mae_bench.settings import DataSettings

# Images handed over by the loaders at once; how many go through the model at once `InParts` decides.
BATCH = 256


def hits_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the label is first and among the first five: bool (B, G, 2) for logits (B, G, C), labels (B,).

    Logits that are not finite name nothing, so they are no hits.
    """
    named = logits.topk(min(5, logits.shape[2]), dim=2).indices  # (B, G, 5)
    right = (named == labels[:, None, None]) & torch.isfinite(logits).all(dim=2, keepdim=True)
    return torch.stack([right[:, :, 0], right.any(dim=2)], dim=2)


def gathered(hits: Tensor, indices: Tensor, images: int, run: Run) -> Tensor:
    """The hits of all processes in the dataset's order, the same on every process.

    Args:
        hits: bool (B, ...) of the images that this process scored.
        indices: (B,) where these images are in the dataset.
        images: N, how many the dataset has.

    Returns:
        bool (N, ...) on the CPU.

    Raises:
        MaeBenchError: together the processes did not score each image once.
    """
    where, found = run.gather(indices).cpu(), run.gather(hits.to(torch.uint8)).cpu()
    if len(where) != images or not torch.equal(where.sort().values, torch.arange(images)):
        raise MaeBenchError(
            f"{len(where)} images were scored and the set has {images}, each to be scored once: the accuracy "
            "would be wrong. Did the dataset change during the run?"
        )
    return torch.empty_like(found, dtype=torch.bool).index_copy_(0, where, found.bool())


def percentages(hits: Tensor) -> Tensor:
    """Hits (N, ...) -> float64 (...), in percent of the images; as `mae_bench.outcomes.Hits` has them."""
    return 100.0 * hits.sum(dim=0).double() / len(hits)


def outcomes_of(hits: Tensor, dataset: ImageDataset, names: Sequence[str] = ("top1", "top5")) -> Hits:
    """Hits (N, len(names)) of the images of a dataset, as a run keeps them."""
    columns = hits.numpy().T
    return Hits(dataset.fingerprint(), dict(zip(names, columns, strict=True)))


def score(
    model: Callable[[Tensor], Tensor],
    dataset: ImageDataset,
    data: DataSettings,
    run: Run,
    statistics: tuple[Sequence[float], Sequence[float]],
) -> Tensor:
    """Which images of a set a model names rightly.

    Args:
        model: normalised images (B, 3, H, W) -> logits (B, C), or (B, G, C) for several classifiers.
        statistics: mean and std of the model's input.

    Returns:
        bool (N, G, 2): first, and among the first five; on the CPU, the same on every process.

    Raises:
        MaeBenchError: see `gathered`.
    """
    forward = InParts(model)
    hits: list[Tensor] = []
    indices: list[Tensor] = []
    with screen.progress("scoring", own_share(dataset, run), "images") as work:
        for batch in evaluation_batches(
            dataset, batch=BATCH, rank=run.rank, world=run.world, workers=data.workers
        ):
            images = normalise(batch["image"].to(run.device, non_blocking=True), *statistics)
            with run.autocast():
                logits = forward(images).float()
            logits = logits if logits.ndim == 3 else logits[:, None]
            hits.append(hits_of(logits, batch["label"].to(run.device)))
            indices.append(batch["index"])
            work.advance(len(images))
    run.note_unreadable(dataset)
    return gathered(torch.cat(hits), torch.cat(indices), len(dataset), run)


def own_share(dataset: ImageDataset, run: Run) -> int:
    """How many images of an evaluation fall to one process, at most.

    Raises:
        MaeBenchError: fewer images than processes.
    """
    if len(dataset) < run.world:
        raise MaeBenchError(f"{len(dataset)} images cannot be shared by {run.world} processes; start fewer")
    return -(-len(dataset) // run.world)
