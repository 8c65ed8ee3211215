"""The sets of the robustness evaluation: read by name, counted once, gone on with, refused where not whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from downstream.robustness import cells, classifiers, counting
from downstream.robustness.classes import wnids
from downstream.robustness.ledger import LEDGER_FILE
from downstream.robustness.reporting import dataset_facts
from downstream.robustness.settings import RobustnessConfig
from downstream.robustness.task import Robustness
from mae_bench import api, outcomes
from mae_bench.corruptions import CORRUPTIONS
from mae_bench.errors import MaeBenchError
from mae_bench.recipe import resolve
from mae_bench.results import Result, read_result
from mae_bench.validation import validate
from tests.colours import BACKBONE, FINETUNE, write_colours, write_recipe
from tests.launch import ROOT, finish, on_two_processes
from tests.robust_sets import (
    CLASSES,
    ROBUSTNESS,
    SETS,
    nearest,
    write_corrupted,
    write_folders,
    write_image,
    write_sets,
)

QUICK = {**FINETUNE, "train": {"epochs": 4, "batch": 18, "micro_batch": 18}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sets in miniature, and a finished fine-tuning ``trained``; nobody may change them."""
    root = write_sets(write_colours(tmp_path_factory.mktemp("sets")))
    api.run(
        write_recipe(root, QUICK, "trained"),
        BACKBONE,
        data_root=root,
        runs_root=root / "runs",
        name="trained",
    )
    return root


@pytest.fixture
def nearest_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers, "open_classifier", lambda run: nearest())


def evaluated(
    root: Path, sets: dict[str, Any], runs: Path, backbone: str = BACKBONE, **options: Any
) -> Result:
    runs.mkdir(exist_ok=True)
    recipe = write_recipe(runs, {**ROBUSTNESS, "sets": sets}, "robust")
    return api.run(recipe, backbone, data_root=root, runs_root=runs, **options)


def opened(root: Path, sets: dict[str, Any], **changes: Any) -> cells.Evaluation:
    config = validate(RobustnessConfig, {**ROBUSTNESS, "recipe": "robust", "sets": sets})
    return cells.open_cells(config, root, nearest(**changes))


# ---------------------------------------------------------------- the whole


def test_all_sets_of_a_finished_run_in_one_command(shared: Path, tmp_path: Path) -> None:
    result = evaluated(shared, SETS, tmp_path, str(shared / "runs" / "trained"))
    there = read_result(shared / "runs" / "trained")
    assert list(result.metrics)[:2] == ["in_c_mce", "in_c_error"]
    assert {"in_a_top1", "in_r_top1", "in_sketch_top1", "in_v2_top1", "in_real_top1"} < set(result.metrics)
    assert {f"in_c_{kind}_{name}" for kind in ("ce", "error") for name in CORRUPTIONS} < set(result.metrics)
    assert set(result.units) == set(result.metrics)
    assert result.task == "imagenet-robustness"
    assert result.backbone == there.backbone
    assert result.dataset is not None
    assert (result.dataset.name, result.dataset.classes) == ("colours-robustness", 3)
    # 225 of C, 5 of A, 3 of R, 6 of Sketch, 6 of V2; of 21 validation images 5 have no label in ReaL.
    assert result.dataset.val_images == 225 + 5 + 3 + 6 + 6 + 16
    assert result.details["sets"]["c"]["images"] == 225
    assert result.details["sets"]["a"]["classes"] == 2
    assert result.details["classifier"]["top1"] == there.metrics["top1"]
    assert result.recipe_hash != there.recipe_hash
    assert result.steps is None
    lines = (tmp_path / "robust").glob(f"*/{LEDGER_FILE}")
    assert sum(len(path.read_text().splitlines()) for path in lines) == 75 + 5


def test_departures_of_the_classifiers_run_are_departures_here(shared: Path, tmp_path: Path) -> None:
    values = {**QUICK, "protocol": "imagenet-finetune", "train": {**QUICK["train"], "epochs": 1}}
    recipe = write_recipe(tmp_path, values, "short")
    run = api.run(recipe, BACKBONE, data_root=shared, runs_root=tmp_path)
    result = evaluated(shared, {"a": SETS["a"]}, tmp_path, str(run.folder))
    departures = {entry.key: entry.ours for entry in result.deviations}
    assert departures["train.epochs"] == 1
    assert departures["data.name"] == "colours"


def test_classifiers_that_were_trained_otherwise_never_share_a_cell(shared: Path, tmp_path: Path) -> None:
    other = {**QUICK, "label_smoothing": 0.0}
    recipe = write_recipe(tmp_path, other, "other")
    found = []
    for seed in (0, 1):
        run = api.run(recipe, BACKBONE, data_root=shared, runs_root=tmp_path, seed=seed)
        found.append(evaluated(shared, {"a": SETS["a"]}, tmp_path, str(run.folder)))
    first = evaluated(shared, {"a": SETS["a"]}, tmp_path, str(shared / "runs" / "trained"))
    assert found[0].recipe_hash == found[1].recipe_hash != first.recipe_hash
    # Seeds of the training are seeds here, so that a table shows their mean.
    assert [result.seed for result in found] == [0, 1]


# ---------------------------------------------------------------- what is right


def test_whole_classifiers_share_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # How they were trained is not known, so tables must not rank them as runs of one recipe.
    write_folders(tmp_path / "imagenet-a", {"red": ["red"], "blue": ["blue"]})
    hashes = []
    for digest in ("1" * 64, "2" * 64, "1" * 64):
        one = replace(nearest(), digest=digest)
        monkeypatch.setattr(classifiers, "open_classifier", lambda run, one=one: one)
        hashes.append(evaluated(tmp_path, {"a": SETS["a"]}, tmp_path, name=f"run-{len(hashes)}").recipe_hash)
    assert hashes[0] == hashes[2] != hashes[1]


def test_other_logits_take_no_part_in_a_and_r(tmp_path: Path, nearest_colour: None) -> None:
    # Of the two folders the nearer one to green (80, 180, 70) is blue (60, 90, 190), not red (190, 70, 60): with all
    # three logits the two green images would be wrong, with two they are named blue.
    folders = {"blue": ["green", "green", "blue"], "red": ["green"]}
    for name in ("imagenet-a", "sketch"):
        write_folders(tmp_path / name, {**folders, **({"green": ["green"]} if name == "sketch" else {})})
    metrics = evaluated(tmp_path, {"a": SETS["a"], "sketch": SETS["sketch"]}, tmp_path).metrics
    assert metrics["in_a_top1"] == 75.0  # three of four
    assert metrics["in_sketch_top1"] == 40.0  # blue and green themselves, of five


def test_logits_are_found_by_name_and_not_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folders(tmp_path / "imagenet-a", {"red": ["red"], "blue": ["blue"]})
    write_folders(tmp_path / "sketch", {name: [name] for name in CLASSES})
    monkeypatch.setattr(classifiers, "open_classifier", lambda run: nearest(["red", "blue", "green"]))
    sets = {key: SETS[key] for key in ("a", "sketch")}
    assert set(evaluated(tmp_path, sets, tmp_path).metrics.values()) == {100.0}


def numbered(root: Path, classes: list[str], numbers: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """The classes that numbered folders, and ReaL's labels of one image each, stand for."""
    for number in range(len(classes)):
        write_image(root / "v2" / str(number) / "0.png", "red")
        write_image(root / "reassessed" / "val" / f"{number:04}.png", "red")
    (root / "reassessed" / "real.json").write_text(json.dumps([[number] for number in range(len(classes))]))
    sets = {key: SETS[key] for key in ("v2", "real")}
    folders, real = opened(root, sets, model=torch.nn.Identity(), classes=classes).cells
    source = folders.dataset.source
    by_folder = {
        int(source.name(index).split("/")[-2]): classes[source.label(index)] for index in range(len(classes))
    }
    logits = torch.eye(len(classes))
    by_label = {
        number: [
            classes[i] for i in range(len(classes)) if real.hits(logits[i : i + 1], torch.tensor([number]))
        ]
        for number in numbers
    }
    return [by_folder[number] for number in numbers], [
        name for number in numbers for name in by_label[number]
    ]


def test_numbers_are_places_among_the_sorted_classes_beyond_nine(tmp_path: Path) -> None:
    # As text 10 comes before 2.
    classes = [f"class-{letter}" for letter in "abcdefghijkl"]
    named = ["class-a", "class-c", "class-k", "class-l"]
    assert numbered(tmp_path, classes, (0, 2, 10, 11)) == (named, named)


def test_numbers_are_places_among_imagenets_wnids_in_whatever_order_the_logits_are(tmp_path: Path) -> None:
    official = wnids("imagenet-1k")
    named = [official[0], official[2], official[999]]
    assert numbered(tmp_path, list(reversed(official)), (0, 2, 999)) == (named, named)


def test_bare_numbers_mean_themselves(tmp_path: Path) -> None:
    # As shards and datasets without names have them; sorted as text, 2 would stand for the class 10.
    named = ["0", "2", "10", "11"]
    assert numbered(tmp_path, [str(index) for index in range(12)], (0, 2, 10, 11)) == (named, named)


@pytest.mark.parametrize("key", ["v2", "real"])
def test_numbers_say_nothing_of_other_names(key: str, tmp_path: Path) -> None:
    # ImageNet's classes as Hugging Face names them, in the order of the wnids, would be mixed up by sorting.
    classes = ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"]
    for number in range(3):
        write_image(tmp_path / "v2" / str(number) / "0.png", "red")
        write_image(tmp_path / "reassessed" / "val" / f"{number}.png", "red")
    (tmp_path / "reassessed" / "real.json").write_text("[[0], [1], [2]]")
    with pytest.raises(MaeBenchError, match=r"are neither ImageNet's wnids nor sorted: tench.* classes=FILE"):
        opened(tmp_path, {key: SETS[key]}, model=torch.nn.Identity(), classes=classes)


def test_any_label_of_real_is_right_and_images_without_one_do_not_count(
    tmp_path: Path, nearest_colour: None
) -> None:
    # Sorted by path; the numbers say which list is whose.
    images = {"blue/ILSVRC2012_val_00000003": "red", "green/ILSVRC2012_val_00000001": "green",
              "red/ILSVRC2012_val_00000002": "blue", "red/ILSVRC2012_val_00000004": "red"}  # fmt: skip
    for name, colour in images.items():
        write_image(tmp_path / "reassessed" / "val" / f"{name}.png", colour)
    # Green is among the labels of 1; 2 has none; 3 (red) is not blue; 4 is red.
    (tmp_path / "reassessed" / "real.json").write_text("[[0, 1], [], [0], [2]]")
    result = evaluated(tmp_path, {"real": SETS["real"]}, tmp_path)
    assert result.metrics["in_real_top1"] == pytest.approx(200 / 3)
    assert result.details["sets"]["real"]["images"] == 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[[0], [1]]", "has labels for 2 images, and .* holds 3"),
        ("[[0], [1], [7]]", "its label 7 is none of the classifier's 3 classes"),
        ("[[0], 1, []]", "is no list with a list of labels"),
        ("nothing", "it is no JSON"),
    ],
)
def test_labels_of_real_that_do_not_fit(labels: str, message: str, tmp_path: Path) -> None:
    for number, name in enumerate(CLASSES):
        write_image(tmp_path / "reassessed" / "val" / name / f"{number}.png", name)
    (tmp_path / "reassessed" / "real.json").write_text(labels)
    with pytest.raises(MaeBenchError, match=message):
        opened(tmp_path, {"real": SETS["real"]})


def test_images_of_real_are_in_the_order_of_their_names(
    shared: Path, tmp_path: Path, nearest_colour: None
) -> None:
    # Nearest colours are right about all images that have a label, if each gets its own.
    assert evaluated(shared, {"real": SETS["real"]}, tmp_path).metrics["in_real_top1"] == 100
    for name in CLASSES:
        write_image(tmp_path / "reassessed" / "val" / name / "same.png", name)
    (tmp_path / "reassessed" / "real.json").write_text("[[0], [1], [2]]")
    with pytest.raises(MaeBenchError, match=r"blue/same\.png and green/same\.png have one name"):
        opened(tmp_path, {"real": SETS["real"]})


def test_numbers_of_real_must_be_whole(tmp_path: Path) -> None:
    for number in (1, 3):
        write_image(tmp_path / "reassessed" / "val" / f"ILSVRC2012_val_{number:08d}.png", "red")
    (tmp_path / "reassessed" / "real.json").write_text("[[0], [1]]")
    with pytest.raises(MaeBenchError, match="are not 1 to 2, each once"):
        opened(tmp_path, {"real": SETS["real"]})


def test_logits_that_are_not_finite_are_no_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 3), float("nan"))

    write_folders(tmp_path / "imagenet-a", {"blue": ["blue"], "green": ["green"]})
    write_folders(tmp_path / "reassessed" / "val", {"blue": ["blue"]})
    (tmp_path / "reassessed" / "real.json").write_text("[[0]]")
    monkeypatch.setattr(classifiers, "open_classifier", lambda run: nearest(model=Broken()))
    metrics = evaluated(tmp_path, {"a": SETS["a"], "real": SETS["real"]}, tmp_path).metrics
    assert metrics == {"in_a_top1": 0.0, "in_real_top1": 0.0}


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(("size", "short"), [(8, None), (16, None), (24, 24)])
def test_corrupted_images_are_cut_and_only_enlarged_where_they_must(
    size: int, short: int | None, shared: Path
) -> None:
    evaluation = opened(shared, {"c": SETS["c"]}, size=size)
    transform: Any = evaluation.cells[0].dataset.transform
    assert transform.short == short
    assert evaluation.cells[0].dataset[0]["image"].shape == (3, size, size)
    assert ("nothing published says how" in " ".join(evaluation.notes)) == (short is not None)


def test_the_archives_folders_make_no_difference(shared: Path, tmp_path: Path) -> None:
    write_corrupted(tmp_path / "imagenet-c", groups=True)
    assert (tmp_path / "imagenet-c/noise/shot_noise/3").is_dir()
    together = opened(shared, {"c": SETS["c"]}).cells
    apart = opened(tmp_path, {"c": SETS["c"]}).cells
    assert [(cell.name, cell.fingerprint) for cell in apart] == [
        (cell.name, cell.fingerprint) for cell in together
    ]
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one.dataset[2]["image"], other.dataset[2]["image"])


def test_a_local_set_says_so(shared: Path, tmp_path: Path, nearest_colour: None) -> None:
    shutil.copytree(shared / "imagenet-c", tmp_path / "imagenet-c")
    label = {"library": "imagecorruptions-imaug", "version": "1.2.3", "complete": True, "corruptions": {}}
    (tmp_path / "imagenet-c" / "corrupted.json").write_text(json.dumps(label))
    (tmp_path / "imagenet-c" / "spatter" / "1").mkdir(parents=True)
    result = evaluated(tmp_path, {"c": SETS["c"]}, tmp_path)
    words = "corruptions made locally by imagecorruptions-imaug 1.2.3, not the official ImageNet-C"
    assert words in result.notes
    assert result.details["sets"]["c"]["made_locally"] == words
    assert "ImageNet-C: left out, for they count in no mCE: spatter" in result.notes
    (tmp_path / "imagenet-c" / "corrupted.json").write_text(json.dumps({**label, "complete": False}))
    with pytest.raises(MaeBenchError, match="is still being made"):
        opened(tmp_path, {"c": SETS["c"]})


def test_a_part_of_the_corruptions_has_no_mce(shared: Path, tmp_path: Path, nearest_colour: None) -> None:
    sets = {"c": {"root": "imagenet-c", "corruptions": ["fog", "snow"], "severities": [1, 5]}}
    result = evaluated(shared, sets, tmp_path)
    assert list(result.metrics) == ["in_c_part_error"]
    assert "4 of 75 cells: there is no mCE" in " ".join(result.notes)
    assert list(result.details["in_c_error_by_severity"]) == ["snow", "fog"]
    whole = {"c": {"root": "imagenet-c", "corruptions": ["fog"]}}
    assert list(evaluated(shared, whole, tmp_path).metrics) == [
        "in_c_part_error",
        "in_c_error_fog",
        "in_c_ce_fog",
    ]


# ---------------------------------------------------------------- killed, and gone on with


def test_a_killed_evaluation_goes_on_where_it_was(
    shared: Path, tmp_path: Path, nearest_colour: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    count = counting._Counter.count

    def stopping(self: Any, cell: Any, work: Any) -> Any:
        if len(counted) == 40:
            raise KeyboardInterrupt
        counted.append(cell.name)
        return count(self, cell, work)

    whole = evaluated(shared, SETS, tmp_path / "whole")
    monkeypatch.setattr(counting._Counter, "count", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluated(shared, SETS, tmp_path / "killed")
    before = list(counted)
    assert not list((tmp_path / "killed").rglob("result.json"))

    def noting(self: Any, cell: Any, work: Any) -> Any:
        counted.append(cell.name)
        return count(self, cell, work)

    monkeypatch.setattr(counting._Counter, "count", noting)
    again = evaluated(shared, SETS, tmp_path / "killed")
    assert len(before) == 40
    assert len(counted) == len(set(counted)) == 80
    assert again.metrics == whole.metrics
    assert again.dataset == whole.dataset


def test_what_changed_meanwhile_is_counted_again(
    tmp_path: Path, nearest_colour: None, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path / "imagenet-a", {"blue": ["blue"], "red": ["red"]})
    first = evaluated(tmp_path, {"a": SETS["a"]}, tmp_path, name="one")
    assert first.metrics["in_a_top1"] == 100
    (tmp_path / "one" / "result.json").unlink()
    write_image(tmp_path / "imagenet-a" / "red" / "1.png", "blue")
    assert evaluated(tmp_path, {"a": SETS["a"]}, tmp_path, name="one").metrics["in_a_top1"] < 100
    assert "a: the images changed since it was counted" in capsys.readouterr().err


def test_other_weights_do_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folders(tmp_path / "imagenet-a", {"blue": ["blue"], "red": ["red"]})
    for digest in ("0" * 64, "1" * 64):
        monkeypatch.setattr(classifiers, "open_classifier", lambda run, d=digest: nearest(digest=d))
        if digest[0] == "0":
            evaluated(tmp_path, {"a": SETS["a"]}, tmp_path, name="one")
            (tmp_path / "one" / "result.json").unlink()
            continue
        with pytest.raises(MaeBenchError, match="weights changed since this evaluation began"):
            evaluated(tmp_path, {"a": SETS["a"]}, tmp_path, name="one")


def test_unreadable_images_stop_or_are_listed(tmp_path: Path, nearest_colour: None) -> None:
    write_folders(tmp_path / "imagenet-a", {"blue": ["blue", "blue"], "red": ["red"]})
    (tmp_path / "imagenet-a" / "blue" / "0.png").write_bytes(b"broken")
    with pytest.raises(MaeBenchError, match=r"unreadable image .*blue/0\.png.*data\.max_bad_images=N"):
        evaluated(tmp_path, {"a": SETS["a"]}, tmp_path)
    recipe = write_recipe(tmp_path, {**ROBUSTNESS, "sets": {"a": SETS["a"]}}, "patient")
    for _ in range(2):  # what is read from the ledger tells of them too
        result = api.run(
            recipe, BACKBONE, ["data.max_bad_images=1"], data_root=tmp_path, runs_root=tmp_path, name="two"
        )
        assert any("blue/0.png" in name for name in result.details["unreadable_images"])
        (tmp_path / "two" / "result.json").unlink()


@pytest.mark.slow
def test_two_processes_count_as_one(shared: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shared, tmp_path / "root"))
    trained = str(root / "runs" / "trained")
    sets = {key: SETS[key] for key in ("a", "r", "real")}
    sets["c"] = {"root": "imagenet-c", "corruptions": ["fog"]}
    sets["r"] = SETS["sketch"]
    recipe = write_recipe(root, {**ROBUSTNESS, "backbone": f"run:{trained}", "sets": sets}, "robust")
    one = api.run(recipe, data_root=root, runs_root=root / "one")
    program = (
        "import sys, torch.distributed as dist\n"
        "from mae_bench import api\n"
        "api.run(sys.argv[1], data_root=sys.argv[2], runs_root=sys.argv[3])\n"
        "dist.destroy_process_group()\n"
    )
    (tmp_path / "both.py").write_text(program)
    finish(on_two_processes([str(tmp_path / "both.py"), recipe, str(root), str(root / "two")]), ROOT)
    two = read_result(next((root / "two").rglob("result.json")))
    assert two.hardware["processes"] == 2
    assert two.metrics == one.metrics
    kept = [next((root / world).rglob(outcomes.FILE)).read_bytes() for world in ("one", "two")]
    assert kept[0] == kept[1]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("key", "folders", "message"),
    [
        ("a", {"blue": ["blue"], "mauve": ["red"]}, "has class mauve that the classifier does not know"),
        ("sketch", {"blue": ["blue"], "red": ["red"]}, "lacks class green of the classifier's 3"),
        ("sketch", {"blue": ["blue"], "red": ["red"], "green": []}, "no image in class green"),
        ("r", {"blue": []}, "holds no image"),
        ("v2", {"0": ["blue"], "7": ["red"]}, "has class 7 that the classifier does not know"),
    ],
)
def test_folders_that_do_not_fit(
    key: str, folders: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    write_folders(tmp_path / SETS[key]["root"], folders)
    with pytest.raises(MaeBenchError, match=message):
        opened(tmp_path, {key: SETS[key]})


@pytest.mark.parametrize("key", ["a", "r"])
def test_of_imagenet_it_must_be_exactly_the_200(key: str, tmp_path: Path) -> None:
    official = wnids("imagenet-a" if key == "a" else "imagenet-r")
    stranger = next(wnid for wnid in wnids("imagenet-1k") if wnid not in official)
    image = tmp_path / f"imagenet-{key}" / official[0] / "0.png"
    write_image(image, "red")
    for wnid in [*official[1:-1], stranger]:
        (image.parent.parent / wnid).mkdir()
        shutil.copy(image, image.parent.parent / wnid / "0.png")
    imagenets: dict[str, Any] = {"model": torch.nn.Identity(), "classes": list(wnids("imagenet-1k"))}
    with pytest.raises(MaeBenchError) as error:
        opened(tmp_path, {key: SETS[key]}, **imagenets)
    assert f"lacks class {official[-1]} of the 200 of imagenet-{key} and has class {stranger}" in str(
        error.value
    )
    (image.parent.parent / stranger).rename(image.parent.parent / official[-1])
    evaluation = opened(tmp_path, {key: SETS[key]}, **imagenets)
    assert evaluation.cells[0].classes == 200
    assert "argmax over 200 of 1,000 logits" in evaluation.lines[0]


def test_the_lists_of_wnids() -> None:
    # Numbers of official eval.py files: the first two and the last of thousand_k_to_200, and of the list for R.
    every = wnids("imagenet-1k")
    assert (len(every), len(set(every)), list(every)) == (1000, 1000, sorted(every))
    found = {name: [every.index(wnid) for wnid in wnids(name)] for name in ("imagenet-a", "imagenet-r")}  # type: ignore[arg-type]
    assert {name: len(places) for name, places in found.items()} == {"imagenet-a": 200, "imagenet-r": 200}
    assert (found["imagenet-a"][:2], found["imagenet-a"][-1]) == ([6, 11], 988)
    assert (found["imagenet-r"][:2], found["imagenet-r"][-1]) == ([1, 2], 988)
    assert len(set(found["imagenet-a"]) & set(found["imagenet-r"])) == 86


def drop(root: Path, *parts: str) -> None:
    for part in parts:
        shutil.rmtree(root / "imagenet-c" / part)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: drop(root, "fog"), "lacks fog of ImageNet-C"),
        (lambda root: drop(root, "fog/2", "snow/5"), "lacks snow/5, fog/2 of ImageNet-C"),
        (lambda root: drop(root, "fog/2/red"), "fog/2 has other class folders than the rest .red"),
        (lambda root: (root / "imagenet-c/fog/2/red/0.png").unlink(), "fog/2 holds 2 images, the others 3"),
        (lambda root: (root / "imagenet-c/noise/fog").mkdir(parents=True), "are both there"),
        (lambda root: drop(root, ""), "no such folder .sets.c.root = 'imagenet-c'.*with sets.c=null"),
    ],
)
def test_an_imagenet_c_that_is_not_whole(damage: Any, message: str, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared / "imagenet-c", tmp_path / "imagenet-c")
    damage(tmp_path)
    with pytest.raises(MaeBenchError, match=message):
        opened(tmp_path, {"c": SETS["c"]})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sets.c.corruptions=[fogg]", "corruptions: there is no 'fogg' in the mCE; did you mean 'fog'"),
        ("sets.c.corruptions=[spatter]", "there is no 'spatter' in the mCE"),
        ("sets.c.corruptions=[fog, fog]", "corruptions: one stands twice"),
        ("sets.c.severities=[6]", "sets.c.severities.0: should be at most 5"),
        ("sets={}", "give at least one of c, a, r, sketch, v2, real"),
        ("data.image_size=[224, 224]", "data.image_size: unknown key"),
    ],
)
def test_settings_that_make_no_sense(override: str, message: str) -> None:
    with pytest.raises(MaeBenchError) as error:
        resolve("imagenet-robustness", [override])
    assert message in str(error.value)


# ---------------------------------------------------------------- before the start


def test_check_lists_sets_classes_and_origin(shared: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, ROBUSTNESS, "robust")
    trained = str(shared / "runs" / "trained")
    lines = "\n".join(api.check(recipe, trained, data_root=shared, runs_root=tmp_path / "runs"))
    assert f"classifier {trained}: trained on colours" in lines
    assert "15 corruptions of 5 severities, 3 images of 3 classes in each; centre of 16 x 16" in lines
    assert "5 images of 2 classes, argmax over 2 of 3 logits" in lines
    assert "16 images, 5 more without a label" in lines
    assert not (tmp_path / "runs").exists()


def test_a_survey_needs_no_classifier(shared: Path) -> None:
    config = validate(RobustnessConfig, {**ROBUSTNESS, "recipe": "robust"})
    survey = Robustness(config).survey(shared)
    assert survey.findings == []
    evaluation = opened(shared, SETS)
    facts = dataset_facts("colours-robustness", evaluation, nearest())
    assert survey.fingerprint == facts["dataset"]["fingerprint"], "that of results"
    found = {part.name: (part.size, part.classes) for part in survey.parts}
    assert found == {
        "imagenet-c": (225, CLASSES),
        "imagenet-a": (5, ["blue", "red"]),
        "imagenet-r": (3, ["green", "red"]),
        "imagenet-sketch": (6, CLASSES),
        "imagenet-v2": (6, ["0", "1", "2"]),
        "imagenet-real": (16, None),
    }
    for part in survey.parts:
        for item in (0, part.size - 1):
            assert Path(part.title(item)).read_bytes() == part.read(item)
            assert part.faults(item, part.read(item)) == []
            assert part.faults(item, b"broken")[0].kind == "unreadable"
    corrupted = survey.parts[0]
    assert corrupted.labels is not None
    assert "jpeg_compression/5/red" in corrupted.title(224)
    assert [corrupted.labels(item) for item in (0, 1, 224)] == [0, 1, 2]


def test_a_survey_finds_what_is_wrong_with_the_layout(shared: Path, tmp_path: Path) -> None:
    for name in ("imagenet-c", "imagenet-a", "sketch"):
        shutil.copytree(shared / name, tmp_path / name)
    (tmp_path / "imagenet-c/fog/2/red/0.png").unlink()
    shutil.rmtree(tmp_path / "sketch/red")
    (tmp_path / "sketch/red").mkdir()
    (tmp_path / "imagenet-a/blue").rename(tmp_path / "imagenet-a/n01440764")
    sets = {key: SETS[key] for key in ("c", "a", "r", "sketch")}
    config = validate(RobustnessConfig, {**ROBUSTNESS, "recipe": "robust", "sets": sets})
    survey = Robustness(config).survey(tmp_path)
    kinds = {finding.kind: finding.message for finding in survey.findings}
    assert set(kinds) == {"wrong-count", "missing-class", "unknown-class", "layout"}
    assert "fog/2 holds 2 images, the others 3" in kinds["wrong-count"]
    assert "red holds no image" in " ".join(finding.message for finding in survey.findings)
    assert "n01440764" in kinds["unknown-class"]
    assert "imagenet-r: no such folder" in kinds["layout"]
    assert survey.fingerprint is None


# ---------------------------------------------------------------- recipes

RECIPES = {
    "imagenet-robustness": {"c", "a", "r", "sketch"},
    "imagenet-c": {"c"},
    "imagenet-a": {"a"},
    "imagenet-r": {"r"},
    "imagenet-sketch": {"sketch"},
    "imagenet-v2": {"v2"},
    "imagenet-real": {"real"},
    "demo/imagenet-robustness": {"c", "a", "r", "sketch"},
}
TABLE_13 = {"in_c_mce": 51.7, "in_a_top1": 35.9, "in_r_top1": 48.3, "in_sketch_top1": 34.5}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    resolved = resolve(name)
    config: Any = resolved.config
    head = resolved.path.read_text(encoding="utf-8").split("task:")[0]
    assert {key for key in SETS if getattr(config.sets, key) is not None} == RECIPES[name]
    for part in ("Source", "Command", "Cost", "Expected"):
        assert f"# {part}" in head
    assert f"mae-bench run --task {name} " in head
    if not name.startswith("demo/"):
        expected = {entry.metric: entry.value for entry in config.expected}
        keys = {"c": "in_c_mce", "a": "in_a_top1", "r": "in_r_top1", "sketch": "in_sketch_top1"}
        assert expected == {keys[key]: TABLE_13[keys[key]] for key in RECIPES[name] if key in keys}
