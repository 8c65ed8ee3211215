"""Parts of the training images: drawn alike from every source, nested, balanced, or as a list says."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mae_bench.data import joint_fingerprint, open_source, train_dataset, val_dataset
from mae_bench.data.listing import Names
from mae_bench.data.sources import SubsetSource
from mae_bench.data.subsets import choose
from mae_bench.errors import MaeBenchError
from mae_bench.keys import SUBSET, key_of
from mae_bench.settings import SubsetSettings
from tests.layouts import FOLDER, INAT, PLACES, TORCHVISION, contents, write_layouts
from tests.pictures import settings, tree_bytes, write_tar

LABELS = np.repeat(np.arange(6), [100, 150, 7, 49, 50, 1])
NAMES = Names(f"{label}/{place:04d}.jpg" for place, label in enumerate(LABELS.tolist()))
CLASSES = list("abcdef")


@pytest.fixture
def layouts(tmp_path: Path) -> Path:
    """The four layouts of the same pictures."""
    return write_layouts(tmp_path)


def drawn(**values: object) -> list[int]:
    """What is chosen of 357 images of six classes."""
    subset = SubsetSettings.model_validate(values)
    return choose(subset, NAMES, LABELS, CLASSES, "WHERE", Path("none")).tolist()


def counts(chosen: list[int]) -> list[int]:
    return np.bincount(LABELS[chosen], minlength=6).tolist()


def refused(message: str, root: Path, *, labelled: bool = True, **subset: object) -> None:
    """Opening the training split fails, and the message holds these words."""
    with pytest.raises(MaeBenchError) as caught:
        open_source(settings(**FOLDER, subset=subset), "train", root, labelled=labelled)
    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.01, [1, 2, 1, 1, 1, 1]),  # 1.5 and 0.5 go up, 0.49 to the one that there must be
        (0.1, [10, 15, 1, 5, 5, 1]),
        (0.29, [29, 44, 2, 14, 15, 1]),  # 43.5 and 14.5, which are less in floating point
        (0.99, [99, 149, 7, 49, 50, 1]),
        (1e-05, [1, 1, 1, 1, 1, 1]),
    ],
)
def test_a_fraction_of_each_class_is_rounded_half_up(fraction: float, expected: list[int]) -> None:
    assert counts(drawn(fraction=fraction)) == expected


def test_so_many_of_each_class() -> None:
    chosen = drawn(per_class=1)
    assert counts(chosen) == [1] * 6
    assert chosen == sorted(chosen)


def test_the_draw_is_that_of_the_keys() -> None:
    chosen = drawn(per_class=1, seed=3)
    for label in range(6):
        images = np.flatnonzero(label == LABELS).tolist()
        assert chosen[label] == min(images, key=lambda image: key_of(3, 0, image, SUBSET))


def test_larger_draws_contain_smaller_ones() -> None:
    labels, names = LABELS[:306], Names(list(NAMES)[:306])
    nested = [
        set(choose(SubsetSettings(per_class=size, seed=5), names, labels, CLASSES[:4], "", Path()).tolist())
        for size in (1, 2, 5, 7)
    ]
    assert all(small < large for small, large in pairwise(nested))
    shares = [set(drawn(fraction=share)) for share in (0.01, 0.1, 0.5)]
    assert shares[0] < shares[1] < shares[2]


def test_a_draw_depends_on_its_seed_alone() -> None:
    assert drawn(fraction=0.1) == drawn(fraction=0.1, seed=0)
    draws = {tuple(drawn(fraction=0.1, seed=seed)) for seed in range(20)}
    assert len(draws) == 20


def test_no_image_is_preferred() -> None:
    often = Counter(image for seed in range(2000) for image in drawn(fraction=0.1, seed=seed) if image < 100)
    # Each of 100 images is drawn 200 times on average, with a deviation of 13.4: five deviations to each side.
    assert sum(often.values()) == 20_000
    assert len(often) == 100
    assert 133 <= min(often.values()) <= max(often.values()) <= 267


# ---------------------------------------------------------------- from every source


@pytest.mark.parametrize("subset", [{"fraction": 0.4}, {"per_class": 2}, {"per_class": 1, "seed": 7}])
def test_every_source_gives_the_same_images(layouts: Path, subset: dict[str, object]) -> None:
    write_tar(layouts / "tar" / "train.tar", tree_bytes(layouts / "folder" / "train"))
    found = [
        contents(open_source(settings(**layout, subset=subset), "train", layouts))
        for layout in (FOLDER, {"source": "tar", "root": "tar"}, INAT, TORCHVISION, PLACES)
    ]
    assert found[0] == found[1] == found[2] == found[3] == found[4]
    whole = contents(open_source(settings(**FOLDER), "train", layouts))
    places = [whole.index(one) for one in found[0]]
    assert places == sorted(places)
    assert {label for _, label in found[0]} == {0, 1, 2, 3}


def test_the_validation_split_and_the_classes_stay_whole(layouts: Path) -> None:
    values = settings(**FOLDER, subset={"per_class": 1})
    train, val = train_dataset(values, layouts), val_dataset(values, layouts)
    assert (len(train), len(val)) == (4, 6)
    assert train.classes == val.classes
    assert train.labels.tolist() == [0, 1, 2, 3]


def test_fingerprints_tell_what_was_chosen(layouts: Path) -> None:
    def of(layout: dict[str, object] = FOLDER, **subset: object) -> str:
        values = settings(**layout, subset=subset or None)
        return joint_fingerprint(open_source(values, "train", layouts), open_source(values, "val", layouts))

    (layouts / "folder/all.txt").write_text(
        "".join(f"{path.name}\n" for path in (layouts / "folder/train").rglob("*.png"))
    )
    seeds = {of(per_class=1, seed=seed) for seed in range(5)}
    assert len(seeds) > 1
    assert of() not in seeds | {of(per_class=2), of(fraction=0.5)}
    assert of(per_class=1) == of(per_class=1)
    assert of(list="all.txt") == of()
    assert of(INAT, per_class=1) == of(TORCHVISION, per_class=1)


def test_a_subset_can_be_held_out_from_and_kept_in_memory(layouts: Path) -> None:
    data = train_dataset(settings(**FOLDER, subset={"per_class": 2}, cache="memory"), layouts, augment=False)
    data.prepare(np.arange(len(data)))
    plain = train_dataset(settings(**FOLDER, subset={"per_class": 2}), layouts, augment=False)
    # What a part of the dataset is cut from is the subset, not the whole split.
    assert not isinstance(plain.source, SubsetSource)
    for index in range(8):
        assert data[index]["image"].equal(plain[index]["image"])
        assert data.source.name(index) == plain.source.name(index)
    part = plain.subset([7, 0])
    assert part[0]["image"].equal(plain[7]["image"])


def test_images_without_classes(layouts: Path) -> None:
    for layout in (FOLDER, INAT, PLACES):
        values = settings(**layout, subset={"fraction": 0.25})
        assert len(open_source(values, "train", layouts, labelled=False)) == 4  # 3.5 of 14
    refused("subset.per_class: the images have no classes here", layouts, labelled=False, per_class=1)
    name = next((layouts / "folder/train/bee").iterdir()).name
    (layouts / "folder/one.txt").write_text(name)
    values = settings(**FOLDER, subset={"list": "one.txt"})
    source = open_source(values, "train", layouts, labelled=False)
    assert [source.name(0), len(source)] == [f"{layouts}/folder/train/bee/{name}", 1]


def test_a_class_with_too_few_images(layouts: Path) -> None:
    refused(
        r"data.subset.per_class is 4, but .*folder/train has fewer images of 2 classes bee \(3\), daisy \(2\)",
        layouts,
        per_class=4,
    )


# ---------------------------------------------------------------- lists


def listed(root: Path, *lines: str) -> None:
    (root / "folder" / "part.txt").write_text("\n".join(lines) + "\n")


def some_of_each(root: Path) -> list[str]:
    """Two images of each class, as paths below the training split."""
    split = root / "folder/train"
    return [
        f"{folder.name}/{path.name}"
        for folder in sorted(split.iterdir())
        for path in sorted(folder.iterdir())[:2]
    ]


def test_a_list_of_names_or_of_paths(layouts: Path) -> None:
    paths = some_of_each(layouts)
    for lines in (paths[::-1], [Path(path).name for path in paths], [f"/{path}  " for path in paths] + [""]):
        listed(layouts, *lines)
        source = open_source(settings(**FOLDER, subset={"list": "part.txt"}), "train", layouts)
        assert [source.name(index) for index in range(8)] == [
            f"{layouts}/folder/train/{path}" for path in paths
        ]


def test_the_same_list_serves_every_source(layouts: Path) -> None:
    names = [Path(path).name for path in some_of_each(layouts)]
    found = []
    for layout in (FOLDER, INAT, PLACES):
        (layouts / str(layout["root"]) / "part.txt").write_text("\n".join(names))
        found.append(contents(open_source(settings(**layout, subset={"list": "part.txt"}), "train", layouts)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 8


def test_faults_of_a_list(layouts: Path) -> None:
    paths = some_of_each(layouts)
    refused(r"folder/none.txt \(data.subset.list\) cannot be read: No such file", layouts, list="none.txt")
    listed(layouts, *paths, "ant/none.png")
    refused("part.txt, line 9: there is no image 'ant/none.png' in .*/train", layouts, list="part.txt")
    listed(layouts, *paths, paths[3])
    refused(f"part.txt, line 9: '{paths[3]}' is already in line 4", layouts, list="part.txt")
    listed(layouts, *paths, Path(paths[3]).name)
    refused(f"part.txt, line 9: '{paths[3]}' is already in line 4", layouts, list="part.txt")
    listed(layouts, *paths[2:])
    refused("names no image of class ant. Every class needs one", layouts, list="part.txt")
    listed(layouts, *paths[4:])
    refused("names no image of 2 classes ant, bee. Every", layouts, list="part.txt")
    listed(layouts, "")
    refused("part.txt .data.subset.list. names no image", layouts, list="part.txt")


def test_a_name_that_several_images_have(layouts: Path) -> None:
    for name in ("ant", "cat"):
        (layouts / f"folder/train/{name}/same.png").write_bytes(b"x")
    listed(layouts, "same.png", *some_of_each(layouts))
    refused(
        "line 1: there are several such images in .*'ant/same.png' and 'cat/same.png'; give the whole path",
        layouts,
        list="part.txt",
    )
