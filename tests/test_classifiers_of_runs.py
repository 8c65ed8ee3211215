"""The classifier of a finished run, rebuilt: the same logits; what is none is refused. Whole classifiers likewise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.nn import functional as F

from downstream.classification.finetune import Finetune
from downstream.classification.linear import Linear
from downstream.classification.scoring import percentages, score
from downstream.robustness.classes import wnids
from downstream.robustness.classifiers import TrainedClassifier, open_classifier
from mae_bench import api
from mae_bench.data import val_dataset
from mae_bench.errors import MaeBenchError
from mae_bench.results import Result
from mae_bench.run import Run
from tests.colours import BACKBONE, FINETUNE, KNN, LINEAR, PARTIAL, open_run, write_colours, write_recipe
from tests.robust_sets import ROBUSTNESS

QUICK = {"epochs": 4, "batch": 18, "micro_batch": 18, "log_every_steps": 1}
CLS: dict[str, Any] = {**FINETUNE, "train": QUICK, "pooling": "cls"}
TASKS: dict[str, dict[str, Any]] = {
    "finetune": {**FINETUNE, "train": QUICK},
    "finetune-cls": CLS,
    "scratch": {**FINETUNE, "task": "imagenet.scratch", "train": {**QUICK, "ema": 0.9}},
    "partial": {**PARTIAL, "train": QUICK, "blocks": 0.5},
    "linear": {**LINEAR, "train": QUICK},
    "grid": {
        **LINEAR,
        "train": {**QUICK, "micro_batch": 9},
        "norm_batch": 9,
        "learning_rates": [0.01, 20.0, 1.0],
        "holdout": 0.25,
    },
}


def inputs() -> Tensor:
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def finished(
    root: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch | None = None
) -> tuple[Result, list[Tensor]]:
    """A finished run, and the logits of `inputs` by the model that it ended with."""
    seen: list[Tensor] = []

    def finish(self: Any, model: nn.Module, run: Run) -> None:
        with torch.no_grad():
            seen.append(model.eval()(inputs()))

    if monkeypatch is not None:
        monkeypatch.setattr(Finetune, "finish", finish)
        monkeypatch.setattr(Linear, "finish", finish)
    recipe = write_recipe(root, values, "trained")
    return api.run(recipe, BACKBONE, data_root=root, runs_root=root / "runs"), seen


def opened(root: Path, spec: str) -> tuple[TrainedClassifier, Run]:
    run = open_run(root, ROBUSTNESS, backbone=spec)
    try:
        return open_classifier(run), run
    finally:
        run.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a finished fine-tuning."""
    root = write_colours(tmp_path_factory.mktemp("trained"))
    finished(root, TASKS["finetune"])
    return root


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """The finished run's folder, a copy to be damaged."""
    (source,) = (trained / "runs" / "trained").iterdir()
    return Path(shutil.copytree(source, tmp_path / "copied"))


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("name", TASKS)
def test_a_rebuilt_classifier_is_the_one_of_the_end_of_the_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_colours(tmp_path)
    result, seen = finished(root, TASKS[name], monkeypatch)
    classifier, run = opened(root, str(result.folder))
    logits = classifier.model(inputs())
    there = seen[0]
    if there.ndim == 3:  # a probe: of its classifiers the one that was chosen
        rates = TASKS[name].get("learning_rates", [5.0])
        there = there[:, rates.index(result.details.get("learning_rate", 5.0))]
    assert torch.equal(logits, there)
    dataset = val_dataset(classifier.data, root)
    statistics = classifier.mean, classifier.std
    top1, top5 = percentages(score(classifier.model, dataset, classifier.data, run, statistics))[0].tolist()
    assert (top1, top5) == (result.metrics["top1"], result.metrics["top5"])
    assert classifier.classes == ["blue", "green", "red"]
    assert not any(param.requires_grad for param in classifier.model.parameters())


def test_a_result_says_whose_classifier_it_is(trained: Path) -> None:
    (source,) = (trained / "runs" / "trained").iterdir()
    classifier, _ = opened(trained, f"run:{source}")
    told = classifier.facts["details"]["classifier"]
    there = json.loads((source / "result.json").read_text())
    assert told["run"] == str(source)
    assert (told["task"], told["recipe"], told["top1"]) == (
        "imagenet-finetune",
        "trained",
        there["metrics"]["top1"],
    )
    assert told["digest"] == there["details"]["model_sha256"]
    # Tables put it into the row of the run, by the digest of the weights that were transferred.
    assert classifier.facts["backbone"]["digest"] == there["backbone"]["digest"]


def test_older_runs_on_imagenet_have_its_classes(folder: Path, trained: Path) -> None:
    (folder / "classes.txt").unlink()
    with pytest.raises(MaeBenchError, match=r"does not say which classes its 3 outputs are.*classes\.txt"):
        opened(trained, str(folder))
    change(folder / "result.json", lambda result: result["dataset"].update(name="imagenet-1k"))
    with pytest.raises(MaeBenchError, match="does not say which classes its 3 outputs are"):
        opened(trained, str(folder))
    state = load_file(folder / "model.safetensors")
    state |= {"head.weight": torch.zeros(1000, 24), "head.bias": torch.zeros(1000)}
    save_file(state, folder / "model.safetensors")
    change(folder / "result.json", lambda result: result["details"].pop("model_sha256"))
    classifier, _ = opened(trained, str(folder))
    assert classifier.classes == list(wnids("imagenet-1k"))
    assert "from before runs kept the digest of their weights" in classifier.facts["notes"][0]


def change(file: Path, edit: Any) -> None:
    values = json.loads(file.read_text())
    edit(values)
    file.write_text(json.dumps(values))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "result.json").unlink(), "has not finished .no result.json"),
        (lambda folder: (folder / "config.yaml").unlink(), "is not a run folder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "is gone"),
        (lambda folder: (folder / "classes.txt").write_text("blue\nred\n"), "names 2 classes.*3 outputs"),
        (lambda folder: (folder / "classes.txt").write_text("blue\nred\nred\n"), "'red' stands there twice"),
    ],
)
def test_what_is_no_finished_classifier_is_refused(
    damage: Any, message: str, folder: Path, trained: Path
) -> None:
    damage(folder)
    with pytest.raises(MaeBenchError, match=message):
        opened(trained, str(folder))


def test_weights_that_changed_since_are_refused(folder: Path, trained: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["head.bias"] = state["head.bias"] + 1e-3
    save_file(state, folder / "model.safetensors")
    with pytest.raises(MaeBenchError, match="changed since the run finished"):
        opened(trained, str(folder))


def test_weights_of_another_network_are_refused(folder: Path, trained: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["backbone.vit.cls_token"]
    save_file(state, folder / "model.safetensors")
    change(folder / "result.json", lambda result: result["details"].pop("model_sha256"))
    with pytest.raises(MaeBenchError, match=r"does not fit the network .*cls_token"):
        opened(trained, str(folder))


def test_a_backbone_that_has_moved_can_be_named_again(folder: Path, trained: Path) -> None:
    config = folder / "config.yaml"
    text = config.read_text()
    assert BACKBONE in text
    config.write_text(text.replace(BACKBONE, "run:/nowhere/mae"))
    with pytest.raises(
        MaeBenchError, match=r"cannot be had any more: .*write its place into .*config\.yaml \(backbone\)"
    ):
        opened(trained, str(folder))
    config.write_text(text)
    opened(trained, str(folder))


def test_a_knn_has_no_classifier(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    result, _ = finished(root, KNN)
    with pytest.raises(MaeBenchError, match="a kNN evaluation has no classifier"):
        opened(root, str(result.folder))


@pytest.mark.parametrize("recipe", ["demo/mae", "demo/coco"])
def test_runs_of_other_tasks_are_refused(recipe: str, tmp_path: Path) -> None:
    from mae_bench import settings, yamlfile
    from mae_bench.recipe import resolve

    extra = {"backbone": BACKBONE} if recipe != "demo/mae" else {}
    (tmp_path / "other").mkdir()
    values = settings.plain(resolve(recipe, [], extra).config)
    (tmp_path / "other" / "config.yaml").write_text(yamlfile.dump(values))
    with pytest.raises(MaeBenchError, match="not of classification; give the folder of a finished"):
        opened(tmp_path, str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BACKBONE, "what comes from random: has no trained classifier"),
        ("run:nowhere", "no such folder as nowhere"),
        ("timm:vit_base_patch16_224?pooling=mean", "timm: takes no 'pooling'"),
        ("file:nowhere.pth", "say which architecture it is"),
        ("file:nowhere.pth?arch=vit_tiny_patch16_224", "nowhere.pth: no such file"),
    ],
)
def test_what_has_no_classifier_is_refused(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=message):
        opened(tmp_path, spec)


# ---------------------------------------------------------------- whole classifiers

ARCH = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
QUERY = "arch=vit_tiny_patch16_224&" + "&".join(f"{key}={value}" for key, value in ARCH.items())


def vit(pool: str = "avg", classes: int = 1000) -> Any:
    torch.manual_seed(3)
    net: Any = timm.create_model("vit_tiny_patch16_224", global_pool=pool, num_classes=classes, **ARCH)
    if classes:
        nn.init.normal_(net.head.weight)
    return net.eval()


def by_hand(state: dict[str, Tensor], images: Tensor, pooling: str) -> Tensor:
    """A ViT's logits from its tensors, as models_vit.py of facebookresearch/mae has it, written out anew."""
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    x = x + state["pos_embed"]

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (24,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for block in ("blocks.0", "blocks.1"):
        q, k, v = (
            linear(normed(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(len(x), -1, 3, 3, 8).unbind(2)
        )
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(8**-0.5).softmax(dim=-1)
        x = x + linear(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2), f"{block}.attn.proj")
        hidden = F.gelu(linear(normed(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    pooled = normed(x[:, 1:].mean(dim=1), "fc_norm") if pooling == "mean" else normed(x, "norm")[:, 0]
    return linear(pooled, "head")


@pytest.mark.parametrize(("pool", "pooling"), [("avg", "mean"), ("token", "cls")])
@pytest.mark.parametrize("given", [True, False])
def test_a_file_of_maes_release(pool: str, pooling: str, given: bool, tmp_path: Path) -> None:
    state = vit(pool).state_dict()
    torch.save({"model": state, "epoch": 99}, tmp_path / "mae.pth")
    spec = f"file:{tmp_path}/mae.pth?{QUERY}" + (f"&pooling={pooling}" if given else "")
    classifier, _ = opened(tmp_path, spec)
    torch.testing.assert_close(
        classifier.model(inputs()), by_hand(state, inputs(), pooling), rtol=1e-4, atol=1e-4
    )
    assert classifier.classes == list(wnids("imagenet-1k"))
    # 256 / 224 of the image size, as in the release's evaluation.
    assert classifier.data.image_size == [16, 16]
    assert classifier.data.evaluation.resize == 18
    assert classifier.mean == (0.485, 0.456, 0.406)
    assert classifier.facts["backbone"]["params"] == sum(
        tensor.numel() for name, tensor in state.items() if not name.startswith("head.")
    )


@pytest.mark.parametrize(
    ("change", "query", "message"),
    [
        (
            lambda state: state.pop("head.weight"),
            "",
            "holds no head.weight, so there is nothing that classifies",
        ),
        (lambda state: state.pop("blocks.1.norm1.bias"), "", "1 missing .blocks.1.norm1.bias"),
        (lambda state: state.update(extra=torch.zeros(2)), "", "1 unexpected .extra"),
        (lambda state: None, "&pooling=cls", "its fc_norm says that it was trained on the mean"),
        (lambda state: None, "&pooling=max", "pooling should be mean or cls, not 'max'"),
        (lambda state: None, "&resize=big", "resize should be a number of pixels, not 'big'"),
        (
            lambda state: state.update({"head.weight": torch.zeros(7, 24), "head.bias": torch.zeros(7)}),
            "",
            "has 7 outputs, and only 1000 are taken for ImageNet-1K's.*&classes=FILE",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change: Any, query: str, message: str, tmp_path: Path) -> None:
    state = vit().state_dict()
    change(state)
    torch.save({"model": state}, tmp_path / "mae.pth")
    with pytest.raises(MaeBenchError, match=message):
        opened(tmp_path, f"file:{tmp_path}/mae.pth?{QUERY}{query}")


def test_classes_of_a_file_may_be_named(tmp_path: Path) -> None:
    torch.save(vit(classes=3).state_dict(), tmp_path / "three.pth")
    (tmp_path / "names.txt").write_text("green\nred\nblue\n")
    classifier, _ = opened(tmp_path, f"file:{tmp_path}/three.pth?{QUERY}&classes={tmp_path}/names.txt")
    assert classifier.classes == ["green", "red", "blue"]


def test_timms_classifier_keeps_its_head_and_transform(tmp_path: Path) -> None:
    net = vit()
    net.pretrained_cfg |= {
        "crop_pct": 0.8,
        "input_size": (3, 16, 16),
        "interpolation": "bilinear",
        "mean": (0.5,) * 3,
    }
    save_for_hf(net, tmp_path / "mine", model_args={**ARCH, "global_pool": "avg"})
    classifier, _ = opened(tmp_path, f"timm:local-dir:{tmp_path}/mine")
    torch.testing.assert_close(classifier.model(inputs()), net(inputs()))
    assert (classifier.data.evaluation.resize, classifier.data.interpolation) == (20, "bilinear")
    assert classifier.mean == (0.5, 0.5, 0.5)
    assert "short side to 20 pixels (crop_pct 0.8 of timm's)" in classifier.facts["notes"][0]


def test_timms_backbone_without_head_is_refused(tmp_path: Path) -> None:
    save_for_hf(vit(classes=0), tmp_path / "bare", model_args={**ARCH, "global_pool": "avg"})
    with pytest.raises(MaeBenchError, match="has no head, so nothing in it classifies"):
        opened(tmp_path, f"timm:local-dir:{tmp_path}/bare")
