"""What a user of detectron2 does with a configuration that a run of ours left; prints what came of it as JSON.

As detectron2's own tools/lazyconfig_train_net.py, in short.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mae_bench.backbones.weights import digest


def blocks(backbone: nn.Module) -> dict[str, Tensor]:
    """The weights of a plain ViT's blocks, which no change for detection touches."""
    return {
        name: value
        for name, value in backbone.state_dict().items()
        if ".blocks." in name and "rel_pos" not in name
    }


def main(file: Path) -> None:
    """Train one step after the run's checkpoint, then evaluate the run's weights by detectron2's evaluator."""
    warnings.simplefilter("ignore")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import LazyConfig, instantiate
    from detectron2.engine import SimpleTrainer, hooks
    from detectron2.evaluation import inference_on_dataset

    config = LazyConfig.load(str(file))
    model = instantiate(config.model)
    fresh = digest(blocks(model.backbone.body.backbone))
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    trainer = SimpleTrainer(model, instantiate(config.dataloader.train), optimizer)
    keeper = DetectionCheckpointer(model, config.train.output_dir, trainer=trainer)
    keeper.resume_or_load(config.train.init_checkpoint, resume=True)
    with torch.no_grad():
        scores = inference_on_dataset(
            model, instantiate(config.dataloader.test), instantiate(config.dataloader.evaluator)
        )
    start = trainer.iter + 1
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier))])
    trainer.train(start - 1, start)
    losses = {name: float(value[0]) for name, value in trainer.storage.latest().items()}
    print(json.dumps({"start": start, "fresh": fresh, "scores": scores, "losses": losses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
