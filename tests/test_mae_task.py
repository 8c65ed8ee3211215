"""Pretraining as a task: settings, a run from end to end, what it leaves behind, pictures, the shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import mae_bench
from mae_bench import recipe, resources, scenes, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.pretrain.export import load_run
from mae_bench.pretrain.model import from_config
from mae_bench.pretrain.pictures import GREY, grid_picture, reconstruction_columns
from mae_bench.pretrain.targets import patchify
from mae_bench.pretrain.task import MAEConfig
from mae_bench.validation import validate
from tests.closed_form import numbers
from tests.launch import finish, on_two_processes

VALUES: dict[str, Any] = {
    "task": "mae",
    "precision": "fp32",
    "data": {
        "name": "generated-tiny",
        "root": "generated/tiny",
        "train": "unlabeled",
        "image_size": [32, 32],
        "augment": {"crop": {"kind": "center"}, "flip": 0.5},
        "evaluation": {"resize": None},
        "cache": "memory",
        "workers": 0,
    },
    "model": {
        "arch": "vit_tiny_patch16_224",
        "args": {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
    },
    "decoder": {"dim": 16, "depth": 1, "heads": 2},
    "train": {"steps": 24, "batch": 40, "micro_batch": 20, "log_every_steps": 1},
    "optim": {"lr": 4.0e-3, "betas": [0.9, 0.95], "warmup_steps": 4},
    "export_official": True,
}


def config(**changes: Any) -> MAEConfig:
    """Validated settings; keys with dots joined by two underscores."""
    return validate(MAEConfig, {**values(**changes), "recipe": "test"})


def values(**changes: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(VALUES))
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = changed
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return changed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    scenes.ensure(root, "tiny")
    return root


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny-mae.yaml"
    path.write_text(yamlfile.dump(values(**changes)))
    return path


@pytest.fixture(scope="module")
def finished(world: Path) -> Path:
    """The folder of a finished run."""
    result = mae_bench.pretrain(
        str(write_recipe(world)), data_root=world, runs_root=world / "runs", name="finished"
    )
    assert result.metrics["loss"] > 0
    return world / "runs" / "finished"


def logged(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder__heads": 3}, "decoder.dim 16 is not divisible by decoder.heads 3"),
        ({"mean": [0.5]}, "mean has 1 channels and std has 3"),
        ({"std": [0.2, 0.2, 0.0]}, "std.2: should be more than 0"),
        ({"mask_ratio": 1.0}, "mask_ratio: should be less than 1"),
        ({"masking": "blocks"}, "masking: should be"),
        ({"model__args__patchsize": 4}, "model.args.patchsize: unknown key"),
        ({"model__args__depth": 2.5}, "model.args.depth: should be a whole number"),
        ({"optim__layer_decay": 0.75}, "optim.layer_decay is for fine-tuning"),
        ({"norm_pixel": True}, "norm_pixel: unknown key.*norm_pix"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__arch": "vit_tini_patch16_224"}, "timm has no model 'vit_tini_patch16_224'.*vit_tiny"),
        ({"model__arch": "resnet50", "model__args": {}}, "resnet50 is no plain ViT"),
        (
            {"model__arch": "eva02_tiny_patch14_224", "model__args": {"patch_size": 4}},
            "an MAE hides patches of a plain ViT",
        ),
        ({"data__image_size": [32, 30]}, "32x30 pixels cannot be cut into patches of 4x4"),
        ({"model__args__num_heads": 5}, "timm cannot build"),
        ({"mask_ratio": 0.99}, "mask_ratio: 0.99 leaves 0 of 64 patches"),
        ({"data__image_size": [28, 32], "masking": "grid"}, "even number of rows"),
    ],
)
def test_models_that_cannot_be_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        from_config(config(**changes))


def test_model_of_the_settings() -> None:
    model = from_config(
        config(
            data__image_size=[16, 32],
            model__args__patch_size=[4, 8],
            model__args__reg_tokens=3,
            data__channels=1,
            mean=[0.5],
            std=[0.25],
            mask_ratio=0.5,
        )
    )
    assert model.grid == (4, 4)
    assert model.patch == (4, 8)
    assert model.kept == 8
    assert model.encoder.patch_embed.proj.weight.shape == (24, 1, 4, 8)
    assert model.decoder.pos_embed.shape == (1, 1 + 3 + 16, 16)
    assert model(numbers((2, 1, 16, 32), 1).float(), torch.tensor([1, 2])).shape == ()


# ---------------------------------------------------------------- a run


def test_the_loss_falls(finished: Path) -> None:
    losses = logged(finished)
    assert len(losses) == 24
    assert sum(losses[-4:]) / 4 < 0.85 * sum(losses[:4]) / 4


def test_two_runs_are_equal_bit_for_bit(finished: Path, world: Path, tmp_path: Path) -> None:
    # Another micro-batch would round otherwise; all else must repeat exactly.
    again = mae_bench.pretrain(str(write_recipe(world)), data_root=world, runs_root=tmp_path, name="again")
    assert logged(tmp_path / "again") == logged(finished)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        finished / "model.safetensors"
    ).read_bytes()
    assert again.metrics == mae_bench.results.read_result(finished / "result.json").metrics


def test_the_micro_batch_changes_nothing_but_rounding(finished: Path, world: Path, tmp_path: Path) -> None:
    mae_bench.pretrain(
        str(write_recipe(tmp_path, train__micro_batch=8)), data_root=world, runs_root=tmp_path, name="other"
    )
    assert logged(tmp_path / "other") == pytest.approx(logged(finished), rel=1e-4)


def test_two_processes_find_the_same(finished: Path, world: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path)
    finish(on_two_processes(["-m", "tests.mae_main", str(world), str(path), str(tmp_path)]), tmp_path)
    # Masks follow from the samples, so only the order of sums differs.
    assert logged(tmp_path / "run") == pytest.approx(logged(finished), rel=1e-4)
    one, two = (json.loads((folder / "result.json").read_text()) for folder in (finished, tmp_path / "run"))
    assert two["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-4)
    assert two["hardware"]["processes"] == 2
    assert two["dataset"] == one["dataset"]


def test_the_result_says_what_was_done(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["task"] == "mae-pretraining"
    assert result["dataset"]["train_images"] == 200
    assert result["dataset"]["val_images"] == 80
    assert result["images_seen"] == 24 * 40
    assert result["units"]["loss"]["higher_is_better"] is False


def test_the_encoder_is_a_backbone(finished: Path) -> None:
    backbone = mae_bench.load_backbone(f"run:{finished}").eval()
    model = load_run(config(), finished).eval()
    pictures = numbers((2, 3, 32, 32), 5).float()
    prefix, patches = backbone.tokens(pictures)
    expected = model.encoder.forward_features(pictures)
    torch.testing.assert_close(torch.cat([prefix, patches.flatten(1, 2)], dim=1), expected)
    assert backbone.pretraining is not None
    facts = {
        key: backbone.pretraining[key] for key in ("method", "dataset", "epochs", "images_seen", "norm_pix")
    }
    assert facts == {
        "method": "MAE",
        "dataset": "generated-tiny",
        "epochs": 4.8,
        "images_seen": 960,
        "norm_pix": True,
    }
    assert backbone.pretraining["recipe"] == "tiny-mae"


def test_the_whole_model_is_left_too(finished: Path) -> None:
    whole = load_file(finished / "model.safetensors")
    official = torch.load(finished / "mae_official.pth", weights_only=True)["model"]
    assert torch.equal(whole["decoder.mask_token"], official["mask_token"])
    encoder = load_file(finished / "encoder.safetensors")
    assert {f"encoder.{name}" for name in encoder} == {name for name in whole if name.startswith("encoder.")}


def test_the_newest_checkpoint_serves_before_the_end(finished: Path) -> None:
    (finished / "model.safetensors").rename(finished / "elsewhere")
    try:
        from_checkpoint = load_run(config(), finished).state_dict()
    finally:
        (finished / "elsewhere").rename(finished / "model.safetensors")
    for name, tensor in load_run(config(), finished).state_dict().items():
        assert torch.equal(from_checkpoint[name], tensor), name


def test_no_weights_yet(tmp_path: Path) -> None:
    with pytest.raises(
        MaeBenchError, match=r"holds no weights yet: neither model\.safetensors nor a checkpoint"
    ):
        load_run(config(), tmp_path)


# ---------------------------------------------------------------- data to evaluate on


def test_without_validation_images(world: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, data__val="nowhere", train__steps=2)
    with pytest.raises(MaeBenchError, match=r"nowhere(.|\n)*evaluate_on=train"):
        mae_bench.pretrain(str(path), data_root=world, runs_root=tmp_path / "runs")
    result = mae_bench.pretrain(
        str(path), ["evaluate_on=train"], data_root=world, runs_root=tmp_path / "runs"
    )
    assert result.dataset is not None
    assert result.dataset.val_images is None
    assert result.metrics["loss"] > 0


def test_check(world: Path) -> None:
    lines = mae_bench.check(str(write_recipe(world)), data_root=world)
    text = "\n".join(lines)
    assert "16 of 8 x 8 patches visible" in text
    assert "200 training images" in text
    assert "evaluation on 80 images of val" in text


# ---------------------------------------------------------------- pictures


def test_columns() -> None:
    model = from_config(config())
    torch.nn.init.zeros_(model.decoder.pred.weight)  # so that every patch is predicted to be its mean
    images = ((numbers((3, 3, 32, 32), 6) + 1) * 127).to(torch.uint8)
    columns = reconstruction_columns(model, images, torch.tensor([1, 2, 3]), [0.5] * 3, [0.25] * 3)
    original, masked, painted, pasted = (patchify(column, (4, 4)) for column in columns)
    assert torch.equal(columns[0], images)
    hidden = (masked == GREY).all(-1)
    assert hidden.sum(1).tolist() == [48, 48, 48]
    assert torch.equal(masked[~hidden], original[~hidden])
    assert torch.equal(pasted[~hidden], original[~hidden])
    assert torch.equal(pasted[hidden], painted[hidden])
    expected = original.float().mean(-1, keepdim=True).expand(-1, -1, 48)
    torch.testing.assert_close(painted.float(), expected, atol=0.51, rtol=0)


def test_grid_picture_enlarges_small_images() -> None:
    columns = [torch.full((2, 1, 8, 16), value, dtype=torch.uint8) for value in (10, 200)]
    picture = grid_picture(columns, ("left", "right"))
    assert picture.size == (4 + 2 * (128 + 4), 16 + 4 + 2 * (64 + 4))
    assert picture.getpixel((4, 20)) == (10, 10, 10)
    assert picture.getpixel((4 + 128 + 4 + 127, 20 + 63)) == (200, 200, 200)
    darkest, brightest = picture.crop((4, 0, 60, 16)).convert("L").getextrema()
    assert darkest < 60  # a caption is written
    assert brightest == 255


def test_visualize_a_run(finished: Path, world: Path) -> None:
    (path,) = mae_bench.visualize(finished, count=3, data_root=world)
    with Image.open(path) as picture:
        assert picture.size == (4 + 4 * 132, 20 + 3 * 132)
    first = Path(path).read_bytes()
    mae_bench.visualize(finished, count=3, data_root=world)
    assert Path(path).read_bytes() == first


def test_visualize_given_images(finished: Path, world: Path, tmp_path: Path) -> None:
    file = tmp_path / "grey.png"
    Image.new("L", (32, 40), 90).save(file)
    (path,) = mae_bench.visualize(finished, [file], data_root=world)
    with Image.open(path) as picture:
        assert picture.size == (4 + 4 * 132, 20 + 132)
        assert picture.getpixel((60, 60)) == (90, 90, 90)
    with pytest.raises(MaeBenchError, match=r"missing\.png cannot be read: No such file"):
        mae_bench.visualize(finished, [tmp_path / "missing.png"], data_root=world)
    file.write_bytes(b"no image")
    with pytest.raises(MaeBenchError, match=r"grey\.png is not a readable image"):
        mae_bench.visualize(finished, [file], data_root=world)


# ---------------------------------------------------------------- shipped recipes

RECIPES = {
    name: path for name, path in resources.recipes("pretrain").items() if path.parent.name == "pretrain"
}
# facts of the release (facebookresearch/mae, models_mae.py and PRETRAIN.md)
SIZES = {"base": (16, 768, 12, 12), "large": (16, 1024, 24, 16), "huge": (14, 1280, 32, 16)}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_describes_itself(name: str) -> None:
    resolved = recipe.resolve(name, kind="pretrain")
    head = RECIPES[name].read_text()
    assert isinstance(resolved.config, MAEConfig)
    assert f"mae-bench pretrain --recipe {name}" in head
    assert all(f"# {word}" in head for word in ("Source", "Command", "Cost"))


@pytest.mark.parametrize("epochs", [800, 1600])
@pytest.mark.parametrize("size", SIZES)
def test_recipes_of_the_paper(size: str, epochs: int) -> None:
    name = f"mae-vit-{size}" if epochs == 800 else f"mae-vit-{size}-1600ep"
    settings = recipe.resolve(name).config
    assert isinstance(settings, MAEConfig)
    assert (settings.train.epochs, settings.train.batch, settings.optim.blr) == (epochs, 4096, 1.5e-4)
    assert settings.optim.betas == [0.9, 0.95]
    assert (settings.optim.weight_decay, settings.optim.warmup_epochs, settings.optim.min_lr) == (0.05, 40, 0)
    assert (settings.mask_ratio, settings.masking, settings.norm_pix) == (0.75, "random", True)
    assert settings.data.augment.crop.scale == [0.2, 1.0]
    assert settings.data.augment.color_jitter == 0
    assert settings.train.clip_grad is None
    with torch.device("meta"):
        model = from_config(settings)
    patch, width, depth, heads = SIZES[size]
    assert model.patch == (patch, patch)
    assert (model.encoder.embed_dim, len(model.encoder.blocks)) == (width, depth)
    assert model.encoder.blocks[0].attn.num_heads == heads
    assert (model.decoder.embed.out_features, len(model.decoder.blocks)) == (512, 8)
    assert model.decoder.blocks[0].attn.num_heads == 16
    assert model.kept == (224 // patch) ** 2 // 4
