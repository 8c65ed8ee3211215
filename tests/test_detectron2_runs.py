"""Whole runs by detectron2 on generated scenes: what they leave, going on, several processes, its own files."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mae_bench
from downstream.detection.detectron2 import presence
from mae_bench.backbones.weights import digest
from mae_bench.errors import MaeBenchError
from mae_bench.stopping import InterruptedRunError
from tests import launch
from tests.detectron2_main import blocks
from tests.detectron2_models import needs_detectron2
from tests.detectron2_native import write
from tests.kept_outcomes import assert_kept
from tests.launch import environment as launch_environment
from tests.launch import finish, on_two_processes

pytestmark = needs_detectron2

BACKBONE = "random:vit_tiny_patch16_224?patch_size=8&embed_dim=16&depth=2&num_heads=2&img_size=32"
RECIPE = [
    "data.root=generated/tiny-scenes/coco",
    "precision=fp32",
    "train.steps=6",
    "train.batch=4",
    "train.log_every_steps=2",
    "optim.milestones=[5]",
    "optim.warmup_steps=2",
    "model.attention.global_blocks=[1]",
    "model.attention.window=3",
    "model.pyramid.channels=8",
    "model.heads.box_width=8",
    "model.heads.score=0.0",
    "data.workers=0",
]
NATIVE = [
    "data.root=generated/tiny-scenes/coco",
    "data.classes=10",
    "data.image_size=[64,64]",
    "data.workers=0",
    "precision=fp32",
    "attention.window=null",
    "drop_path=0.0",
    "train.log_every_steps=1",
]
SIXTEEN = "random:vit_tiny_patch16_224?patch_size=16&embed_dim=16&depth=4&num_heads=2&img_size=64"


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    presence.ready()


@pytest.fixture(autouse=True)
def _processes_find_detectron2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts look for packages where this one does."""
    outside = os.environ.get("PYTHONPATH", "")

    def environment() -> dict[str, str]:
        own = launch_environment()
        return {**own, "PYTHONPATH": os.pathsep.join([own["PYTHONPATH"], outside])}

    monkeypatch.setattr(launch, "environment", environment)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated data, and one run of 6 steps as `runs/whole`."""
    place = tmp_path_factory.mktemp("detectron2")
    carried_out(place, "whole")
    return place


def carried_out(place: Path, name: str, *more: str, engine: str = "detectron2") -> Path:
    mae_bench.run(
        "demo/coco",
        BACKBONE,
        laid_over(RECIPE, more),
        engine=engine,
        data_root=place / "data",
        runs_root=place / "runs",
        name=name,
    )
    return place / "runs" / name


def native(place: Path, name: str, file: Path, *more: str) -> Path:
    mae_bench.run(
        "coco-detectron2-native",
        SIXTEEN,
        laid_over([*NATIVE, f"native={file}"], more),
        data_root=place / "data",
        runs_root=place / "runs",
        name=name,
    )
    return place / "runs" / name


def laid_over(values: Sequence[str], more: Sequence[str]) -> list[str]:
    given = {text.partition("=")[0] for text in more}
    return [*(text for text in values if text.partition("=")[0] not in given), *more]


def result(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "result.json").read_text())
    return values


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


# ---------------------------------------------------------------- a whole run


def test_what_a_run_leaves(place: Path) -> None:
    run = place / "runs/whole"
    values = result(run)
    assert values["engine"] == "detectron2"
    assert list(values["metrics"])[:2] == ["box_ap", "mask_ap"]
    assert (values["steps"], values["images_seen"], values["batch"], values["micro_batch"]) == (6, 24, 4, 4)
    assert values["epochs"] == 1.0
    dataset = values["dataset"]
    assert (dataset["train_images"], dataset["val_images"], dataset["classes"]) == (24, 8, 10)
    assert values["selection"] == "last step (no step was chosen by its AP)"
    assert values["details"]["engine"]["name"] == "detectron2"
    assert values["details"]["engine"]["versions"].keys() >= {"detectron2", "fvcore"}
    assert values["versions"]["detectron2"] == values["details"]["engine"]["versions"]["detectron2"]
    logged = lines(run)
    assert [line["step"] for line in logged] == [2, 4, 6, 6]
    assert logged[-1]["eval"] == values["metrics"]
    assert_kept(run)
    parts = {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    for line in logged[:-1]:
        assert line.keys() >= parts | {"epoch", "loss", "lr", "images_per_s", "grad_norm"}
        assert math.isfinite(line["loss"])
    # Step 2 was made with half of the warm-up done, step 6 behind the milestone.
    assert [line["lr"] for line in logged[:-1]] == pytest.approx([1.5e-3 * (0.01 + 0.99 / 2), 1.5e-3, 1.5e-4])
    assert len(list((run / "detectron2").glob("step-*.pt"))) == 1
    assert "Starting training from iteration 0" in (run / "detectron2/log.txt").read_text()
    first = (run / "detectron2_config.yaml").read_text().splitlines()[0]
    assert first == f"# demo/coco with {BACKBONE}, as mae-bench gave it to detectron2 (LazyConfig)."
    assert any(name.startswith("backbone.body.") for name in weights(run))
    records = json.loads((run / "detections.json").read_text())
    assert len({record["image_id"] for record in records}) == 8


def test_a_run_is_judged_again_and_drawn(place: Path, tmp_path: Path) -> None:
    run = place / "runs/whole"
    assert mae_bench.judge(run, data_root=place / "data") == result(run)["metrics"]
    image = next((place / "data/generated/tiny-scenes/coco/val2017").iterdir())
    for images in ([], [image]):
        drawn = mae_bench.visualize(run, images, 2, data_root=place / "data")
        assert [Path(path).exists() for path in drawn] == [True]


def test_what_a_check_says(place: Path) -> None:
    said = mae_bench.check(
        "demo/coco", BACKBONE, RECIPE, engine="detectron2", data_root=place / "data", runs_root=place / "none"
    )
    assert any(line.startswith("detector: ") for line in said)
    assert any(line.startswith("engine: detectron2 ") for line in said)
    assert not (place / "none").exists()
    with pytest.raises(MaeBenchError, match="detectron2 accumulates no gradients"):
        mae_bench.check(
            "demo/coco",
            BACKBONE,
            [*RECIPE, "train.micro_batch=2"],
            engine="detectron2",
            data_root=place / "data",
            runs_root=place / "none",
        )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.ema=0.9", "train.ema: detectron2's trainer averages no weights"),
        ("train.compile=true", "train.compile: detectron2's models are not compiled"),
        ("data.channels=1", "data.channels=1: the engine reads images as RGB"),
        ("data.max_bad_images=1", "data.max_bad_images: detectron2 stops at the first image"),
    ],
)
def test_what_detectron2_cannot_do_is_refused(place: Path, override: str, said: str) -> None:
    with pytest.raises(MaeBenchError, match=said):
        carried_out(place, "refused", override)


def test_weights_of_our_engine_are_judged_alike_by_both(place: Path) -> None:
    """The same weights, trained by our engine: its own network, pipeline and judge against detectron2's."""
    trained = carried_out(place, "ours", "train.micro_batch=4", engine="torchvision")
    given = [f"detector={trained / 'model.safetensors'}", "evaluate_only=true"]
    judged = carried_out(place, "theirs", *given)
    mine, theirs = (json.loads((run / "detections.json").read_text()) for run in (trained, judged))
    assert result(judged)["dataset"]["train_images"] == 0
    assert len(mine) == len(theirs) > 100
    # Images are decoded and resized by different libraries, to the same pixels but for a level here and there.
    ours = {(one["image_id"], one["category_id"], round(one["score"], 3)) for one in mine}
    others = {(one["image_id"], one["category_id"], round(one["score"], 3)) for one in theirs}
    assert len(ours & others) >= 0.98 * len(ours)
    metrics = result(trained)["metrics"]
    assert result(judged)["metrics"] == pytest.approx(metrics, abs=0.02)


# ---------------------------------------------------------------- going on


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int, what: Any) -> None:
    """Let something happen after a step."""
    from downstream.detection.detectron2.hooks import Training

    end = Training.end

    def ending(self: Training, optimizer: torch.optim.Optimizer) -> None:
        end(self, optimizer)
        if self.step == step:
            what(self)

    monkeypatch.setattr(Training, "end", ending)


def same_as_whole(place: Path, run: Path) -> None:
    whole = place / "runs/whole"
    state = weights(run)
    assert all(torch.equal(value, state[name]) for name, value in weights(whole).items())
    kept = [[{**line, "images_per_s": 0} for line in lines(each)] for each in (whole, run)]
    assert [line["step"] for line in kept[0]] == [line["step"] for line in kept[1]]
    assert kept[0][-2:] == kept[1][-2:]
    assert (run / "detections.json").read_bytes() == (whole / "detections.json").read_bytes()


def test_a_run_asked_to_stop_saves_and_goes_on_to_the_same_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(training: Any) -> None:
        training.stop = signal.SIGTERM

    with monkeypatch.context() as patch:
        stopped_at(patch, 3, terminate)
        with pytest.raises(InterruptedRunError, match="stopped by SIGTERM at step 3 of 6") as stop:
            carried_out(place, "stopped")
    assert stop.value.status == 128 + signal.SIGTERM
    same_as_whole(place, carried_out(place, "stopped"))


def test_a_killed_run_goes_on_from_its_last_intact_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        stopped_at(patch, 5, die)
        with pytest.raises(RuntimeError, match="killed"):
            carried_out(place, "killed", "train.save_every_steps=2")
    saved = sorted((place / "runs/killed/detectron2").glob("step-*.pt"))
    assert [path.name[:13] for path in saved] == ["step-00000002", "step-00000004"]
    saved[1].write_bytes(saved[1].read_bytes()[:1000])  # cut short, as by a full disk
    same_as_whole(place, carried_out(place, "killed", "train.save_every_steps=2"))


def test_a_loss_that_is_no_number_stops_before_the_weights_change(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from downstream.detection.detectron2.hooks import Training

    judge = Training.judge_loss

    def broken(self: Training) -> None:
        if self.step == 3:
            self.watched.losses["loss_cls"] = torch.tensor(math.nan)
        judge(self)

    monkeypatch.setattr(Training, "judge_loss", broken)
    with pytest.raises(
        MaeBenchError, match=r"the loss is not finite at step 3 \(samples: .*png.*step-00000002"
    ):
        carried_out(place, "nan", "train.save_every_steps=2")


def test_evaluation_along_the_way_changes_nothing(place: Path) -> None:
    run = carried_out(place, "curve", "train.evaluate_every_epochs=0.5")
    assert [line["step"] for line in lines(run) if "eval" in line] == [3, 6]
    state = weights(run)
    assert all(torch.equal(value, state[name]) for name, value in weights(place / "runs/whole").items())


def test_bf16_on_a_cpu(place: Path) -> None:
    run = carried_out(
        place, "bf16", "precision=bf16", "train.steps=2", "optim.milestones=[]", "optim.schedule=constant"
    )
    assert result(run)["precision"] == "bf16"
    assert all(value.dtype != torch.bfloat16 for value in weights(run).values())
    whole = lines(place / "runs/whole")[0]["loss"]
    assert lines(run)[0]["loss"] == pytest.approx(whole, rel=0.05)


# ---------------------------------------------------------------- several processes, its own tools


def test_loader_processes_give_the_same_images(place: Path) -> None:
    """In the same order; how they are jittered is drawn in the loader processes."""
    from collections import defaultdict

    from downstream.detection.detectron2.hooks import Watched

    seen: dict[str, list[list[str]]] = defaultdict(list)
    call = Watched.__call__
    with pytest.MonkeyPatch.context() as patch:
        for workers in ("0", "2"):

            def told(self: Watched, batch: Any, name: str = workers) -> Any:
                seen[name].append([Path(image["file_name"]).name for image in batch])
                return call(self, batch)

            patch.setattr(Watched, "__call__", told)
            carried_out(place, f"workers-{workers}", f"data.workers={workers}")
    assert len(seen["0"]) == 6
    assert seen["0"] == seen["2"]


def test_two_processes(place: Path) -> None:
    finish(
        on_two_processes(
            [
                "-m",
                "mae_bench",
                "run",
                "--task",
                "demo/coco",
                "--engine",
                "detectron2",
                "--backbone",
                BACKBONE,
                "--data-root",
                str(place / "data"),
                "--runs",
                str(place / "runs"),
                "--name",
                "two",
                *RECIPE,
                "model.pyramid.norm=batch",
            ]
        ),
        place,
    )
    run = place / "runs/two"
    values = result(run)
    assert values["hardware"]["processes"] == 2
    assert (values["batch"], values["micro_batch"], values["images_seen"]) == (4, 2, 24)
    assert [line["step"] for line in lines(run)] == [2, 4, 6, 6]
    assert {record["image_id"] for record in json.loads((run / "detections.json").read_text())} == {
        record["image_id"] for record in json.loads((place / "runs/whole/detections.json").read_text())
    }
    alone = carried_out(place, "one", "model.pyramid.norm=batch")
    # The same images in each step; what is sampled of them differs.
    assert lines(run)[0]["loss"] == pytest.approx(lines(alone)[0]["loss"], rel=0.05)


def test_detectron2s_own_tools_take_the_configuration_and_the_checkpoint(place: Path) -> None:
    run = place / "runs/whole"
    done = finish(["-m", "tests.detectron2_main", str(run / "detectron2_config.yaml")], place)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["start"] == 6
    assert said["fresh"] == digest(blocks(mae_bench.load_backbone(BACKBONE)))
    assert math.isfinite(said["losses"]["total_loss"])
    # Its evaluator, which is pycocotools, and our judge on what the same weights find.
    metrics = result(run)["metrics"]
    for kind, theirs in (("box", "bbox"), ("mask", "segm")):
        for ours, name in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75")):
            assert said["scores"][theirs][name] == pytest.approx(metrics[f"{kind}_{ours}"], abs=1e-6)


# ---------------------------------------------------------------- detectron2's own files


@pytest.mark.parametrize("kind", ["plain", "network"])
def test_a_configuration_of_detectron2_with_our_backbone(place: Path, tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / "files")[kind]
    run = native(
        place, f"native-{kind}", file, "options={optimizer.lr: 0.01, model.roi_heads.positive_fraction: 0.5}"
    )
    values = result(run)
    assert (values["steps"], values["batch"], values["engine"]) == (4, 4, "detectron2")
    assert values["backbone"]["spec"] == SIXTEEN
    assert values["config"]["native_sha256"] is not None
    written = (run / "detectron2_config.yaml").read_text()
    for part in ("num_classes: 10", "lr: 0.01", "positive_fraction: 0.5", "input_format: RGB", "max_iter: 4"):
        assert part in written
    # Warm-up over the first step, then the rate, and a tenth of it from the milestone on.
    assert [line["lr"] for line in lines(run)[:-1]] == pytest.approx([0.001, 0.01, 0.01, 0.001])
    state = weights(run)
    inside = "net" if kind == "plain" else "bottom_up"
    assert any(name.startswith(f"backbone.{inside}.body.") for name in state)
    said = mae_bench.check(str(run / "config.yaml"), data_root=place / "data", runs_root=place / "none")
    assert any("4 steps of 4 images" in line for line in said)
    image = next((place / "data/generated/tiny-scenes/coco/val2017").iterdir())
    assert Path(mae_bench.visualize(run, [image], data_root=place / "data")[0]).exists()
    if kind == "plain":
        assert "num_layers: 4" in written, "layer decay follows the depth of the backbone"


def test_a_configuration_that_changed_meanwhile_is_an_error(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "files")["plain"]

    def terminate(training: Any) -> None:
        training.stop = signal.SIGTERM

    with monkeypatch.context() as patch:
        stopped_at(patch, 2, terminate)
        with pytest.raises(InterruptedRunError, match="at step 2 of 4"):
            native(place, "changed", file)
    shared = tmp_path / "files/shared.py"
    before = shared.read_text()
    shared.write_text(before.replace("fc_dims=[8]", "fc_dims=[9]"))
    with pytest.raises(MaeBenchError, match="or a file that it builds on, has changed since this run began"):
        native(place, "changed", file)
    shared.write_text(before)
    assert result(native(place, "changed", file))["steps"] == 4
    file.write_text(file.read_text() + "\n")
    again = [str(place / "runs/changed/config.yaml")]
    with pytest.raises(MaeBenchError, match=r"native: .*plain.py has changed since"):
        mae_bench.run(again[0], data_root=place / "data", runs_root=place / "runs", name="again")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["options={optimizer.rate: 1}"], "detectron2 cannot make 'optimizer' of its configuration"),
        (["options={train.iterations: 1}"], "options: the file has no train.iterations"),
        (["options={model.roi_head.num_classes: 1}"], "options: the file has no model.roi_head.num_classes"),
        (["native=missing.py"], "missing.py cannot be read; give a config file"),
        (["native=missing.txt"], "should be a file of detectron2's LazyConfig"),
        (["native=null"], "give detectron2's own configuration"),
        (["data.channels=4"], "the engine reads images as RGB"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(place: Path, tmp_path: Path, more: list[str], said: str) -> None:
    file = write(tmp_path / "files")["plain"]
    with pytest.raises(MaeBenchError, match=said):
        native(place, f"wrong-{abs(hash(said))}", file, *more)


def test_files_without_a_place_for_the_backbone(place: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "files")["plain"]
    text = file.read_text()
    for change, said in (
        ("model.backbone = dict(nothing=1)", "has neither 'net'"),
        ("model.roi_heads.pop('mask_head')", "is no Mask R-CNN"),
        ("del model", "has no model"),
        ("1 / 0", r"cannot be read by detectron2 \(ZeroDivisionError: division by zero\)"),
    ):
        file.write_text(f"{text}\n{change}\n")
        with pytest.raises(MaeBenchError, match=said):
            native(place, "placeless", file)


def test_a_backbone_of_other_strides_is_named(place: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "files")["plain"]
    with pytest.raises(MaeBenchError, match="has maps of strides 2, 4, 8, 16; a configuration of detectron2"):
        mae_bench.run(
            "coco-detectron2-native",
            BACKBONE.replace("depth=2", "depth=4"),
            [*NATIVE, f"native={file}"],
            data_root=place / "data",
            runs_root=place / "runs",
            name="strides",
        )


def test_a_detector_saved_as_detectron2_saves_it_is_read(place: Path, tmp_path: Path) -> None:
    from downstream.detection.formats import to_detectron2

    shutil.copy(place / "runs/ours/model.safetensors", tmp_path / "ours.safetensors")
    file = tmp_path / "theirs.pth"
    torch.save({"model": to_detectron2(load_file(tmp_path / "ours.safetensors"))}, file)
    run = carried_out(place, "read", f"detector={file}", "evaluate_only=true")
    assert result(run)["metrics"] == result(place / "runs/theirs")["metrics"]
    assert json.loads((run / "detector_report.json").read_text())["format"].startswith("detectron2")
    save_file({"nothing": torch.zeros(1)}, tmp_path / "nothing.safetensors")
    with pytest.raises(MaeBenchError, match="holds no detector that is known here"):
        carried_out(place, "unknown", f"detector={tmp_path / 'nothing.safetensors'}", "evaluate_only=true")
