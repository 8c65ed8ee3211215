"""The one surface of a backbone that every task sees.

`mae_bench.backbones.plain` gives it to plain ViTs, `mae_bench.backbones.hierarchical` to networks whose maps
fall in resolution. Shapes: B images, C channels, H x W pixels, P prefix tokens (class token first, then
registers), h x w patches, D width, L blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mae_bench.backbones.report import LoadReport
from mae_bench.errors import MaeBenchError


class Backbone(nn.Module):
    """A network without head, at any image size that its patches or strides divide.

    Attributes:
        spec: the text that named it, for example ``timm:vit_base_patch16_224.mae``.
        arch: timm's name of the architecture, or the class of a user's own module.
        family: which kind of network it is, as `mae-bench list backbones` has it.
        model_args: arguments with which it was built, besides name, image size, channels and classes.
        hierarchical: whether its maps fall in resolution; a plain ViT has one resolution.
        depth: L.
        width: D, of the tokens.
        prefix_tokens: P.
        has_class_token: whether the first prefix token is a class token.
        patch_size: (height, width) in pixels of what one patch token stands for.
        image_size: (height, width) in pixels of the images that the weights stand for.
        channels: C.
        mean, std: normalisation of the input per channel, on a scale of 0 to 1.
        digest: SHA-256 of the weights as loaded.
        report: what was loaded from where.
        pretraining: facts about the pretraining run, where they are known.
        frozen_blocks: how many blocks from the first on are frozen whole, so that
            ``trunk(images, frozen_blocks)`` stays the same; 0 where the embeddings are trained.
        windows: whether its blocks can be made to attend in windows (ViTDet).
        halves: whether half a block can be frozen.
        splits: whether `trunk` and `rest` divide it, so that the frozen part can be computed once.
    """

    hierarchical: ClassVar[bool]
    splits: ClassVar[bool] = False
    halves: bool = False
    windows: bool = False
    patch_size: tuple[int, int]

    def __init__(
        self,
        *,
        spec: str,
        arch: str,
        family: str,
        report: LoadReport,
        depth: int,
        width: int,
        channels: int,
        model_args: Mapping[str, Any] | None = None,
        pretraining: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.arch = arch
        self.family = family
        self.model_args = dict(model_args or {})
        self.depth = depth
        self.width = width
        self.channels = channels
        self.prefix_tokens = 0
        self.has_class_token = False
        self.image_size = report.image_size
        self.mean = report.mean
        self.std = report.std
        self.digest = report.digest_after
        self.report = report
        self.pretraining = dict(pretraining) if pretraining is not None else None
        self.frozen_blocks = 0
        self._frozen: tuple[str, ...] = ()

    # ------------------------------------------------------------ features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The same as `tokens`."""
        return self.tokens(images)

    @abstractmethod
    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features of normalised images (B, C, H, W) after the final norm.

        Returns:
            Prefix tokens (B, P, D) and patch tokens (B, h, w, D).

        Raises:
            MaeBenchError: the patch size does not divide H and W, or C is not the backbone's.
        """

    @abstractmethod
    def maps(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch tokens after each of `blocks` (counted from 0, negative from the end), before the final norm.

        Returns:
            One map (B, D_i, h_i, w_i) for each of `blocks`, in their order.

        Raises:
            MaeBenchError: there is no such block; as for `tokens`.
        """

    def check_images(self, images: Tensor) -> None:
        """Raise a MaeBenchError unless `images` are (B, C, H, W) with the backbone's C."""
        if images.ndim != 4 or images.shape[1] != self.channels:
            raise MaeBenchError(
                f"{self.spec} takes images of {self.channels} channels (B, {self.channels}, H, W), not "
                f"{tuple(images.shape)}"
            )

    def numbered(self, blocks: Sequence[int]) -> list[int]:
        """`blocks` counted from 0.

        Raises:
            MaeBenchError: there is no such block.
        """
        found = [block + self.depth if block < 0 else block for block in blocks]
        wrong = [block for block, index in zip(blocks, found, strict=True) if not 0 <= index < self.depth]
        if wrong:
            raise MaeBenchError(f"{self.spec} has blocks 0 to {self.depth - 1}, so none of number {wrong[0]}")
        return found

    # ------------------------------------------------------------ training

    @abstractmethod
    def layer_names(self) -> list[list[str]]:
        """Every parameter's name once, in depth order: embeddings, block 0, ..., block L-1, final norm.

        The last is empty where there is no final norm, or where `remove_norm` took it away.
        """

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that the network's authors exempt from weight decay by name."""

    @abstractmethod
    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth (arXiv:1603.09382): 0 in the first block, linearly up to `rate` in the last.

        Raises:
            MaeBenchError: the rate is not in [0, 1).
        """

    @abstractmethod
    def remove_norm(self) -> None:
        """Take the final norm away, for tasks that read maps or bring a norm of their own."""

    @abstractmethod
    def _parts(self, blocks: int) -> list[str]:
        """Names of modules and parameters that make up the embeddings and the first `blocks` blocks."""

    def _half(self, block: int) -> list[str]:
        """Names of what makes up the attention of a block, where `halves`."""
        raise NotImplementedError

    def depths(self, rate: float) -> list[float]:
        """The rate of stochastic depth of each block.

        Raises:
            MaeBenchError: the rate is not in [0, 1).
        """
        if not 0 <= rate < 1:
            raise MaeBenchError(f"drop_path should be at least 0 and less than 1, not {rate}")
        return [rate * index / max(self.depth - 1, 1) for index in range(self.depth)]

    def freeze(self, blocks: float | Literal["all"] = "all") -> None:
        """Freeze the embeddings and the first `blocks` blocks; ``"all"`` freezes the final norm as well.

        0 freezes nothing, not even the embeddings. A half, as in L - 0.5, freezes the attention of the
        next block and leaves its MLP (with norm and LayerScale) trainable. Frozen parts need no gradient
        and stay in evaluation mode whatever `train` says.

        Raises:
            MaeBenchError: not a multiple of 0.5 between 0 and L, or of 1 where blocks cannot be halved.
        """
        if blocks != "all":
            self._countable(blocks, f"so {blocks} of them cannot be frozen")
        whole = self.depth if blocks == "all" else int(blocks)
        if blocks == "all":
            self._frozen = ("",)
        elif blocks == 0:
            self._frozen = ()
        else:
            self._frozen = (*self._parts(whole), *(self._half(whole) if blocks != whole else ()))
        self.frozen_blocks = whole if self.splits else 0
        for name, param in self.named_parameters():
            param.requires_grad_(not self._is_frozen(name))
        self.train(self.training)

    def trainable_from(self, blocks: float) -> None:
        """Leave the last `blocks` blocks and the final norm trainable, as in partial fine-tuning.

        0 leaves nothing, 0.5 the last MLP and the final norm, L everything, embeddings included (MAE,
        arXiv:2111.06377, section 4.3 and figure 9).

        Raises:
            MaeBenchError: not a multiple of 0.5 between 0 and L, or of 1 where blocks cannot be halved.
        """
        self._countable(
            blocks,
            f"so the last {blocks} cannot be tuned: give a number of blocks up to {self.depth}"
            + (", or a half more (0.5 is the last MLP)" if self.halves else ""),
        )
        self.freeze("all" if blocks == 0 else self.depth - blocks)

    def freeze_after(self, block: int) -> None:
        """Freeze the blocks behind `block`, which a task does not use.

        What gets no gradient is taken for an error by distributed training.
        """
        behind = {name for layer in self.layer_names()[block + 2 : -1] for name in layer}
        for name, param in self.named_parameters():
            if name in behind:
                param.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Set training mode on what is not frozen."""
        super().train(mode)
        if mode:
            for name, module in self.named_modules():
                if name and self._is_frozen(name):
                    module.eval()
        return self

    def _is_frozen(self, name: str) -> bool:
        return any(prefix == "" or f"{name}.".startswith(f"{prefix}.") for prefix in self._frozen)

    def _countable(self, blocks: float, otherwise: str) -> None:
        step = 0.5 if self.halves else 1.0
        if not 0 <= blocks <= self.depth or blocks / step != int(blocks / step):
            halved = "" if self.halves or blocks == int(blocks) else ", none of which can be halved,"
            raise MaeBenchError(f"{self.spec} has {self.depth} blocks{halved or ','} {otherwise}")
