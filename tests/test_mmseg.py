"""mmsegmentation over our backbone, against our own segmenter and from end to end on generated scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import mae_bench
from downstream.openmmlab import native as files
from downstream.openmmlab.building import build_loader
from downstream.openmmlab.modules import groups
from downstream.openmmlab.presence import ready
from downstream.openmmlab.runner import undisturbed
from downstream.segmentation.evaluation import Labeller
from downstream.segmentation.labels import IGNORED
from downstream.segmentation.mmseg.inference import labeller, predictor
from downstream.segmentation.mmseg.task import MMSeg
from downstream.segmentation.segmenter import Segmenter, loss
from downstream.segmentation.task import Segmentation
from mae_bench import recipe
from mae_bench.augment import normalise
from mae_bench.backbones import load_backbone
from mae_bench.errors import MaeBenchError
from mae_bench.optim import parameter_groups
from mae_bench.run import Run
from mae_bench.stopping import InterruptedRunError
from tests.kept_outcomes import assert_kept

pytestmark = pytest.mark.engine

BACKBONE = "random:vit_tiny_patch16_224?patch_size=8&embed_dim=16&depth=4&num_heads=2&img_size=32"
SMALL = [
    "data.root=generated/tiny-scenes/ade20k",
    "precision=fp32",
    "train.steps=12",
    "train.batch=4",
    "train.log_every_steps=1",
    "optim.warmup_steps=3",
    "model.blocks=[0,1,2,3]",
    "model.channels=8",
    "model.auxiliary_channels=8",
    "data.workers=0",
]


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    ready("mmseg")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated data, and the miniature of ADE20K run once on mmsegmentation as `runs/whole`."""
    place = tmp_path_factory.mktemp("mmseg")
    train(place, "whole")
    return place


def train(place: Path, name: str, *overrides: str, backbone: str = BACKBONE, force: bool = False) -> Any:
    return mae_bench.run(
        "demo/ade20k",
        backbone,
        small(*overrides),
        data_root=place / "data",
        runs_root=place / "runs",
        name=name,
        engine="mmseg",
        force=force,
    )


def small(*overrides: str) -> list[str]:
    """The overrides of a short run, and more, which win."""
    return list({text.partition("=")[0]: text for text in (*SMALL, *overrides)}.values())


def opened(place: Path, folder: Path, *overrides: str, engine: str | None = "mmseg") -> Run:
    """A run that is not begun, for looking at its parts."""
    extra = {"backbone": BACKBONE}
    resolved = recipe.resolve("demo/ade20k", small(*overrides), extra, engine=engine)
    folder.mkdir(exist_ok=True)
    return Run(resolved.adapter_class(resolved.config), folder, data_root=place / "data", runs_root=folder)


class Pair:
    """The same weights in our segmenter and in mmsegmentation's, and the native config."""

    def __init__(self, place: Path, folder: Path, *overrides: str) -> None:
        self.run = opened(place, folder, *overrides)
        adapter = cast(MMSeg, self.run.adapter)
        self.config = adapter.config
        self.native = adapter.native(adapter.backbone(self.run), self.run)
        self.theirs = adapter.engine_model(self.native, adapter.backbone(self.run), self.run)
        default = opened(place, folder, *overrides, engine=None)
        ours = cast(Segmentation, default.adapter)
        torch.manual_seed(3)
        self.ours = ours.model(ours.backbone(default), default)
        _stir(self.ours)
        self.theirs.load_state_dict(renamed(self.ours.state_dict()))

    def samples(self, target: Tensor) -> list[Any]:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        found = []
        for labels in target:
            sample = SegDataSample(gt_sem_seg=PixelData(data=labels[None]))
            sample.set_metainfo({"img_shape": labels.shape, "ori_shape": labels.shape})
            found.append(sample)
        return found


def _stir(model: nn.Module) -> None:
    """Weights and statistics that no part has by nature, so that a wrong place would show."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator)
                value.copy_(1 + drawn.abs() / 2 if name.endswith("running_var") else value + drawn / 8)


NAMES = {
    "rescaling.quadrupled.": "neck.upsample_4x.",
    "rescaling.doubled.": "neck.upsample_2x.0.",
    "head.pooling.fuse.": "decode_head.bottleneck.",
    "head.fuse.": "decode_head.fpn_bottleneck.",
    "head.classify.conv.": "decode_head.conv_seg.",
    "auxiliary.conv.": "auxiliary_head.convs.0.",
    "auxiliary.classify.conv.": "auxiliary_head.conv_seg.",
    "backbone.": "backbone.dense.",
}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our segmenter's tensors under mmsegmentation's names."""
    new = {}
    for name, value in state.items():
        for ours, theirs in NAMES.items():
            if name.startswith(ours):
                name = theirs + name.removeprefix(ours)
                break
        else:
            part, number, rest = (
                name.removeprefix("head.").replace("pooling.branches", "branches").split(".", 2)
            )
            place = {"branches": f"psp_modules.{number}.1", "laterals": f"lateral_convs.{number}"}
            name = f"decode_head.{place.get(part, f'fpn_convs.{number}')}.{rest}"
        new[name.replace(".norm.", ".bn.") if "head" in name.split(".")[0] else name] = value
    return new


@pytest.fixture(scope="module")
def pair(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(place, tmp_path_factory.mktemp("pair"))


IMAGES = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def target() -> Tensor:
    row, column = torch.arange(32)[:, None], torch.arange(32)[None]
    labels = torch.stack([(row // 5 + column // 7 + image) % 11 for image in range(2)])
    return torch.where((row * 5 + column * 3) % 7 == 0, IGNORED, labels)


# ---------------------------------------------------------------- agreement


def test_every_weight_has_a_place(pair: Pair) -> None:
    assert set(renamed(pair.ours.state_dict())) == set(pair.theirs.state_dict())
    assert type(pair.theirs).__name__ == "EncoderDecoder"
    assert type(pair.theirs.decode_head).__name__ == "UPerHead"


def test_pixels_features_and_logits_agree(pair: Pair) -> None:
    batch = {"inputs": [image.flip(0) for image in IMAGES], "data_samples": pair.samples(target())}
    pixels = normalise(IMAGES, pair.ours.mean, pair.ours.std)
    theirs = pair.theirs.eval().data_preprocessor(batch, training=True)["inputs"]
    torch.testing.assert_close(theirs, pixels, atol=1e-6, rtol=0)
    with torch.no_grad():
        maps = pair.theirs.extract_feat(pixels)
        own = pair.ours.eval().backbone(pixels, pair.ours.blocks)
        assert pair.ours.rescaling is not None
        for one, other in zip(maps, pair.ours.rescaling(own), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(
            pair.theirs.decode_head(maps), pair.ours(pixels).main, atol=1e-5, rtol=1e-5
        )


def test_losses_and_gradients_agree(pair: Pair) -> None:
    pixels = normalise(IMAGES, pair.ours.mean, pair.ours.std)
    own = loss(pair.ours.train()(pixels), target(), 0.4)
    theirs = pair.theirs.train().loss(pixels, pair.samples(target()))
    torch.testing.assert_close(theirs["decode.loss_ce"], own["main"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(theirs["aux.loss_ce"], 0.4 * own["auxiliary"], atol=1e-6, rtol=1e-6)
    for model, total in (
        (pair.ours, own["loss"]),
        (pair.theirs, theirs["decode.loss_ce"] + theirs["aux.loss_ce"]),
    ):
        model.zero_grad()
        total.backward()
    gradients = {name: param.grad for name, param in pair.theirs.named_parameters() if param.grad is not None}
    expected = renamed({n: p.grad for n, p in pair.ours.named_parameters() if p.grad is not None})
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, expected[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optim.decay_norms=true", "optim.decay_biases=true", "optim.decay_positions=true"],
        ["optim.layer_decay=null"],
        ["model.freeze=true", "model.relative_positions=false"],
    ],
    ids=["recipe", "decayed", "no layer decay", "frozen"],
)
def test_parameter_groups_agree(place: Path, tmp_path: Path, overrides: list[str]) -> None:
    pair = Pair(place, tmp_path / "run", *overrides)
    optim = pair.config.optim
    found = groups(pair.theirs, optim)
    own = parameter_groups(pair.ours, optim)
    where = {name: (g["lr_scale"], g["weight_decay"]) for g in found for name in g["names"]}
    expected = {name: (g["lr_scale"], g["weight_decay"]) for g in own for name in g["names"]}
    assert where == renamed(cast(Any, expected))


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.evaluation.mode=whole"],
        ["data.evaluation={mode: slide, stride: [20, 24], base: [48, 80]}"],
        ["data.evaluation={mode: slide, stride: [32, 32], base: [24, 24]}"],
        ["data.evaluation={mode: whole, base: [40, 64], scales: [0.75, 1.25], flip: true}"],
        ["data.evaluation={mode: whole, base: null, scales: [1.0, 0.7], flip: false}"],
        ["data.evaluation={mode: whole, base: null, flip: true}"],
    ],
    ids=["whole", "slide", "smaller than the window", "sizes and flip", "factors", "flip alone"],
)
def test_predictions_agree(place: Path, tmp_path: Path, overrides: list[str]) -> None:
    pair = Pair(place, tmp_path / "run", *overrides)
    adapter = cast(MMSeg, pair.run.adapter)
    images = adapter.val_set(pair.run)
    own = Labeller(cast(Segmenter, pair.ours.eval()), pair.config.data, pair.run)
    theirs = labeller(pair.native, predictor(pair.native, pair.theirs, pair.run, "fp32"))
    differing, total = 0, 0
    for index in range(3):
        image = images.source.image(index)[:, : 64 - 5 * index, : 64 - 3 * index]
        one, other = theirs(image), own(image)
        assert one.shape == other.shape == image.shape[1:]
        differing, total = differing + int((one != other).sum()), total + one.numel()
    # A pixel of a resized image may differ by 1 from OpenCV's.
    assert differing <= total * 0.01, f"{differing} of {total} pixels"


# ---------------------------------------------------------------- a run


def result(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def test_what_a_run_leaves(place: Path) -> None:
    folder = place / "runs/whole"
    values = result(folder)
    assert list(values["metrics"]) == ["miou", "macc", "aacc"]
    assert values["details"]["engine"] == {
        "name": "mmseg",
        "mmseg": "1.2.2",
        "mmengine": values["versions"]["mmengine"],
        "mmcv": values["versions"]["mmcv"],
        "bridged": True,
    }
    assert values["dataset"]["train_images"] == 24
    assert values["selection"] == "last step (no step was chosen by its mIoU)"
    assert len(list((folder / "predictions").rglob("*.png"))) == 8
    assert mae_bench.judge(folder, data_root=place / "data") == values["metrics"]
    assert_kept(folder)
    report = json.loads((folder / "load_report.json").read_text())
    assert report["digest_after"] == values["backbone"]["digest"]


def test_pretrained_weights_survive_the_engines_initialisation(place: Path, tmp_path: Path) -> None:
    from mae_bench.backbones.weights import digest

    run = opened(place, tmp_path / "run", "model.relative_positions=false", "model.final_norm=true")
    adapter = cast(MMSeg, run.adapter)
    native = adapter.native(adapter.backbone(run), run)
    model = adapter.engine_model(native, adapter.backbone(run), run)
    own = load_backbone(BACKBONE)
    assert own.digest == model.backbone.digest  # type: ignore[union-attr]
    # But for the positions, which the segmenter resamples, every tensor is that of the loaded backbone.
    built = {
        name.removeprefix("dense.backbone."): value for name, value in model.backbone.state_dict().items()
    }  # type: ignore[union-attr]
    kept = {
        name: value
        for name, value in own.state_dict().items()
        if "attn" not in name and "pos_embed" not in name
    }
    assert len(kept) > 30
    assert digest(kept) == digest({name: built[name] for name in kept})


def test_the_written_config_is_one_of_mmsegmentations_own(place: Path, tmp_path: Path) -> None:
    from mmengine.config import Config
    from mmengine.runner import Runner

    file = tmp_path / "copied.py"
    shutil.copy(place / "runs/whole/mmseg_config.py", file)
    native = files.with_text(Config.fromfile(str(file)))  # sparing the time of its formatter
    native.work_dir = str(tmp_path / "work")
    native.train_cfg.update(max_iters=2, val_interval=2)
    with undisturbed():
        runner = Runner.from_cfg(native)
        runner.train()
        metrics = runner.val()
    assert set(load_file(place / "runs/whole/model.safetensors")) == set(runner.model.state_dict())
    assert 0 <= metrics["mIoU"] <= 100


def test_the_engines_own_metric_agrees_with_our_judge(place: Path, tmp_path: Path) -> None:
    from mmengine.config import Config
    from mmengine.runner import Runner

    native = files.with_text(Config.fromfile(str(place / "runs/whole/mmseg_config.py")))
    native.work_dir = str(tmp_path / "work")
    with undisturbed():
        runner = Runner.from_cfg(native)
        runner.model.load_state_dict(load_file(place / "runs/whole/model.safetensors"))
        metrics = runner.test()
    own = result(place / "runs/whole")["metrics"]
    assert {"mIoU": metrics["mIoU"], "aAcc": metrics["aAcc"]} == {
        "mIoU": pytest.approx(own["miou"], abs=0.006),  # it rounds to hundredths
        "aAcc": pytest.approx(own["aacc"], abs=0.006),
    }


def test_pictures_of_a_run_and_of_files(place: Path) -> None:
    folder = place / "runs/whole"
    image = next((place / "data/generated/tiny-scenes/ade20k/images/validation").glob("*"))
    for images in ([], [image]):
        (path,) = mae_bench.visualize(folder, images, data_root=place / "data", count=2)
        with Image.open(path) as picture:
            assert picture.size[0] > 64


def test_a_check_builds_the_engines_model(place: Path) -> None:
    lines = mae_bench.check(
        "demo/ade20k",
        BACKBONE,
        [*SMALL, "task=segmentation.mmseg"],
        data_root=place / "data",
        runs_root=place / "r",
    )
    assert any("24 training images" in line for line in lines)
    assert any(line.startswith("EncoderDecoder: 0.0 million weights") for line in lines)
    assert lines[-2].startswith("engine: mmseg 1.2.2, mmengine ")
    assert lines[-2].endswith(" with torchvision's operators")


@pytest.mark.parametrize("backbone", ["random:convnext_atto", "random:resnet18"])
def test_a_hierarchical_backbone_needs_no_neck(place: Path, backbone: str) -> None:
    name = backbone.partition(":")[2]
    train(
        place,
        name,
        "train.steps=1",
        "optim.warmup_steps=0",
        "model.relative_positions=false",
        backbone=backbone,
    )
    text = (place / "runs" / name / "mmseg_config.py").read_text()
    assert "Feature2Pyramid" not in text
    assert 0 <= result(place / "runs" / name)["metrics"]["miou"] <= 100


def test_curves_are_evaluated_on_the_way(place: Path) -> None:
    train(place, "curve", "train.steps=12", "train.evaluate_every_epochs=1")
    entries = [json.loads(line) for line in (place / "runs/curve/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "eval" in entry] == [6, 12]


def test_a_linear_head_is_refused(place: Path) -> None:
    with pytest.raises(MaeBenchError, match="mmsegmentation has no head that normalises maps side by side"):
        train(place, "linear", "model.head=linear", "model.blocks=last", "model.auxiliary_weight=0.0")


# ---------------------------------------------------------------- data


@pytest.fixture
def altered(place: Path, tmp_path: Path) -> Path:
    """A copy of the dataset below `tmp_path`, to spoil."""
    copy = tmp_path / "scenes"
    shutil.copytree(place / "data/generated/tiny-scenes/ade20k", copy)
    return copy


def first(folder: Path) -> Path:
    return min(folder.rglob("*.png"))


def labels_of(run: Run, key: str = "train_dataloader") -> dict[str, np.ndarray[Any, Any]]:
    """Name of the image -> label map, as the engine reads it."""
    adapter = cast(MMSeg, run.adapter)
    native = adapter.native(adapter.backbone(run), run)
    loader = build_loader(native, key)
    step = next(one for one in loader.dataset.pipeline.transforms if type(one).__name__ == "LoadLabels")
    found = {}
    for index in range(len(loader.dataset)):
        info = loader.dataset.get_data_info(index)
        image = loader.dataset.pipeline.transforms[0](info)
        found[Path(image["img_path"]).stem] = step(image)["gt_seg_map"]
    return found


@pytest.mark.parametrize(
    ("ignore_label", "bits"),
    [(255, 8), (255, 16), (7, 8), (300, 16)],
    ids=["plain", "16 bit", "a class", "above"],
)
def test_label_maps_are_read_as_we_read_them(
    altered: Path, tmp_path: Path, ignore_label: int, bits: int
) -> None:
    path = first(altered / "annotations/training")
    with Image.open(path) as old:
        numbers = np.asarray(old).astype(np.uint16 if bits == 16 else np.uint8)
    numbers = numbers.copy()
    numbers[:3, :3] = ignore_label
    Image.fromarray(numbers).save(path)
    run = opened(tmp_path, tmp_path / "run", f"data.root={altered}", f"data.ignore_label={ignore_label}")
    adapter = cast(MMSeg, run.adapter)
    found = labels_of(run)
    source = adapter.train_set(run)
    for index in range(len(source)):
        own = source.source.read(index)[1].numpy()
        assert np.array_equal(found[Path(source.source.name(index)).stem], own)
    assert (found[path.stem][:3, :3] == IGNORED).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unknown_label_ends_the_run_in_a_sentence(altered: Path, tmp_path: Path, workers: int) -> None:
    for path in (altered / "annotations/training").rglob("*.png"):
        with Image.open(path) as old:
            numbers = np.asarray(old).copy()
        numbers[0, 0] = 99
        Image.fromarray(numbers).save(path)
    with pytest.raises(
        MaeBenchError, match=r"^label map .* holds 99 \(1 pixels\), but the 11 classes are numbered"
    ):
        train(tmp_path, "unknown", f"data.root={altered}", f"data.workers={workers}")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_ends_the_run_in_a_sentence(altered: Path, tmp_path: Path, workers: int) -> None:
    for path in (altered / "images/training").rglob("*.*"):
        path.write_bytes(b"broken")
    with pytest.raises(MaeBenchError, match=r"cannot be read as an image$"):
        train(tmp_path, "broken", f"data.root={altered}", f"data.workers={workers}")
    assert not (tmp_path / "runs/broken").exists()


def test_images_of_several_kinds_are_all_found(altered: Path, tmp_path: Path) -> None:
    images = sorted((altered / "images/validation").rglob("*.*"))
    with Image.open(images[0]) as image:
        image.save(images[0].with_suffix(".PNG"))
    images[0].unlink()
    train(tmp_path, "kinds", f"data.root={altered}", "train.steps=1", "optim.warmup_steps=0")
    assert len(list((tmp_path / "runs/kinds/predictions").rglob("*.png"))) == 8


def test_images_that_mmcv_does_not_decode_are_refused(altered: Path, tmp_path: Path) -> None:
    image = min((altered / "images/training").rglob("*.*"))
    with Image.open(image) as old:
        old.save(image.with_suffix(".gif"))
    image.unlink()
    with pytest.raises(MaeBenchError, match=r"holds images of type \.gif, which mmcv does not decode"):
        train(tmp_path, "gif", f"data.root={altered}")


# ---------------------------------------------------------------- a config of the engine's own


def raw(place: Path, name: str, native: Path, *overrides: str) -> Any:
    split = "{images: images/%s, labels: annotations/%s}"
    given = [
        "data.root=generated/tiny-scenes/ade20k",
        "data.class_list=classes.txt",
        f"data.train={split % ('training', 'training')}",
        "precision=fp32",
        "train.log_every_steps=1",
        f"native={native}",
        f"options={json.dumps(TINY)}",
    ]
    return mae_bench.run(
        "ade20k-mmseg-native",
        BACKBONE,
        list({text.partition("=")[0]: text for text in (*given, *overrides)}.values()),
        data_root=place / "data",
        runs_root=place / "runs",
        name=name,
    )


# What makes a published config small.
TINY: dict[str, Any] = {
    "train_cfg.max_iters": 6,
    "train_dataloader.batch_size": 4,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "test_dataloader.num_workers": 0,
    "test_dataloader.persistent_workers": False,
    "model.data_preprocessor.size": [32, 32],
    "model.test_cfg": {"mode": "whole"},
    "model.decode_head.channels": 8,
    "model.auxiliary_head.channels": 8,
    "train_dataloader.dataset.pipeline.3.crop_size": [32, 32],
    "train_dataloader.dataset.pipeline.2.scale": [64, 64],
    "test_dataloader.dataset.pipeline.1.scale": [64, 64],
}


@pytest.fixture(scope="module")
def published() -> Path:
    """Configs as mmsegmentation's wheel carries them."""
    import mmseg

    return Path(mmseg.__file__).parent / ".mim/configs"


def test_a_published_config_trains_our_backbone(place: Path, published: Path) -> None:
    file = published / "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py"
    done = raw(place, "mae", file)
    assert (done.steps, done.batch, done.dataset.classes) == (6, 4, 11)
    assert done.config["native_sha256"] == files.sha256_of(file)
    text = (place / "runs/mae/mmseg_config.py").read_text()
    assert str(file) in text.splitlines()[0]
    native = files.read(place / "runs/mae/mmseg_config.py", {})
    assert native.optim_wrapper.constructor == "MaeBenchGroups"
    assert native.optim_wrapper.paramwise_cfg == {"layer_decay": 0.65, "decay_positions": True}
    assert (native.model.neck.type, native.model.neck.embed_dim) == ("Feature2Pyramid", 16)
    assert native.model.decode_head.in_channels == [16] * 4
    assert native.model.auxiliary_head.in_channels == 16
    entries = [json.loads(line) for line in (place / "runs/mae/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [*range(1, 7), 6]


def test_mixed_precision_of_a_file_needs_a_gpu(place: Path, published: Path, tmp_path: Path) -> None:
    file = tmp_path / "amp.py"
    base = published / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py"
    file.write_text(f"_base_ = ['{base}']\noptim_wrapper = dict(type='AmpOptimWrapper')\n")
    with pytest.raises(MaeBenchError, match="trains in mixed precision, which mmengine has on GPUs alone"):
        raw(place, "amp", file, "precision=auto")


def test_averaged_weights_of_a_file_are_the_reported_ones(
    place: Path, published: Path, tmp_path: Path
) -> None:
    file = tmp_path / "ema.py"
    base = published / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py"
    hook = "dict(type='EMAHook', momentum=0.5, ema_type='ExponentialMovingAverage')"
    file.write_text(f"_base_ = ['{base}']\ncustom_hooks = [{hook}]\n")
    raw(place, "ema", file)
    kept = load_file(place / "runs/ema/model.safetensors")
    (path,) = (place / "runs/ema/mmengine").glob("step-*.pt")
    saved = torch.load(path, weights_only=False)
    # mmengine saves the averaged weights as the model's, and the raw ones beside them.
    raw_weights = saved["ema_state_dict"]["module.decode_head.conv_seg.weight"]
    assert torch.equal(
        kept["decode_head.conv_seg.weight"], saved["state_dict"]["decode_head.conv_seg.weight"]
    )
    assert not torch.equal(kept["decode_head.conv_seg.weight"], raw_weights)


EPOCHS = """
_base_ = ["{base}"]
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
train_dataloader = dict(sampler=dict(_delete_=True, type="DefaultSampler", shuffle=True))
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, milestones=[1], gamma=0.1)]
optim_wrapper = dict(clip_grad=None)
"""


def test_a_config_of_epochs_goes_on_within_one(
    place: Path, tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from downstream.openmmlab.hooks import Watch

    file, after = tmp_path / "epochs.py", Watch.after
    file.write_text(EPOCHS.format(base=published / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py"))
    monkeypatch.delitem(TINY, "train_cfg.max_iters")

    def stopped(self: Watch, runner: Any, outputs: Any) -> None:
        if runner.iter == 7:
            self.stopper.signal = 15
        after(self, runner, outputs)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "after", stopped)
        with pytest.raises(InterruptedRunError, match="at step 8 of 12"):
            raw(place, "epochs", file)
    raw(place, "epochs", file)
    entries = [json.loads(line) for line in (place / "runs/epochs/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [*range(1, 13), 12]
    rates = [entry["lr"] for entry in entries if "lr" in entry]
    assert rates == pytest.approx([0.01] * 6 + [0.001] * 6)


def test_a_config_that_changed_does_not_go_on(place: Path, tmp_path: Path, published: Path) -> None:
    base = tmp_path / "base.py"
    base.write_text(f'_base_ = ["{published / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py"}"]\n')
    file = tmp_path / "top.py"
    file.write_text('_base_ = ["base.py"]\n')
    raw(place, "changed", file)
    (place / "runs/changed/result.json").unlink()
    digest = files.sha256_of(file)
    base.write_text(base.read_text() + "optim_wrapper = dict(optimizer=dict(lr=0.5))\n")
    assert files.sha256_of(file) != digest
    with pytest.raises(MaeBenchError, match=r"native_sha256: .* there, .* now"):
        raw(place, "changed", file)
    with pytest.raises(MaeBenchError, match=r"top\.py has changed since"):
        raw(place, "changed-2", file, f"native_sha256={digest}")


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, {}, r"native: .*bad\.py cannot be read; give a config file of the engine"),
        ("model = dict(\n", {}, r"native: .*bad\.py cannot be read: line 1: SyntaxError"),
        ("model = 1 / 0\n", {}, r"native: .*bad\.py cannot be read: ZeroDivisionError: division by zero"),
        ("x = 1\n", {}, r"native: .*bad\.py has no model, no train_dataloader, .*; give a whole config"),
        ('_base_ = ["gone.py"]\n', {}, r"native: .*bad\.py cannot be read; give a config file"),
        (
            "model = dict(type='Nothing')\n",
            {"modle.type": 1},
            r"options: .* has no modle; did you mean 'model'",
        ),
    ],
    ids=["missing", "syntax", "raises", "no model", "no base", "option"],
)
def test_what_is_wrong_with_a_config_file_is_one_sentence(
    place: Path, tmp_path: Path, content: str | None, options: dict[str, Any], sentence: str
) -> None:
    file = tmp_path / "bad.py"
    if content is not None:
        file.write_text(content)
    overrides = [
        "data.root=generated/tiny-scenes/ade20k",
        "data.class_list=classes.txt",
        f"native={file}",
        f"options={json.dumps(options)}",
    ]
    roots = {"data_root": place / "data", "runs_root": tmp_path / "runs"}
    with pytest.raises(MaeBenchError, match=sentence) as caught:
        mae_bench.run("ade20k-mmseg-native", BACKBONE, overrides, **roots)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.rglob("config.yaml")) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model.decode_head": None}, "has no decode_head, so it is no segmenter"),
        ({"model.decode_head.in_index": 4}, "takes map 4, and a backbone has maps 0 to 3"),
        (
            {"model.neck": {"type": "JPU", "in_channels": [1, 2, 3]}},
            "the neck JPU of .* takes other maps than four",
        ),
        (
            {"model.decode_head.loss_decode.class_weight": [1.0, 2.0]},
            "weighs 2 classes, and the dataset has 11",
        ),
        (
            {"model.decode_head.type": "NoHead"},
            "the model cannot be built: NoHead is not in the mmseg::model registry",
        ),
        (
            {"model.decode_head.chanels": 3},
            "the model cannot be built: .*unexpected keyword argument 'chanels'",
        ),
        (
            {"optim_wrapper.optimizer.type": "NoOptimizer"},
            "the training of the config cannot be built: ",
        ),
        (
            {"train_dataloader.dataset": {"datasets": []}},
            "the dataset of train_dataloader in .* put together of others",
        ),
    ],
    ids=["no head", "index", "neck", "weights", "type", "key", "optimiser", "datasets"],
)
def test_what_does_not_fit_a_config_file_is_one_sentence(
    place: Path, published: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    file = published / "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py"
    small = {
        key: value for key, value in TINY.items() if not any(key.startswith(f"{one}.") for one in options)
    }
    with pytest.raises(MaeBenchError, match=sentence):
        raw(place, f"unfit-{tmp_path.name}", file, f"options={json.dumps({**small, **options})}")


def test_a_raw_run_needs_a_file(place: Path) -> None:
    with pytest.raises(
        MaeBenchError, match=r"native: give mmsegmentation's own config file: native=FILE\.py"
    ):
        mae_bench.run("ade20k-mmseg-native", BACKBONE, data_root=place / "data", runs_root=place / "runs")
