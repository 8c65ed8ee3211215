"""Planted defects in detection and segmentation data: each is found, and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from downstream.detection.detectron2.native import Detectron2Native
from downstream.detection.detectron2.task import Detectron2
from downstream.detection.mmdet.native import MMDetNative
from downstream.detection.mmdet.task import MMDet
from downstream.detection.native_settings import NativeData as NativeCoco
from downstream.detection.settings import DetectionData
from downstream.detection.source import open_split as open_coco
from downstream.detection.surveying import survey as coco_survey
from downstream.detection.task import Detection
from downstream.segmentation.dataset import open_split as open_pairs
from downstream.segmentation.mmseg.native import MMSegNative
from downstream.segmentation.mmseg.native_settings import NativeData as NativePairs
from downstream.segmentation.mmseg.task import MMSeg
from downstream.segmentation.settings import SegmentationData
from downstream.segmentation.surveying import survey as pairs_survey
from downstream.segmentation.task import Segmentation
from mae_bench import scenes
from mae_bench.auditing import Report
from mae_bench.data import joint_fingerprint
from mae_bench.recipe import resolve
from tests.surveys import checked, facts, kinds, told
from tests.tiny_coco import HEIGHT, SQUARE, WIDTH, annotation, picture, run_lengths, settings_of

CODE = {"size": [HEIGHT, WIDTH], "counts": run_lengths()}
BAR = [20, 8, 4, 10]
"""The box of `run_lengths`."""
Content = dict[str, Any]


# ---------------------------------------------------------------- detection


def content(first: int, images: int) -> Content:
    """So many images from an id on, each with a square and, of another category, a crowd."""
    ids = range(first, first + images)
    return {
        "images": [
            {"id": number, "file_name": f"{number:04d}.png", "height": HEIGHT, "width": WIDTH}
            for number in ids
        ],
        "annotations": [
            entry
            for number in ids
            for entry in (
                annotation(10 * number, number, 3, SQUARE),
                annotation(10 * number + 1, number, 13, CODE, bbox=BAR, iscrowd=1),
                annotation(10 * number + 2, number, 13, CODE, bbox=BAR),
            )
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 13, "name": "stop sign"}],
    }


class Coco:
    """A dataset on disk with four images to train on and two to judge by."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data: DetectionData = settings_of(
            root="set",
            train={"images": "train2017", "annotations": "train.json"},
            val={"images": "val2017", "annotations": "val.json"},
        )
        self.contents = {"train": content(1, 4), "val": content(5, 2)}
        for name, split in self.contents.items():
            folder = root / "set" / f"{name}2017"
            folder.mkdir(parents=True)
            for entry in split["images"]:
                Image.fromarray(picture(shift=entry["id"])).save(folder / entry["file_name"])

    def image(self, split: str, name: str) -> Path:
        return self.root / "set" / f"{split}2017" / name

    def json(self, split: str) -> Path:
        return self.root / "set" / f"{split}.json"

    def check(self, splits: Any = ("train", "val"), known: Any = None, **options: Any) -> Report:
        for name, split in self.contents.items():
            self.json(name).write_text(json.dumps(split))
        return checked(coco_survey(self.data, self.root, splits), self.root, known, **options)


@pytest.fixture
def coco(tmp_path: Path) -> Coco:
    """The dataset, not yet spoiled."""
    return Coco(tmp_path)


def only(report: Report, kind: str) -> str:
    """The one finding there is; notes in brackets."""
    assert kinds(report) == [kind], report.as_text()
    return f"{report.findings[0].where}: {report.findings[0].message}"


def test_sound_detection_data_has_no_findings(coco: Coco) -> None:
    report = coco.check(known=facts({"train": 4, "val": 2}, ["car", "stop sign"]), workers=2)
    assert (report.findings, report.checked) == ([], 6)
    assert report.counts["train"] == {"where": str(coco.json("train")), "images": 4, "classes": 2}
    both = [open_coco(coco.data, split, coco.root) for split in ("train", "val")]
    assert report.fingerprint == joint_fingerprint(*both)
    judged = coco.check(["val"])
    assert (judged.fingerprint, list(judged.counts)) == (both[1].fingerprint(), ["val"])


def box(value: list[float]) -> Callable[[Content], None]:
    return lambda content: content["annotations"][3].update(bbox=value)


def outline(*points: float, **more: Any) -> Callable[[Content], None]:
    return lambda content: content["annotations"][3].update(segmentation=[list(points)], **more)


def empty_run_lengths(content: Content) -> None:
    content["annotations"][4]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}


def outlined_crowd(content: Content) -> None:
    content["annotations"][4].update(segmentation=SQUARE)


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (
            box([50, 10, 20, 15]),
            "annotation",
            "20: its bbox [50, 10, 20, 15] reaches 6 pixels out of the image",
        ),
        (
            box([10, -3, 20, 15]),
            "annotation",
            "20: its bbox [10, -3, 20, 15] reaches 3 pixels out of the image",
        ),
        (box([10, 10, 0, 15]), "(annotation)", "20: its bbox [10, 10, 0, 15] has no area"),
        (
            box([10, 10, 20, -1]),
            "annotation",
            "annotation 20 has the bbox [10.0, 10.0, 20.0, -1.0]; it must be",
        ),
        (empty_run_lengths, "annotation", "21: its mask is empty: its run lengths cover no pixel"),
        (
            outline(70, 10, 90, 10, 90, 20),
            "annotation",
            "20: its mask is empty: its outline covers no pixel of the",
        ),
        (
            outline(10.1, 10.1, 10.2, 10.1, 10.2, 10.2, bbox=[10.1, 10.1, 0.1, 0.1]),
            "(annotation)",
            "20: its mask is empty: its outline is too small to cover the centre of a pixel",
        ),
        (
            outline(10, 10, 30, 10, 30, 51, 10, 51),
            "(annotation)",
            "20: its outline reaches 3 pixels out of the image, where it is cut off",
        ),
        (
            outline(10, 10, 30, 10),
            "annotation",
            "annotation 20 has a polygon of 4 numbers; it must be x and y of three",
        ),
        (
            outlined_crowd,
            "(annotation)",
            "21: it stands for a group (iscrowd), which COCO gives by run lengths",
        ),
        (
            lambda content: content["annotations"][3].update(category_id=77),
            "label-range",
            "annotation 20 has the category_id 77, which 'categories' does not list",
        ),
        (
            lambda content: content["images"][1].update(height=HEIGHT + 2),
            "annotation",
            "run lengths for [48, 64] pixels (height, width), but its image has [50, 64]",
        ),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named(
    coco: Coco, spoil: Callable[[Content], None], kind: str, message: str
) -> None:
    spoil(coco.contents["train"])
    report = coco.check()
    # What lies out of the image altogether is noted for that, too.
    assert [found for found in kinds(report) if kind.startswith("(") or found != "(annotation)"] == [kind]
    told_first = f"{report.findings[0].where}: {report.findings[0].message}"
    assert message in told_first
    assert str(coco.json("train")) in told_first


def test_a_box_may_touch_the_border_and_pass_it_by_rounding(coco: Coco) -> None:
    box([0, 0, WIDTH, HEIGHT + 0.01])(coco.contents["train"])
    assert coco.check().findings == []


def test_an_image_of_another_size(coco: Coco) -> None:
    path = coco.image("train", "0002.png")
    Image.fromarray(picture(HEIGHT, WIDTH - 2)).save(path)
    message = only(coco.check(workers=2), "annotation")
    assert message.startswith(
        f"{path}: {path} is 48 pixels high and 62 wide, but {coco.json('train')} says 48 and 64"
    )


def test_an_image_that_is_cut_off(coco: Coco) -> None:
    path = coco.image("val", "0006.png")
    path.write_bytes(path.read_bytes()[:200])
    assert only(coco.check(workers=2), "unreadable").startswith(f"{path}: ")


def test_a_leaked_image(coco: Coco) -> None:
    shutil.copy(coco.image("val", "0006.png"), coco.image("train", "0002.png"))
    message = only(coco.check(), "leak")
    assert f"{coco.image('train', '0002.png')} (train) and {coco.image('val', '0006.png')} (val)" in message


def test_an_image_that_is_not_there(coco: Coco) -> None:
    coco.image("train", "0002.png").unlink()
    report = coco.check(known=facts({"train": 4, "val": 2}))
    assert kinds(report) == ["wrong-count", "missing-file"]
    assert told(report, "missing-file") == [
        f"{coco.image('train', '0002.png')}: not there, but {coco.json('train')} lists it"
    ]
    assert report.checked == 5


def test_annotation_files_that_are_exchanged(coco: Coco) -> None:
    coco.contents = {"train": coco.contents["val"], "val": coco.contents["train"]}
    report = coco.check()
    assert kinds(report) == ["swapped", "swapped"]
    assert told(report, "swapped")[0] == (
        f"data.train.annotations: {coco.json('train')} lists images of {coco.root}/set/val2017, the folder of the "
        f"other split, and none of {coco.root}/set/train2017: it is the file of another split. Look at "
        "data.train.annotations"
    )


def test_categories(coco: Coco) -> None:
    coco.contents["val"]["categories"].reverse()
    assert coco.check().findings == []  # their ids count
    coco.contents["val"]["categories"][0]["name"] = "bus"
    message = only(coco.check(), "class-order")
    assert "differ (id: training / validation): 13: stop sign / bus" in message


def test_a_category_that_no_training_image_shows(coco: Coco) -> None:
    for split in coco.contents.values():
        split["categories"].append({"id": 20, "name": "kite"})
    assert only(coco.check(), "(unused)") == f"{coco.json('train')}: no object is a 'kite'"
    coco.data = coco.data.model_copy(update={"classes": 2})
    assert kinds(coco.check()) == ["wrong-count", "wrong-count", "(unused)"]


def test_a_missing_annotation_file(coco: Coco) -> None:
    coco.data = coco.data.model_copy(
        update={"val": coco.data.val.model_copy(update={"annotations": "vla.json"})}
    )
    report = coco.check()
    assert "did you mean 'val.json'" in only(report, "layout")
    assert (list(report.counts), report.checked) == (["train"], 4)


def test_a_corrected_annotation_file_is_looked_at_again(coco: Coco) -> None:
    outline(70, 10, 90, 10, 90, 20)(coco.contents["train"])
    assert kinds(coco.check()) == ["annotation", "(annotation)"]
    outline(10, 10, 30, 10, 30, 20)(coco.contents["train"])
    assert coco.check().findings == []


# ---------------------------------------------------------------- segmentation

SIZES = {"train": {"a": (20, 30), "b/c": (24, 24), "d": (30, 20)}, "val": {"e": (20, 26), "f": (22, 30)}}


class Pairs:
    """Images with label maps of four classes on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        draw = np.random.RandomState(0)
        for split, sizes in SIZES.items():
            for name, size in sizes.items():
                image = draw.randint(0, 256, (*size, 3), dtype=np.uint8)
                labels = draw.randint(0, 4, size, dtype=np.uint8)
                for path, pixels in ((self.image(split, name), image), (self.labels(split, name), labels)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
        (root / "classes.txt").write_text("sky\ntree\nroad\ncar\n")

    def settings(self, **values: Any) -> SegmentationData:
        splits = {name: {"images": f"images/{name}", "labels": f"labels/{name}"} for name in SIZES}
        sizes = {"image_size": [32, 40], "evaluation": {"stride": [20, 20]}}
        fixed = {"name": "pairs", "root": str(self.root), "class_list": "classes.txt"}
        return SegmentationData.model_validate({**fixed, **splits, **sizes, **values})

    def image(self, split: str, name: str) -> Path:
        return self.root / "images" / split / f"{name}.png"

    def labels(self, split: str, name: str) -> Path:
        return self.root / "labels" / split / f"{name}.png"

    def relabel(self, split: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        path = self.labels(split, name)
        Image.fromarray(change(np.array(Image.open(path)))).save(path)

    def check(self, known: Any = None, workers: int = 0, **values: Any) -> Report:
        survey = pairs_survey(self.settings(**values), self.root)
        return checked(survey, self.root, known, workers=workers)


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """The dataset, not yet spoiled."""
    return Pairs(tmp_path)


def test_sound_segmentation_data_has_no_findings(pairs: Pairs) -> None:
    report = pairs.check(facts({"train": 3, "val": 2}, ["sky", "tree", "road", "car"]), workers=2)
    assert (report.findings, report.checked) == ([], 5)
    both = [open_pairs(pairs.settings(), split, pairs.root) for split in ("train", "val")]
    assert report.fingerprint == joint_fingerprint(*both)


def test_a_label_value_that_is_no_class(pairs: Pairs) -> None:
    def spoil(labels: np.ndarray) -> np.ndarray:
        labels[:3, :4] = 200
        labels[5, 5] = 4
        return labels

    pairs.relabel("val", "f", spoil)
    path = pairs.labels("val", "f")
    assert only(pairs.check(workers=2), "label-range").startswith(
        f"{path}: label map {path} holds 4 (1 pixels), 200 (12 pixels), but the 4 classes are numbered 0 to 3"
    )


def test_settings_that_fit_a_label_map_are_looked_at_again(pairs: Pairs) -> None:
    pairs.relabel("train", "a", lambda labels: np.where(labels == 0, 9, labels).astype(np.uint8))
    assert kinds(pairs.check()) == ["label-range"]
    assert pairs.check(ignore_label=9).findings == []


def test_label_maps_of_another_size_or_kind(pairs: Pairs) -> None:
    pairs.relabel("train", "a", lambda labels: labels[:-1])
    pairs.relabel("val", "e", lambda labels: np.stack([labels] * 3, axis=2))
    pairs.labels("val", "f").write_bytes(b"no image")
    report = pairs.check(workers=2)
    assert kinds(report) == ["annotation", "annotation", "unreadable"]
    sizes, colours = told(report, "annotation")
    assert sizes.startswith(f"{pairs.image('train', 'a')}: image ")
    assert "has 30x20 pixels, but its label map" in sizes
    assert colours.startswith(f"{pairs.labels('val', 'e')}: label map ")
    assert "is a colour image" in colours
    assert told(report, "unreadable")[0].startswith(f"{pairs.labels('val', 'f')}: label map ")


def test_files_without_a_partner(pairs: Pairs) -> None:
    pairs.labels("train", "b/c").unlink()
    pairs.image("val", "e").unlink()
    report = pairs.check(facts({"train": 3, "val": 2}))
    assert kinds(report) == ["wrong-count", "wrong-count", "missing-file", "missing-file"]
    assert told(report, "missing-file") == [
        f"{pairs.image('train', 'b/c')}: has no label map {pairs.labels('train', 'b/c')}; add it, or remove the image",
        f"{pairs.labels('val', 'e')}: is the label map of no image in {pairs.root}/images/val; add that, or remove "
        "the map",
    ]
    assert (report.checked, report.fingerprint) == (3, None)


def test_folders_of_label_maps_that_are_exchanged(pairs: Pairs) -> None:
    splits: dict[str, Any] = {
        split: {"images": f"images/{split}", "labels": f"labels/{other}"}
        for split, other in (("train", "val"), ("val", "train"))
    }
    report = pairs.check(**splits)
    assert kinds(report) == ["swapped", "swapped"]
    assert (
        f"the label maps of the images in {pairs.root}/images/train are in {pairs.root}/labels/train"
        in (told(report, "swapped")[0])
    )


def test_leaks_and_broken_images_of_segmentation(pairs: Pairs) -> None:
    shutil.copy(pairs.image("val", "f"), pairs.image("train", "a"))
    path = pairs.image("val", "e")
    path.write_bytes(path.read_bytes()[:300])
    report = pairs.check(workers=2)
    assert kinds(report) == ["annotation", "unreadable", "leak"]  # the copy is of another size than its map
    assert told(report, "unreadable")[0].startswith(f"{path}: ")
    assert str(pairs.image("train", "a")) in told(report, "leak")[0]


def test_a_class_that_no_training_image_shows_is_noted(pairs: Pairs) -> None:
    for name in SIZES["train"]:
        pairs.relabel("train", name, lambda labels: np.where(labels == 2, 0, labels).astype(np.uint8))
    report = pairs.check()
    assert only(report, "(unused)") == f"{pairs.root}/images/train: no image of train shows the class 'road'"
    again = pairs.check()
    assert (again.findings, again.checked) == (report.findings, 0)
    pairs.relabel("train", "d", lambda labels: labels * 0 + 2)
    assert told(pairs.check(), "unused") == []


def test_a_label_map_without_a_class_is_noted(pairs: Pairs) -> None:
    pairs.relabel("val", "e", lambda labels: labels * 0 + 255)
    report = pairs.check()
    message = "no pixel of this label map has a class; is it the right one?"
    assert only(report, "(annotation)") == f"{pairs.labels('val', 'e')}: {message}"


def test_a_label_map_that_changed_is_read_again(pairs: Pairs) -> None:
    assert pairs.check().findings == []
    pairs.relabel("val", "e", lambda labels: labels + 1)
    report = pairs.check()
    assert (kinds(report), report.checked) == (["label-range"], 1)


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("recipe", ["demo/coco", "demo/ade20k"])
def test_the_generated_scenes_are_sound(recipe: str, tmp_path: Path) -> None:
    scenes.ensure(tmp_path, "tiny-scenes")
    resolved = resolve(recipe)
    root = resolved.config.data.root.replace("generated/scenes", "generated/tiny-scenes")  # type: ignore[attr-defined]
    resolved = resolve(recipe, [f"data.root={root}"])
    report = checked(resolved.adapter_class(resolved.config).survey(tmp_path), tmp_path, workers=2)
    assert report.ok, report.as_text()
    assert report.fingerprint is not None
    assert list(report.counts) == ["train", "val"]


def test_engines_share_the_survey_of_their_family(coco: Coco, pairs: Pairs) -> None:
    """Whatever trains, and whatever file of an engine's own says how: the data is read by us."""
    assert {each.survey for each in (MMDet, Detectron2, MMDetNative, Detectron2Native)} == {Detection.survey}
    assert {each.survey for each in (MMSeg, MMSegNative)} == {Segmentation.survey}
    sound = coco.check()
    detection = NativeCoco(**{name: getattr(coco.data, name) for name in ("name", "root", "train", "val")})
    task: Any = SimpleNamespace(data=detection)
    assert MMDetNative(task).survey(coco.root).fingerprint == sound.fingerprint
    given = pairs.settings().model_dump(include={"name", "root", "train", "val", "class_list"})
    task = SimpleNamespace(data=NativePairs.model_validate(given))
    assert MMSegNative(task).survey(pairs.root).fingerprint == pairs.check().fingerprint
