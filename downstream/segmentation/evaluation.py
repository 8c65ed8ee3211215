"""From a segmenter to its mIoU: a label map of every validation image once, saved, counted, drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as nnf

from downstream.segmentation.dataset import SegmentationDataset, SegmentationSource
from downstream.segmentation.inference import predict
from downstream.segmentation.labels import ClassList
from downstream.segmentation.outcomes import ImageConfusions
from downstream.segmentation.pictures import comparison, stacked
from downstream.segmentation.scoring import counted
from mae_bench import screen
from mae_bench.data import UnreadableImageError, decode, evaluation_batches
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic

if TYPE_CHECKING:
    from downstream.segmentation.segmenter import Segmenter
    from downstream.segmentation.settings import SegmentationData
    from mae_bench.run import Run


class Labeller:
    """Classes of every pixel of an image, as the recipe tests it."""

    def __init__(self, model: Segmenter, data: SegmentationData, run: Run) -> None:
        self.model, self.data, self.run = model, data, run

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 ``(C, h, w)`` -> int64 ``(h, w)``, on the device of the run."""
        return predict(
            self._logits,
            image.to(self.run.device),
            self.data.evaluation,
            self.data.image_size,
            self.model.mean,
            self.model.std,
            patch=max(self.model.backbone.patch_size),
        )

    def _logits(self, pixels: Tensor) -> Tensor:
        with self.run.autocast():
            logits: Tensor = self.model(pixels).main
        return nnf.interpolate(logits.float(), pixels.shape[-2:], mode="bilinear", align_corners=False)


def label_all(
    model: Segmenter, images: SegmentationDataset, data: SegmentationData, run: Run, folder: Path
) -> ImageConfusions:
    """Label every image of `images` at its own size, save the label maps below `folder`, and count.

    Images go through the model one by one and counts are whole numbers, so the scores are the same for any
    number of processes.
    """
    label, judged = Labeller(model, data, run), Judged(images, data, run, folder)
    with screen.progress("segmenting", -(-len(images) // run.world), "images") as work:
        for batch in evaluation_batches(
            images, batch=1, rank=run.rank, world=run.world, workers=data.workers
        ):
            judged.add(int(batch["index"][0]), label(batch["image"][0]), batch["target"][0])
            work.advance()
    run.note_unreadable(images)
    return judged.together()


class Judged:
    """Label maps of a process as they come, saved below `folder` and counted."""

    def __init__(self, images: SegmentationDataset, data: SegmentationData, run: Run, folder: Path) -> None:
        self.images, self.data, self.run, self.folder = images, data, run, folder
        self.counts: list[Tensor] = []  # (3, E) of an image: its number, cells, pixels, see `ImageConfusions`

    def add(self, index: int, found: Tensor, target: Tensor) -> None:
        """Take the classes ``(h, w)`` that were found for an image, and those of the truth."""
        counts = counted(found, target, len(self.images.source.classes)).flatten()
        cells = counts.nonzero()[:, 0]
        self.counts.append(torch.stack([torch.full_like(cells, index), cells, counts[cells]]))
        save_labels(found, self.folder / f"{self.images.source.stem(index)}.png", self.data)

    def together(self) -> ImageConfusions:
        """The counts of all processes together; each image must have come once.

        Raises:
            RuntimeError: there were more or fewer.
        """
        total = int(self.run.sum(torch.tensor(len(self.counts))))
        if total != len(self.images):
            raise RuntimeError(f"segmented {total} of {len(self.images)} images")
        mine = torch.cat(self.counts, dim=1) if self.counts else torch.empty(3, 0, dtype=torch.int64)
        images, cells, pixels = self.run.gather(mine.T).cpu().numpy().T
        source = self.images.source
        return ImageConfusions.gathered(
            source.fingerprint(), source.classes, len(self.images), images, cells, pixels
        )


def save_labels(labels: Tensor, path: Path, data: SegmentationData) -> Path:
    """Write classes ``(h, w)`` as a PNG, numbered as the dataset's own files are."""
    stored = labels.cpu() + (1 if data.zero_is_ignored else 0)
    stream = io.BytesIO()
    Image.fromarray(stored.to(torch.uint8).numpy()).save(stream, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(path, stream.getvalue())


# ---------------------------------------------------------------- pictures


def draw_saved(source: SegmentationSource, folder: Path, count: int, path: Path) -> Path:
    """Image, truth and saved prediction of `count` images, spread evenly over the dataset."""
    rows = []
    for index in [place * len(source) // count for place in range(min(count, len(source)))]:
        saved = folder / f"{source.stem(index)}.png"
        if not saved.exists():
            raise MaeBenchError(f"{saved}: there is no such label map; a run writes them when it is judged")
        try:
            image, truth = source.read(index)
        except (UnreadableImageError, OSError) as error:
            raise MaeBenchError(f"{source.name(index)}: {error}") from None
        rows.append(comparison(image, truth, source.reader.of_predictions().read(saved), source.class_list))
    return _save(rows, path)


def draw_files(
    label: Callable[[Tensor], Tensor], files: Sequence[str], classes: ClassList, path: Path, channels: int = 3
) -> Path:
    """Predictions on image files of one's own, of so many channels; for `label` see `Labeller`."""
    rows = []
    for file in files:
        try:
            image = decode(Path(file).read_bytes(), channels)
        except (UnreadableImageError, OSError) as error:
            raise MaeBenchError(f"{file} cannot be read as an image: {error}") from None
        rows.append(comparison(image, None, label(image).cpu(), classes))
    return _save(rows, path)


def load_trained(model: Segmenter, run: Run) -> Segmenter:
    """`model` with the weights that the run reported, ready to predict."""
    from safetensors.torch import load_file

    file = run.folder / "model.safetensors"
    if not file.exists():
        raise MaeBenchError(f"{file}: there is no such file; a run writes its weights when it has finished")
    model.load_state_dict(load_file(file))
    return model.to(run.device).eval()


def _save(rows: list[Image.Image], path: Path) -> Path:
    stream = io.BytesIO()
    stacked(rows).save(stream, format="PNG")
    return write_atomic(path, stream.getvalue())
