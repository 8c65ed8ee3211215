"""What is known of datasets: the numbers written out, and that each file is whole."""

from __future__ import annotations

import hashlib
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mae_bench import datasets, recipe, registry, resources, scenes, settings
from mae_bench.errors import MaeBenchError
from mae_bench.scenes.shapes import CLASSES
from mae_bench.survey import Part, Survey
from tests.launch import environment

# Classes, then images by part. Sources: the READMEs of visipedia/inat_comp (2017 to 2021), zhoubolei/places_devkit,
# CSAILVision/sceneparsing, hendrycks/imagenet-r; huggingface/pytorch-image-models results/README.md (A, V2);
# facebookresearch/dinov2 (ImageNet); Places205: 2,448,873 images, 100 for validation of each of 205 classes.
COUNTS: dict[str, tuple[int, dict[str, int]]] = {
    "imagenet-1k": (1000, {"train": 1281167, "val": 50000}),
    "inat-2017": (5089, {"train": 579184, "val": 95986}),
    "inat-2018": (8142, {"train": 437513, "val": 24426}),
    "inat-2019": (1010, {"train": 265213, "val": 3030}),
    "inat-2021": (10000, {"train": 2686843, "val": 100000}),
    "inat-2021-mini": (10000, {"train": 500000, "val": 100000}),
    "places205": (205, {"train": 2448873, "val": 20500}),
    "places365": (365, {"train": 1803460, "val": 36500}),
    "coco": (80, {"train": 118287, "val": 5000}),
    "ade20k": (150, {"train": 20210, "val": 2000}),
    "cifar-10": (10, {"train": 50000, "val": 10000}),
    "imagenet-c": (1000, {}),  # 50,000 of each corruption and severity; parts are sets as well
    "imagenet-a": (200, {"imagenet-a": 7500}),
    "imagenet-r": (200, {"imagenet-r": 30000}),
    "imagenet-sketch": (1000, {}),  # 50,000 by its README, 50,889 files in the archive by hearsay
    "imagenet-v2": (1000, {"imagenet-v2": 10000}),
    "imagenet-real": (1000, {"imagenet-real": 50000}),
}


def known(name: str) -> datasets.DatasetFacts:
    facts = datasets.facts(name)
    assert facts is not None
    return facts


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name: str) -> None:
    facts = known(name)
    assert (facts.classes, facts.images) == COUNTS[name]


def test_nothing_else_is_known_but_generated_worlds() -> None:
    rest = set(datasets.known()) - set(COUNTS)
    assert rest
    assert all(name.startswith("generated-") for name in rest)
    shapes = len(CLASSES)
    classes = {name: known(name).classes for name in rest if known(name).classes != shapes}
    # With the background; and of several sets with different classes.
    assert classes == {"generated-scenes-ade20k": shapes + 1, "generated-robustness": None}


def test_digests_are_of_the_classes_in_order() -> None:
    """Of the sorted wnids of hendrycks' eval.py files, made with sha256 of their lines."""
    of_all = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
    assert {name: known(name).classes_digest for name in datasets.known() if known(name).classes_digest} == {
        "imagenet-1k": of_all,
        "imagenet-c": of_all,
        "imagenet-real": of_all,
        "imagenet-sketch": of_all,
        "imagenet-a": "f6aa4b23244554d9b864fd715ae20048f6a9686388911b2dfbf1ada01bf0f520",
        "imagenet-r": "e19a59d84e3746fafd34d2ccf6ae604a44e9a0500a596f343c878a89e30ce624",
    }
    assert datasets.digest_of(["b", "a"]) == hashlib.sha256(b"b\na").hexdigest()


@pytest.mark.parametrize("name", datasets.known())
def test_each_says_where_it_comes_from(name: str) -> None:
    facts = known(name)
    assert facts.source
    assert re.search(r"https?://\S|docs/", facts.terms)
    assert facts.expects.strip().startswith(facts.root.split("/")[0])
    assert facts.download or name.startswith("generated-")
    assert (resources.configs_dir() / "datasets" / f"{name}.yaml").read_text().startswith("# ")


def recipes_with_data() -> dict[str, Any]:
    """Recipe -> its `data` section, for all that can be resolved without an engine that is missing."""
    found = {}
    for name, path in resources.recipes().items():
        task = resources.root_text(path, "task") or resources.root_text(
            path.parent / str(resources.root_text(path, "extends")), "task"
        )
        if task is None or registry.adapters().entry(task).missing():
            continue
        data = settings.plain(recipe.resolve(name).config).get("data", {})
        if "root" in data:
            found[name] = data
    return found


def test_every_recipe_expects_its_data_where_its_facts_say() -> None:
    found = recipes_with_data()
    assert len(found) > 40
    strange = {
        name: (data["name"], data["root"])
        for name, data in found.items()
        if (facts := datasets.facts(data["name"])) is None or facts.root != data["root"]
    }
    assert strange == {}
    assert {data["name"] for data in found.values()} >= {"imagenet-1k", "coco", "ade20k", "cifar-10"}


def test_every_recipe_asks_for_as_many_classes() -> None:
    counts = {(data["name"], data["classes"]) for data in recipes_with_data().values() if data.get("classes")}
    assert {(name, known(name).classes) for name, _ in counts} == counts


@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("generated-shapes", "shapes"),
        ("generated-scenes-coco", "scenes"),
        ("generated-scenes-ade20k", "scenes"),
        ("generated-faces", "faces"),
        ("generated-inat", "faces"),
        ("generated-places", "faces"),
    ],
)
def test_generated_worlds_hold_what_is_said(name: str, world: str) -> None:
    spec: Any = scenes.SPECS[world]
    facts = known(name)
    assert facts.root.split("/")[:2] == [scenes.FOLDER, world]
    assert facts.images == {part: spec.count(part) for part in facts.images}


def test_generated_sets_hold_what_is_said() -> None:
    """The corrupted copies; of as many images as the faces validate on half of the classes, half, and all."""
    count = scenes.SPECS["faces"].count("val")
    assert known("generated-robustness").images == {
        "imagenet-c": scenes.SPECS["faces-c"].images,
        "imagenet-a": count // 2,
        "imagenet-r": count // 2,
        "imagenet-sketch": count,
    }


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_download_lines_are_shell(name: str, tmp_path: Path) -> None:
    lines = datasets.download_lines(known(name), tmp_path / "it's here")
    script = "\n".join(lines)
    assert not re.search(r"\{(root|above)\}", script)
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    fetched = re.findall(r"^curl -L -O (\S+)$", script, re.MULTILINE)
    assert fetched or name in ("imagenet-1k", "imagenet-c")
    # What is unpacked or moved was fetched, or is fetched by hand.
    archives = {address.rsplit("/", 1)[1] for address in fetched}
    for named in re.findall(r"(?:tar -xz?f|unzip -q) (\S+\.(?:tar|tar\.gz|zip))(?: |$)", script):
        assert named in archives or name == "imagenet-1k"
    for named in re.findall(r"^echo '[0-9a-f]{32}  (\S+)' \| md5sum -c$", script, re.MULTILINE):
        assert named in archives or name in ("imagenet-1k", "imagenet-c")


def test_an_archive_with_a_folder_of_its_own_is_moved_where_it_is_expected(tmp_path: Path) -> None:
    facts = known("ade20k")
    usual = datasets.download_lines(facts, tmp_path / "ADEChallengeData2016")
    other = datasets.download_lines(facts, tmp_path / "my scenes")
    assert usual[0] == f"mkdir -p {tmp_path} && cd {tmp_path}"
    assert other == [*usual, "mv ADEChallengeData2016 'my scenes'"]


def test_the_lines_for_cifar_make_class_folders(tmp_path: Path) -> None:
    """Run on a little archive of the same layout: a label byte, then three planes of 32 x 32, a record."""
    folder = tmp_path / "cifar10"
    batches = folder / "cifar-10-batches-bin"
    batches.mkdir(parents=True)
    names = ["airplane", "automobile"]
    (batches / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    for number in range(1, 6):
        record = (
            struct.pack("B", number % 2) + bytes([number]) * 1024 + bytes([20]) * 1024 + bytes([30]) * 1024
        )
        (batches / f"data_batch_{number}.bin").write_bytes(record)
    (batches / "test_batch.bin").write_bytes(bytes([1]) + bytes(3072))
    lines = datasets.download_lines(known("cifar-10"), folder)
    kept = [line for line in lines if not re.match(r"curl |echo |tar ", line)]
    program = "\n".join(kept).replace("python -", f"{shlex.quote(sys.executable)} -")
    subprocess.run(["bash", "-e", "-c", program], check=True, env=environment())
    made = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert made == [
        "test/automobile/00000.png",
        "train/airplane/00001.png",
        "train/airplane/00003.png",
        "train/automobile/00000.png",
        "train/automobile/00002.png",
        "train/automobile/00004.png",
    ]
    from PIL import Image

    assert Image.open(folder / "train/airplane/00001.png").getpixel((3, 4)) == (2, 20, 30)


def test_what_is_not_known_is_none_and_what_is_wrong_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.facts("flowers") is None
    (tmp_path / "broken-one.yaml").write_text("title: x\nclases: 3\n")
    monkeypatch.setattr(resources, "datasets", lambda: {"broken-one": tmp_path / "broken-one.yaml"})
    with pytest.raises(
        MaeBenchError, match=r"clases: unknown key \(.*broken-one.yaml:2\); did you mean 'classes'"
    ):
        datasets.facts("broken-one")


def part(name: str) -> Part:
    return Part(name, name, 1, str, lambda _: b"", lambda *_: [])


def test_of_several_sets_the_numbers_of_images_are_known() -> None:
    facts = datasets.facts_for(Survey("robustness", [part("imagenet-a"), part("imagenet-r"), part("own")]))
    assert facts is not None
    assert (facts.title, facts.images, facts.classes, facts.classes_digest) == (
        "robustness",
        {"imagenet-a": 7500, "imagenet-r": 30000},
        None,
        None,
    )
    assert datasets.facts_for(Survey("own", [part("train")])) is None
    assert datasets.facts_for(Survey("ade20k", [part("train")])) is known("ade20k")
