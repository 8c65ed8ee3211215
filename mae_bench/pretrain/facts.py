"""What is on record of a pretraining: `backbone.pretraining` in the result of whatever uses the encoder.

Tables of ablations name and sort their rows by these facts, so they hold what the ablations of
arXiv:2111.06377 (Tables 1 and 2, Figures 5 and 7) vary, in the paper's words where it has some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mae_bench import recipe, settings
from mae_bench.data import steps_per_epoch
from mae_bench.pretrain.model import from_config

if TYPE_CHECKING:
    from mae_bench.pretrain.task import MAEConfig
    from mae_bench.run import Run

_CROPS = {
    "random_resized": "crop, rand size",
    "random_resized_once": "crop, rand size (one draw)",
    "fixed": "crop, fixed size",
    "pad": "crop, padded",
}


def pretraining_facts(config: MAEConfig, run: Run, images: int) -> dict[str, Any]:
    """The facts of a run that is about to end: `recipe_facts`, its length and what it took.

    Args:
        images: size of the training set.
    """
    steps, per_epoch = config.train.steps, steps_per_epoch(images, config.train.batch)
    if steps is None:
        steps = max(1, round((config.train.epochs or 0) * per_epoch))
    seen, seconds, hardware = steps * config.train.batch, run.elapsed, run.hardware()
    return {
        **recipe_facts(config),
        "epochs": round(steps / per_epoch, 4),
        "images_seen": seen,
        # Of the whole run, with start and evaluation, interrupted parts included.
        "wall_clock_h": round(seconds / 3600, 4),
        "images_per_s": round(seen / seconds, 3),
        "device": hardware["device"],
        "processes": hardware["processes"],
    }


def recipe_facts(config: MAEConfig) -> dict[str, Any]:
    """What follows from the settings alone."""
    return {
        "method": "MAE",
        "arch": config.model.arch,
        "dataset": config.data.name,
        "decoder_depth": config.decoder.depth,
        "decoder_width": config.decoder.dim,
        "mask_token": config.mask_token,
        "relative_flops": relative_flops(config),
        "target": target(config),
        "norm_pix": config.norm_pix,
        "loss_on": config.loss_on,
        "augmentation": augmentation(config),
        "masking": config.masking,
        "mask_ratio": config.mask_ratio,
        "recipe": config.recipe,
        "recipe_hash": settings.recipe_hash(config),
        **_protocol(config),
    }


def target(config: MAEConfig) -> str:
    """What is predicted, as Table 1d calls it."""
    if config.pca is not None:
        return f"PCA, {config.pca.coefficients} coefficients"
    return f"pixel ({'w/' if config.norm_pix else 'w/o'} norm)"


def augmentation(config: MAEConfig) -> str:
    """What is done to a training image, as Table 1e calls it, where every crop goes with a flip."""
    augment = config.data.augment
    parts = []
    crop = _CROPS.get(augment.crop.kind)
    if crop is not None:
        parts.append(crop if augment.flip > 0 else f"{crop}, no flip")
    elif augment.flip > 0:
        parts.append("flip")
    parts += ["color jit"] if augment.color_jitter > 0 else []
    parts += ["RandAugment"] if augment.rand_augment is not None else []
    parts += ["random erasing"] if augment.erase is not None else []
    return " + ".join(parts) or "none"


def relative_flops(config: MAEConfig) -> float:
    """FLOPs of a forward pass, as a multiple of those without mask tokens in the encoder."""
    if config.mask_token == "decoder":
        return 1.0
    without = config.model_copy(update={"mask_token": "decoder"})
    return round(_flops(config) / _flops(without), 3)


def _flops(config: MAEConfig) -> int:
    """Of one image, counted without computing anything."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = from_config(config)
        image = torch.empty(1, len(config.mean), *config.data.image_size)
        noise = torch.empty(1, model.grid[0] * model.grid[1])
        with FlopCounterMode(display=False) as counter:
            model(image, noise=noise)
    return int(counter.get_total_flops())


def _protocol(config: MAEConfig) -> dict[str, Any]:
    """The recipe that the run varies, and the settings in which it departs from that; None: not known."""
    published = recipe.published(config)
    departs = None
    if published is not None:
        departs = sorted(departure.key for departure in settings.deviations(config, published))
    return {"protocol": config.protocol or config.recipe, "departs": departs}
