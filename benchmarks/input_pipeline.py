"""Images per second and core of the input pipeline: ours against the Pillow pipeline of the reference.

    python benchmarks/input_pipeline.py [--images 64] [--rounds 9]

Both read the same 500 x 375 JPEG files (an ImageNet photograph's usual size; generated, smooth with noise,
quality 90) from a temporary folder and make 224 x 224 training images for MAE pretraining: a random crop of
20 to 100 % of the area, bicubic, and a flip. Theirs is what facebookresearch/mae's pretraining does, built
here from torchvision: `ImageFolder`, `RandomResizedCrop(224, scale=(0.2, 1), interpolation=3)`,
`RandomHorizontalFlip`, `ToTensor`, `Normalize`. Ours gives uint8, as normalisation is done on the device; a
third line says what it costs to do that on the same core as well.

Everything runs in this process with one thread, in the order A B A B ...; processor time is counted, so other
work on the machine disturbs little. Each round decodes every file once. The medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mae_bench.augment import normalise
from mae_bench.data import ImageDataset, train_dataset
from mae_bench.settings import DataSettings

HEIGHT, WIDTH, QUALITY = 375, 500, 90
WANTED = 1.8

Pipeline = Callable[[int, int], object]  # (epoch, index) -> a training image


def write_photographs(folder: Path, count: int) -> int:
    """Write `count` JPEG files into one class folder; returns their mean size in bytes.

    Sums of smooth noise at several scales, with amplitudes that fall with the frequency as in photographs.
    """
    folder.mkdir(parents=True)
    sizes = []
    for number in range(count):
        random = np.random.RandomState(number)
        pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
        for cells, amplitude in ((3, 60), (9, 35), (27, 20), (81, 10)):
            coarse = random.randn(cells, cells * WIDTH // HEIGHT, 3).astype(np.float32)
            fine = [
                np.asarray(Image.fromarray(coarse[..., c]).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
                for c in range(3)
            ]
            pixels += amplitude * np.stack(fine, axis=-1)
        pixels += random.randn(HEIGHT, WIDTH, 3) * 4
        path = folder / f"{number:04d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=QUALITY)
        sizes.append(path.stat().st_size)
    return round(statistics.mean(sizes))


def reference(root: Path) -> Pipeline:
    """The Pillow pipeline."""
    dataset = ImageFolder(
        str(root),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=3),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
            ]
        ),
    )
    return lambda epoch, index: dataset[index]


def our_dataset(root: Path) -> ImageDataset:
    """The dataset of the MAE pretraining recipes."""
    settings = DataSettings.model_validate(
        {"name": "photographs", "root": str(root), "augment": {"crop": {"scale": [0.2, 1.0]}}}
    )
    return train_dataset(settings, root)


def seconds(pipeline: Pipeline, epoch: int, images: int) -> float:
    """Processor time of one pass over all images."""
    began = time.process_time()
    for index in range(images):
        pipeline(epoch, index)
    return time.process_time() - began


def measure(images: int, rounds: int) -> dict[str, float]:
    """Images per second and core of each pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write_photographs(root / "train" / "photographs", images)
        print(f"{images} JPEG files of {WIDTH}x{HEIGHT}, {size / 1000:.0f} kB each on average")
        dataset = our_dataset(root)

        def with_normalisation(epoch: int, index: int) -> object:
            image = dataset[(epoch, index)]["image"]
            return normalise(image[None], IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

        pipelines: dict[str, Pipeline] = {
            "reference": reference(root / "train"),
            "ours": lambda epoch, index: dataset[(epoch, index)],
            "ours, normalised on the same core": with_normalisation,
        }
        times: dict[str, list[float]] = {name: [] for name in pipelines}
        for epoch in range(rounds + 1):
            for name, pipeline in pipelines.items():
                times[name].append(seconds(pipeline, epoch, images))
        return {name: images / statistics.median(taken[1:]) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Images per second and core of the input pipeline.")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rates = measure(options.images, options.rounds)
    for name, rate in rates.items():
        print(f"{name:34s} {rate:7.0f} images/s a core   {rate / rates['reference']:.2f}x")
    print(f"wanted: ours at least {WANTED}x the reference")


if __name__ == "__main__":
    main()
