"""Pictures of what a masked autoencoder sees and paints.

One row an image, four columns: original, masked, reconstruction, and the reconstruction with the visible
patches put back. Where the targets were normalised, a patch gets back its true mean and variance, which the
model does not know: such pictures show structure, not brightness (arXiv:2111.06377, Figure 2, is of a model
with raw pixels).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mae_bench.augment import eval_transform, normalise
from mae_bench.data import as_rgb, decode, key_of
from mae_bench.data.decoding import UnreadableImageError
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.pretrain.model import MaskedAutoencoder
from mae_bench.pretrain.targets import patchify, unpatchify

if TYPE_CHECKING:
    from mae_bench.pretrain.task import MAEPretraining
    from mae_bench.run import Run

PICTURE_FILE = "reconstructions.png"
COLUMNS = ("original", "masked", "reconstruction", "with visible")

# A picture narrower than this is enlarged by a whole number.
LEAST_WIDTH = 128
GREY = 127
GAP = 4
CAPTION_HEIGHT = 16


def draw_run(adapter: MAEPretraining, run: Run, files: Sequence[str], count: int) -> Path:
    """Draw `files`, or `count` of the images that the run is evaluated on, into the run's folder.

    Those are spread evenly over the dataset, so that a folder of sorted classes shows several of them.

    Raises:
        MaeBenchError: the run has no weights yet, or an image cannot be read.
    """
    images, keys = _from_files(adapter, files) if files else _from_data(adapter, run, count)
    model = adapter.trained_model(run).to(run.device).eval()
    columns = reconstruction_columns(
        model, images.to(run.device), keys.to(run.device), adapter.config.mean, adapter.config.std
    )
    stream = io.BytesIO()
    grid_picture(columns).save(stream, format="PNG")
    return write_atomic(run.folder / PICTURE_FILE, stream.getvalue())


def reconstruction_columns(
    model: MaskedAutoencoder, images: Tensor, keys: Tensor, mean: Sequence[float], std: Sequence[float]
) -> list[Tensor]:
    """The four columns, each uint8 ``(B, C, H, W)``.

    Args:
        images: uint8 ``(B, C, H, W)``.
        keys: int64 ``(B,)``, from which the masks follow.
        mean: of the pixels in [0, 1], one a channel.
        std: likewise.
    """
    found = model.reconstruct(normalise(images, mean, std), keys)
    scale = torch.tensor(std, device=images.device).view(-1, 1, 1)
    shift = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    painted = ((found.images * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8)
    values = patchify(images, model.patch).shape[-1]
    hidden = unpatchify(found.hidden[..., None].expand(-1, -1, values), model.patch, model.grid)
    masked = torch.where(hidden, torch.full_like(images, GREY), images)
    return [images, masked, painted, torch.where(hidden, painted, images)]


def grid_picture(columns: Sequence[Tensor], captions: Sequence[str] = COLUMNS) -> Image.Image:
    """Columns of uint8 ``(B, C, H, W)`` side by side under their captions, small images enlarged."""
    height, width = columns[0].shape[-2:]
    factor = max(1, -(-LEAST_WIDTH // width))
    cell_width, cell_height = width * factor, height * factor
    rows = len(columns[0])
    size = (
        GAP + len(columns) * (cell_width + GAP),
        CAPTION_HEIGHT + GAP + rows * (cell_height + GAP),
    )
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for column, (images, caption) in enumerate(zip(columns, captions, strict=True)):
        left = GAP + column * (cell_width + GAP)
        pen.text((left, GAP), caption, fill="black", font=font)
        for row, image in enumerate(images.cpu()):
            cell = Image.fromarray(as_rgb(image).permute(1, 2, 0).contiguous().numpy())
            enlarged = cell.resize((cell_width, cell_height), Image.Resampling.NEAREST)
            picture.paste(enlarged, (left, CAPTION_HEIGHT + GAP + row * (cell_height + GAP)))
    return picture


def _from_data(adapter: MAEPretraining, run: Run, count: int) -> tuple[Tensor, Tensor]:
    dataset = adapter.evaluation_set(run)
    count = min(count, len(dataset))
    if count < 1:
        raise MaeBenchError(f"there is nothing to draw: {count} images asked for")
    samples = [dataset[number * len(dataset) // count] for number in range(count)]
    return torch.stack([sample["image"] for sample in samples]), torch.tensor([s["key"] for s in samples])


def _from_files(adapter: MAEPretraining, files: Sequence[str]) -> tuple[Tensor, Tensor]:
    data = adapter.config.data
    transform = eval_transform(data)
    images = []
    for file in files:
        try:
            images.append(transform(decode(Path(file).read_bytes(), data.channels), 0))
        except OSError as error:
            raise MaeBenchError(f"{file} cannot be read: {error.strerror or error}") from error
        except UnreadableImageError as error:
            raise MaeBenchError(f"{file} is not a readable image: {error}") from error
    keys = [key_of(adapter.config.seed, 0, index) for index in range(len(files))]
    return torch.stack(images), torch.tensor(keys)
