"""One pass over every set: each image is read once, by one of the processes.

Shapes: B images, K logits.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Literal

import torch

from downstream.classification.inference import InParts
from downstream.classification.scoring import BATCH, gathered, own_share
from downstream.robustness.cells import Cell
from downstream.robustness.classifiers import TrainedClassifier
from downstream.robustness.ledger import Count, Ledger, packed
from mae_bench import screen
from mae_bench.augment import normalise
from mae_bench.data import evaluation_batches
from mae_bench.precision import suit_attention
from mae_bench.run import Run
from mae_bench.settings import digest_of


def count_all(
    cells: list[Cell], classifier: TrainedClassifier, run: Run, workers: int | Literal["auto"]
) -> dict[str, Count]:
    """Count every cell that is not counted yet.

    Returns:
        Cell -> its count, the same on every process.

    Raises:
        MaeBenchError: too many unreadable images, images that changed meanwhile, or earlier counts of other
            weights.
    """
    counter = _Counter(classifier, run, workers)
    found: dict[str, Count] = {}
    for cell in cells:
        earlier = counter.ledger.done(cell.name, cell.fingerprint, counter.how(cell))
        if earlier is not None:
            found[cell.name] = earlier
    if found:
        run.elapsed_before(sum(count.seconds for count in found.values()))
        screen.say(f"{len(found)} of {len(cells)} parts are counted already; going on with the rest")
    total = sum(own_share(cell.dataset, run) for cell in cells)
    start = sum(own_share(cell.dataset, run) for cell in cells if cell.name in found)
    with screen.progress(run.config.recipe, total, "images", start=start) as work:
        for cell in cells:
            if cell.name not in found:
                work.note(cell.name)
                found[cell.name] = counter.count(cell, work)
    bad = [image for cell in cells for image in found[cell.name].unreadable]
    if bad:
        run.record(details={"unreadable_images": dict.fromkeys(bad, True)})
    return {cell.name: found[cell.name] for cell in cells}


class _Counter:
    """Counts cells with one classifier, and puts down what it counted."""

    def __init__(self, classifier: TrainedClassifier, run: Run, workers: int | Literal["auto"]) -> None:
        self.classifier, self.run, self.workers = classifier, run, workers
        model = classifier.model.to(run.device)
        suit_attention(model, run.device, run.precision)
        self.forward = InParts(model)
        # Processes that saw different ledgers would wait for each other.
        self.ledger = Ledger(run.folder, classifier.digest)
        self.ledger.counts = {
            name: Count(**values)
            for name, values in run.share(
                {name: asdict(count) for name, count in self.ledger.counts.items()}
            ).items()
        }

    def how(self, cell: Cell) -> str:
        """Digest of all that decides a cell's count besides images and weights."""
        transform, classifier = cell.dataset.transform, self.classifier
        return digest_of(
            {
                "size": list(transform.size),  # type: ignore[attr-defined]
                "short": transform.short,  # type: ignore[attr-defined]
                "interpolation": transform.interpolation,  # type: ignore[attr-defined]
                "statistics": [list(classifier.mean), list(classifier.std)],
                "precision": self.run.precision,
                "classes": classifier.classes,
            }
        )

    @torch.no_grad()
    def count(self, cell: Cell, work: screen.Work) -> Count:
        """The count of one cell, put down."""
        run, dataset = self.run, cell.dataset
        began = time.monotonic()
        hits: list[torch.Tensor] = []
        indices: list[torch.Tensor] = []
        for batch in evaluation_batches(
            dataset,
            batch=BATCH,
            rank=run.rank,
            world=run.world,
            workers=self.workers,
        ):
            pixels = batch["image"].to(run.device, non_blocking=True)
            with run.autocast():
                logits = self.forward(normalise(pixels, self.classifier.mean, self.classifier.std)).float()
            hits.append(cell.hits(logits, batch["label"].to(run.device)))
            indices.append(batch["index"])
            work.advance(len(pixels))
        named = gathered(torch.cat(hits), torch.cat(indices), len(dataset), run).numpy()
        bad = self._unreadable(cell)
        seconds = round(time.monotonic() - began, 3)
        count = Count(
            cell=cell.name,
            images=cell.fingerprint,
            weights=self.classifier.digest,
            how=self.how(cell),
            right=int(named.sum()),
            scored=len(named),
            seconds=seconds,
            unreadable=bad,
            hits=packed(named),
        )
        if run.is_main:
            self.ledger.put(count)
        run.barrier()
        return count

    def _unreadable(self, cell: Cell) -> list[str]:
        """The unreadable images that all processes met."""
        mine = torch.tensor(sorted(cell.dataset.bad), dtype=torch.int64)
        everyones = sorted(set(self.run.gather(mine).tolist()))
        bad = [cell.dataset.source.name(index) for index in everyones]
        if bad:
            screen.warn(f"{cell.name}: unreadable images, replaced by a neighbour:\n  " + "\n  ".join(bad))
        return bad
