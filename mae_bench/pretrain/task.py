"""MAE pretraining as a task: its settings, and what `mae_bench.train.fit` needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mae_bench.adapter import Batch, Metric, TrainedAdapter
from mae_bench.errors import MaeBenchError
from mae_bench.settings import HANDLING, LATER, RUNTIME, Count, Positive, Settings, TrainedConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mae_bench.backbones import Backbone
    from mae_bench.data import ImageDataset
    from mae_bench.pretrain.model import MaskedAutoencoder
    from mae_bench.run import Run
    from mae_bench.survey import Survey

EVALUATION_BATCH = 128

Side = Annotated[list[Count], Field(min_length=2, max_length=2)]


class EncoderArguments(Settings):
    """What of the architecture to change; null keeps what its name says."""

    patch_size: Count | Side | None = None
    """Side, or height and width, in pixels."""
    embed_dim: Count | None = None
    depth: Count | None = None
    num_heads: Count | None = None
    mlp_ratio: Positive | None = None
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    init_values: Positive | None = None
    """Initial LayerScale."""
    class_token: bool | None = None
    reg_tokens: Annotated[int, Field(ge=0)] | None = None
    no_embed_class: bool | None = None
    """Whether class token and registers go without a position embedding."""
    pre_norm: bool | None = None


class EncoderSettings(Settings):
    """The ViT that is pretrained."""

    arch: str
    """Name of a plain ViT in timm, for example ``vit_base_patch16_224``."""
    args: EncoderArguments = EncoderArguments()


class DecoderSettings(Settings):
    """The transformer that predicts the target; it is thrown away after pretraining."""

    dim: Count = 512
    depth: Count = 8
    heads: Count = 16
    mlp_ratio: Positive = 4.0


class PCASettings(Settings):
    """PCA coefficients of patches as the target (arXiv:2111.06377, Table 1d)."""

    coefficients: Count = 96
    """How many, the largest first."""
    images: Count = 10_000
    """Training images whose patches the components are found on; all, if there are fewer."""


class MAEConfig(TrainedConfig):
    """Settings of MAE pretraining."""

    model: EncoderSettings
    decoder: DecoderSettings = DecoderSettings()
    mean: list[float] = Field([0.485, 0.456, 0.406], min_length=1)
    """Mean of the pixels in [0, 1], one for each of `data.channels`."""
    std: list[Positive] = Field([0.229, 0.224, 0.225], min_length=1)
    """Standard deviation of the pixels, likewise."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    masking: Literal["random", "block", "grid"] = "random"
    norm_pix: bool = True
    """Predict each patch normalised by its own mean and variance."""
    pca: PCASettings | None = Field(None, json_schema_extra=LATER)
    """Predict PCA coefficients of each patch instead of pixels; needs `norm_pix` false."""
    loss_on: Literal["masked", "all"] = "masked"
    positions: Literal["sincos", "learned"] = "sincos"
    """Position embeddings of encoder and decoder: fixed sine-cosine, or learned."""
    mask_token: Literal["decoder", "encoder"] = Field("decoder", json_schema_extra=LATER)
    """Where mask tokens stand for hidden patches. `encoder` (Table 1c): the encoder works on every place,
    at several times the cost, and the decoder on what it gives."""
    evaluate_on: Literal["val", "train"] = Field("val", json_schema_extra=RUNTIME)
    """Images that the final loss is measured on, not augmented; `train` where there is no val split."""
    export_official: bool = Field(False, json_schema_extra=HANDLING)
    """Also write `mae_official.pth`, the whole model under the names of facebookresearch/mae."""

    @model_validator(mode="after")
    def _channels_agree(self) -> MAEConfig:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        if len(self.mean) != self.data.channels:
            raise ValueError(
                f"mean has {len(self.mean)} channels and data.channels is {self.data.channels}; give mean "
                "and std a value for each"
            )
        if self.decoder.dim % self.decoder.heads:
            raise ValueError(
                f"decoder.dim {self.decoder.dim} is not divisible by decoder.heads {self.decoder.heads}"
            )
        if self.pca is not None and self.norm_pix:
            raise ValueError("pca is another target than normalised pixels; give norm_pix=false")
        if self.export_official and (self.pca is not None or self.mask_token == "encoder"):
            raise ValueError(
                "facebookresearch/mae has no mask token in its encoder and predicts pixels; "
                "give export_official=false"
            )
        if self.optim.layer_decay is not None:
            raise ValueError("optim.layer_decay is for fine-tuning; give null")
        return self

    def timm_arguments(self) -> dict[str, Any]:
        """The arguments that the recipe gives to the architecture, besides its image size and channels."""
        return self.model.args.model_dump(exclude_none=True)


class MAEPretraining(TrainedAdapter[MAEConfig]):
    """Masked autoencoding (He et al., arXiv:2111.06377).

    Leaves `encoder.safetensors` in timm's key format, which the backbone source ``run:FOLDER`` reads, and
    `model.safetensors`, the whole model.
    """

    task: ClassVar[str] = "mae-pretraining"
    metrics: ClassVar[Mapping[str, Metric]] = {"loss": Metric("", False, "reconstruction loss")}
    Config: ClassVar[type[TrainedConfig]] = MAEConfig
    needs_backbone: ClassVar[bool] = False
    _train_images: int

    def model(self, backbone: Backbone | None, run: Run) -> nn.Module:
        """The autoencoder with fresh weights."""
        from mae_bench.pretrain import principal
        from mae_bench.pretrain.model import from_config

        model = from_config(self.config)
        if model.pca is not None:
            principal.find(model.pca.to(run.device), self.config, run, model.patch)
        return model

    def train_set(self, run: Run) -> ImageDataset:
        """The training images; the images to evaluate on are opened too, so that a fault shows at once."""
        from mae_bench import data

        images = data.train_dataset(
            self.config.data, run.data_root, self.config.seed, labelled=False, mean=self.config.mean
        )
        self.evaluation_set(run)
        self._train_images = len(images)
        return images

    def step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of one micro-batch; masks follow from the samples' keys."""
        return {"loss": model(self._pixels(batch), batch["key"])}

    def evaluate(self, model: nn.Module, run: Run) -> dict[str, float]:
        """The mean reconstruction loss over the evaluation images, each masked once, always alike."""
        import torch

        from mae_bench import data

        images = self.evaluation_set(run)
        total = torch.zeros(2, dtype=torch.float64, device=run.device)
        batches = data.evaluation_batches(
            images, batch=EVALUATION_BATCH, rank=run.rank, world=run.world, workers=self.config.data.workers
        )
        for batch in batches:
            there = data.to_device(batch, run.device)
            with run.autocast():
                losses: Tensor = model.losses(self._pixels(there), there["key"])  # type: ignore[operator]
            total += torch.stack([losses.double().sum(), total.new_tensor(len(losses))])
        loss_sum, count = run.sum(total).tolist()
        if int(count) != len(images):
            raise RuntimeError(f"evaluated {int(count)} of {len(images)} images")
        run.record(dataset={"val_images": len(images) if self.config.evaluate_on == "val" else None})
        return {"loss": loss_sum / count}

    def finish(self, model: nn.Module, run: Run) -> None:
        """Write the encoder for downstream tasks and, where wanted, the model under the official names."""
        from mae_bench.pretrain.export import save_for_transfer, save_official
        from mae_bench.pretrain.model import MaskedAutoencoder

        assert isinstance(model, MaskedAutoencoder)
        save_for_transfer(model, self.config, run, images=self._train_images)
        if self.config.export_official:
            save_official(model, run.folder / "mae_official.pth")

    def check(self, run: Run) -> list[str]:
        """Build the model and open the data, without training."""
        from mae_bench.pretrain.model import from_config

        model = from_config(self.config)
        images = self.train_set(run)
        evaluated = self.evaluation_set(run)
        rows, columns = model.grid
        return [
            f"model {self.config.model.arch}: encoder of {_millions(model.encoder)} and decoder of "
            f"{_millions(model.decoder)} million weights; {model.kept} of {rows} x {columns} patches visible",
            f"data {self.config.data.name}: {len(images):,} training images",
            f"evaluation on {len(evaluated):,} images of {self.config.evaluate_on}",
        ]

    def survey(self, data_root: Path) -> Survey:
        """The images that are trained on and those that the loss is measured on, without classes."""
        from mae_bench.data.surveying import survey

        splits: tuple[Literal["train", "val"], ...] = ("train", "val")
        splits = splits if self.config.evaluate_on == "val" else ("train",)
        return survey(self.config.data, data_root, labelled=False, splits=splits)

    def visualize(self, run: Run, images: list[str], count: int) -> list[str]:
        """Draw original, masked image, reconstruction, and that with the visible patches put back."""
        from mae_bench.pretrain.pictures import draw_run

        path: Path = draw_run(self, run, images, count)
        return [str(path)]

    def trained_model(self, run: Run) -> MaskedAutoencoder:
        """The model with the weights of the run's folder: the final ones, or those of the newest checkpoint.

        Raises:
            MaeBenchError: the run has not saved any yet.
        """
        from mae_bench.pretrain.export import load_run

        return load_run(self.config, run.folder)

    def evaluation_set(self, run: Run) -> ImageDataset:
        """The images that `evaluate` uses, without augmentation.

        Raises:
            MaeBenchError: there is no such split, or it holds no images.
        """
        from mae_bench import data
        from mae_bench.data.readers import MissingSplitError

        settings = self.config.data
        if self.config.evaluate_on == "train":
            settings = settings.model_copy(update={"val": settings.train})
        try:
            return data.val_dataset(settings, run.data_root, labelled=False)
        except MissingSplitError as error:
            raise MaeBenchError(
                f"{error} (evaluate_on=train measures the loss on training images)"
            ) from error

    def _pixels(self, batch: Batch) -> Tensor:
        from mae_bench.augment import normalise

        return normalise(batch["image"], self.config.mean, self.config.std)


def _millions(module: nn.Module) -> str:
    return f"{sum(param.numel() for param in module.parameters()) / 1e6:.1f}"
