"""Convolutions with norm and activation, of which pyramid and heads are made, and their initial weights."""

from __future__ import annotations

from typing import Literal

from timm.layers import LayerNorm2d
from timm.layers.fast_norm import fast_layer_norm
from torch import Tensor, nn

Norm = Literal["layer", "batch"]
Fill = Literal["default", "he", "xavier"]


class ChannelNorm(LayerNorm2d):
    """LayerNorm over the channels of each place of a map, with eps 1e-6.

    Under autocast it reads and writes the low precision, with statistics in float32: what follows is a
    convolution, which would round its input anyway, so half the memory goes for nothing lost.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        last = x.permute(0, 2, 3, 1)
        normed: Tensor = fast_layer_norm(last, list(self.normalized_shape), self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


def norm_of(kind: Norm, channels: int) -> nn.Module:
    """The norm of pyramid and heads, by its name in the settings."""
    return ChannelNorm(channels) if kind == "layer" else nn.BatchNorm2d(channels)


class ConvNorm(nn.Sequential):
    """A convolution that keeps the size of the map, then a norm and a ReLU where they are wanted.

    Attributes:
        conv: the convolution, without bias where a norm follows.
        norm: the norm; there is none without `norm`.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        size: int,
        *,
        norm: Norm | None = None,
        relu: bool = False,
        fill: Fill = "default",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, size, padding=size // 2, bias=norm is None)
        initialise(self.conv, fill)
        if norm is not None:
            self.norm = norm_of(norm, outside)
        if relu:
            self.relu = nn.ReLU(inplace=True)


def initialise(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, fill: Fill) -> None:
    """Initial weights: PyTorch's own, He's for ReLU by fan-out, or uniform by fan-in; the latter with bias 0.

    He et al., arXiv:1502.01852; the uniform one is what Caffe2 calls XavierFill (bound sqrt(3 / fan-in)).
    """
    if fill == "default":
        return
    if fill == "he":
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def draw_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Initial weights of a layer that predicts: normal with deviation `std`, bias 0."""
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
