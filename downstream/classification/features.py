"""Features of a frozen backbone, computed once and kept on disk.

A cache file is named by the digest of all that decides its content: the weights, the part of the network,
the transform, the images, and the precision. It holds a digest of its own tensors, so a damaged file is
noticed, said and replaced.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from downstream.classification.inference import InParts
from downstream.classification.scoring import BATCH, own_share
from mae_bench import screen
from mae_bench.augment import normalise
from mae_bench.backbones import Backbone
from mae_bench.data import ImageDataset, evaluation_batches
from mae_bench.data.decoding import UnreadableImageError
from mae_bench.precision import suit_attention
from mae_bench.run import Run
from mae_bench.settings import DataSettings, digest_of

# Images whose features are gathered from all processes at once.
SLAB = 8192
# Images whose pixels go into the key of a cache file, besides the names and labels of all of them.
PROBES = 512


@dataclass(frozen=True)
class Features:
    """Features of a dataset in its order, on the CPU.

    Attributes:
        values: (N, ...) float32.
        labels: (N,) int64, as read (an unreadable image has its stand-in's label).
    """

    values: Tensor
    labels: Tensor

    def rows(self, indices: Tensor) -> Features:
        """Those of some images."""
        return Features(self.values[indices], self.labels[indices])


def features_of(
    dataset: ImageDataset,
    data: DataSettings,
    run: Run,
    backbone: Backbone,
    part: str,
    forward: Callable[[Tensor], Tensor],
) -> Features:
    """Features of images as the evaluation transform makes them, from the cache if they are there.

    Args:
        dataset: with the evaluation transform.
        part: which part of the backbone `forward` computes, for example ``cls`` or ``trunk-8``.
        forward: normalised images (B, 3, H, W) -> (B, ...), with the backbone in evaluation mode.

    Returns:
        All features, on every process.

    Raises:
        MaeBenchError: unreadable images (see `ImageDataset`).
    """
    key = cache_key(dataset, data, run.precision, backbone, part)
    path = run.runs_root / ".cache" / "features" / f"{key}.safetensors"
    found = read(path, key, len(dataset))
    everywhere = int(run.sum(torch.tensor([int(found is not None)]))) == run.world
    if found is not None and everywhere:
        screen.say(f"features of {len(dataset):,} images: read from {path}")
        return found
    # One attention kernel for whoever computes them first, so that a shared file depends on no order of runs.
    suit_attention(backbone, run.device, run.precision)
    computed = _compute(dataset, data, run, backbone, forward)
    bad = int(run.sum(torch.tensor([len(dataset.bad)])))
    # Features with stand-ins would hide the unreadable images from the next run.
    if run.is_main and not bad:
        write(path, key, computed)
    run.barrier()
    return computed


def cache_key(
    dataset: ImageDataset, data: DataSettings, precision: str, backbone: Backbone, part: str
) -> str:
    """SHA-256 of all that decides the features."""
    facts: dict[str, Any] = {
        "format": 1,
        "weights": backbone.digest,
        "arch": backbone.arch,
        "model_args": {name: str(value) for name, value in backbone.model_args.items()},
        "part": part,
        "images": dataset.fingerprint(),
        "pixels": pixels_digest(dataset),
        "image_size": list(data.image_size),
        "resize": data.evaluation.resize,
        "interpolation": data.interpolation,
        "statistics": [list(backbone.mean), list(backbone.std)],
        "precision": precision,
    }
    return digest_of(facts)


def pixels_digest(dataset: ImageDataset) -> str:
    """SHA-256 of the pixels of `PROBES` images spread evenly over a dataset, or of all if there are fewer.

    Names and labels do not tell two sets apart that are laid out alike, such as the two splits of a balanced
    dataset, or a dataset made anew in the same place. Reading every image would cost what the cache saves; so
    a change of single images in a large set goes unnoticed.
    """
    digest = hashlib.sha256()
    probes = min(PROBES, len(dataset))
    for number in range(probes):
        try:
            image = dataset.decoded(number * len(dataset) // probes)
        except (UnreadableImageError, OSError):
            # Whether that stops the run is decided where the image is needed.
            digest.update(b"unreadable")
            continue
        digest.update(str(tuple(image.shape)).encode())
        digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


def read(path: Path, key: str, images: int) -> Features | None:
    """The features of a cache file, or None if it is not there or (said aloud) not intact."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            found = Features(file.get_tensor("values"), file.get_tensor("labels"))
    except (SafetensorError, OSError) as error:
        _say_damaged(path, str(error))
        return None
    if facts.get("key") != key or len(found.values) != images or len(found.labels) != images:
        _say_damaged(path, "it is of other images")
        return None
    if facts.get("sha256") != _digest(found):
        _say_damaged(path, "its content does not match its digest")
        return None
    return found


def write(path: Path, key: str, features: Features) -> None:
    """Write a cache file completely or not at all; a disk that is full costs the cache, not the run."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        os.close(handle)
        tensors = {"values": features.values.contiguous(), "labels": features.labels.contiguous()}
        save_file(tensors, temporary, metadata={"key": key, "sha256": _digest(features)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        screen.warn(f"the features could not be kept in {path} ({error}); the next run computes them again")
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _say_damaged(path: Path, reason: str) -> None:
    screen.warn(f"{path} is damaged ({reason}); the features are computed again")


def _digest(features: Features) -> str:
    digest = hashlib.sha256(str(tuple(features.values.shape)).encode())
    for tensor in (features.values, features.labels):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _compute(
    dataset: ImageDataset,
    data: DataSettings,
    run: Run,
    backbone: Backbone,
    forward: Callable[[Tensor], Tensor],
) -> Features:
    in_parts = InParts(forward)
    values: list[Tensor] = []
    labels: list[Tensor] = []
    indices: list[Tensor] = []
    with screen.progress("features", own_share(dataset, run), "images") as work:
        for batch in evaluation_batches(
            dataset, batch=BATCH, rank=run.rank, world=run.world, workers=data.workers
        ):
            images = normalise(batch["image"].to(run.device, non_blocking=True), backbone.mean, backbone.std)
            with run.autocast():
                values.append(in_parts(images).float().cpu())
            labels.append(batch["label"])
            indices.append(batch["index"])
            work.advance(len(images))
    run.note_unreadable(dataset)
    if run.world == 1:
        return Features(torch.cat(values), torch.cat(labels))
    return _gathered(torch.cat(values), torch.cat(labels), torch.cat(indices), len(dataset), run)


def _gathered(values: Tensor, labels: Tensor, indices: Tensor, images: int, run: Run) -> Features:
    """The rows of all processes in the dataset's order, slab by slab: the device need not hold all."""
    everything = Features(values.new_empty(images, *values.shape[1:]), labels.new_full((images,), -1))
    for start in range(0, -(-images // run.world), SLAB):
        slab = slice(start, start + SLAB)
        where = run.gather(indices[slab]).cpu()
        everything.values[where] = run.gather(values[slab]).cpu()
        everything.labels[where] = run.gather(labels[slab]).cpu()
    return everything
