"""Data, from files to batches; image classification here, other tasks derive from `Samples`.

`sources` opens a split: `readers` and `archives` list and read containers, `inaturalist` and `filelists` the
files that name images (`json_lists` reads large JSON, `presence` looks for the images), `tars` reads tar
files at random, `classes` settles which classes there are, `subsets` takes a part of the training images.
`decoding` makes tensors of files, `dataset` puts it together, `memory` keeps decoded images, `loaders` makes
batches. Everything random is a function of (seed, epoch, index): see `mae_bench.keys`.
"""

from mae_bench.data.dataset import ImageDataset, Named, Samples, holdout, numbers, train_dataset, val_dataset
from mae_bench.data.decoding import UnreadableImageError, as_rgb, decode
from mae_bench.data.loaders import (
    evaluation_batches,
    loader_processes,
    steps_per_epoch,
    to_device,
    training_batches,
)
from mae_bench.data.sources import Source, joint_digest, joint_fingerprint, make_if_generated, open_source
from mae_bench.keys import Draws, key_of

__all__ = [
    "Draws",
    "ImageDataset",
    "Named",
    "Samples",
    "Source",
    "UnreadableImageError",
    "as_rgb",
    "decode",
    "evaluation_batches",
    "holdout",
    "joint_digest",
    "joint_fingerprint",
    "key_of",
    "loader_processes",
    "make_if_generated",
    "numbers",
    "open_source",
    "steps_per_epoch",
    "to_device",
    "train_dataset",
    "training_batches",
    "val_dataset",
]
