"""Whether a network in timm's architecture gives what the module gives that its weights came from.

Names and shapes of tensors do not show how many heads an attention has, nor which activation stands between
its layers; the outputs do.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mae_bench import screen
from mae_bench.backbones.calling import raised
from mae_bench.backbones.surface import Backbone
from mae_bench.backbones.trying import smooth_images

_CLOSE = 1e-3  # of the largest value, in fp32


def compare(net: nn.Module, backbone: Backbone, folder: Path) -> str:
    """Run both on one image of the backbone's size, and say in a sentence how their outputs compare.

    What the module gives is looked for among the class token, the mean of the patches, and both joined. A
    module that gives something else of the same width is warned of.

    Args:
        net: the module, in fp32.
        folder: where its code lies.
    """
    images = smooth_images(1, backbone.channels, backbone.image_size)
    was_training = net.training, backbone.training
    try:
        with torch.no_grad():
            theirs = net.eval()(images)
            prefix, patches = backbone.eval().tokens(images)
    except Exception as error:  # Foreign code raises anything.
        return f"its own output could not be compared: it raised {raised(error, folder)}"
    finally:
        net.train(was_training[0])
        backbone.train(was_training[1])
    mean = patches.mean((1, 2))
    ours: dict[str, Tensor] = {"mean of the patches": mean}
    if backbone.has_class_token:
        token = prefix[:, 0]
        ours = {
            "class token": token,
            **ours,
            "class token and mean of the patches": torch.cat([token, mean], 1),
        }
    if not isinstance(theirs, Tensor) or theirs.shape not in {value.shape for value in ours.values()}:
        return "its own output could not be compared: it is no vector of features"
    for name, value in ours.items():
        if value.shape == theirs.shape:
            difference = float((value - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))
            if difference <= _CLOSE:
                return (
                    f"the module that they came from gives the same {name} (to {difference:.0e} of its "
                    "largest value)"
                )
    warning = (
        f"{backbone.arch} does not give what the module gives that the weights came from; if heads or "
        "activation differ, name the right architecture with arch=NAME"
    )
    screen.warn(f"{backbone.spec}: {warning}")
    return warning
