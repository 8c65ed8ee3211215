"""What a pretraining run leaves: the encoder for transfer, the whole model, the authors' key format."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mae_bench import checkpoints
from mae_bench.backbones.weights import ENCODER_FILE, read_checkpoint, save_encoder
from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.pretrain.facts import pretraining_facts
from mae_bench.pretrain.model import MaskedAutoencoder, from_config

if TYPE_CHECKING:
    from mae_bench.pretrain.task import MAEConfig
    from mae_bench.run import Run

MODEL_FILE = "model.safetensors"

# Ours -> the names of facebookresearch/mae, models_mae.py.
_OFFICIAL = (
    (re.compile(r"encoder\."), ""),
    (re.compile(r"decoder\.mask_token"), "mask_token"),
    (re.compile(r"decoder\."), "decoder_"),
)


def encoder_state(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The encoder's weights under timm's names, positions included, without head."""
    return dict(model.encoder.state_dict())


def save_for_transfer(model: MaskedAutoencoder, config: MAEConfig, run: Run, images: int) -> Path:
    """Write `encoder.safetensors` into the run's folder, as the backbone source ``run:`` reads it.

    Args:
        images: size of the training set.
    """
    metadata = {
        "arch": config.model.arch,
        "image_size": config.data.image_size,
        "channels": len(config.mean),
        "mean": config.mean,
        "std": config.std,
        "model_args": config.timm_arguments(),
        "pretraining": pretraining_facts(config, run, images),
    }
    return save_encoder(run.folder / ENCODER_FILE, encoder_state(model), metadata)


def load_run(config: MAEConfig, folder: Path) -> MaskedAutoencoder:
    """The model of a run's folder, on the CPU: the final weights, else those of the newest checkpoint.

    Raises:
        MaeBenchError: the run has saved nothing yet, or what it saved is damaged.
    """
    model = from_config(config)
    if (folder / MODEL_FILE).exists():
        state: Mapping[str, Any] = read_checkpoint(folder / MODEL_FILE)[0]
    else:
        saved = checkpoints.load_newest(folder / "checkpoints")
        if saved is None:
            raise MaeBenchError(f"{folder} holds no weights yet: neither {MODEL_FILE} nor a checkpoint")
        state = saved["average"] if saved["average"] is not None else saved["model"]
    model.load_state_dict(state)
    return model


def official_state(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """The whole model under the names of facebookresearch/mae (`decoder_embed`, `decoder_blocks`, ...).

    Raises:
        MaeBenchError: their model has no counterpart for a part of ours.
    """
    vit = model.encoder
    if model.mask_token is not None or model.pca is not None:
        raise MaeBenchError("the official format is for mask tokens in the decoder and pixels as the target")
    if vit.cls_token is None or vit.reg_token is not None or vit.no_embed_class:
        raise MaeBenchError(
            "the official format is for a class token with a position and no registers; export_official=false"
        )
    return {_official_name(name): tensor for name, tensor in model.state_dict().items()}


def load_official(model: MaskedAutoencoder, state: Mapping[str, Tensor]) -> None:
    """Load weights that `official_state`, or facebookresearch/mae itself, wrote (the content of ``model``).

    Raises:
        MaeBenchError: names or shapes differ.
    """
    ours = {_official_name(name): name for name in model.state_dict()}
    if set(ours) != set(state):
        missing, unexpected = sorted(set(ours) - set(state)), sorted(set(state) - set(ours))
        raise MaeBenchError(
            f"not the weights of this model: missing {missing[:5]}, unexpected {unexpected[:5]}"
        )
    own = model.state_dict()
    for theirs, name in ours.items():
        if own[name].shape != state[theirs].shape:
            raise MaeBenchError(
                f"{theirs} is {tuple(state[theirs].shape)} there and {tuple(own[name].shape)} in this model"
            )
    model.load_state_dict({name: state[theirs] for theirs, name in ours.items()})


def save_official(model: MaskedAutoencoder, path: Path) -> Path:
    """Write ``{"model": official_state(model)}`` as torch.save does."""
    stream = io.BytesIO()
    torch.save({"model": {name: tensor.cpu() for name, tensor in official_state(model).items()}}, stream)
    return write_atomic(path, stream.getvalue())


def _official_name(name: str) -> str:
    for ours, theirs in _OFFICIAL:
        if ours.match(name):
            return ours.sub(theirs, name, count=1)
    return name
