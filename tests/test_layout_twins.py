"""The generated world of faces: class folders, iNaturalist's JSON and Places' lists hold the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mae_bench import scenes
from mae_bench.data import train_dataset, val_dataset
from mae_bench.settings import DataSettings

WORLD = "generated/tiny-faces"
FOLDER: dict[str, object] = {"root": f"{WORLD}/folder"}
LAYOUTS: dict[str, dict[str, object]] = {
    "iNaturalist": {
        "source": "inat",
        "root": f"{WORLD}/inat",
        "train": "train2018.json",
        "val": "val2018.json",
    },
    "Places": {
        "source": "filelist",
        "root": f"{WORLD}/places",
        "train": "places365_train_standard.txt",
        "val": "places365_val.txt",
        "train_images": "data_256",
        "val_images": "val_256",
        "class_list": "categories_places365.txt",
    },
}


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the world in it."""
    root = tmp_path_factory.mktemp("data")
    scenes.ensure(root, "tiny-faces")
    return root


def of(layout: dict[str, object], **values: object) -> DataSettings:
    """Images at their own size, as they are."""
    plain = {"name": "faces", "classes": 10, "image_size": [32, 32], "evaluation": {"resize": None}}
    return DataSettings.model_validate(plain | layout | values)


@pytest.mark.parametrize("subset", [None, {"per_class": 2}, {"fraction": 0.3, "seed": 4}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_images_are_those_of_the_folders(
    data_root: Path, layout: str, subset: dict[str, object] | None
) -> None:
    ours = train_dataset(of(LAYOUTS[layout], subset=subset), data_root, augment=False)
    twin = train_dataset(of(FOLDER, subset=subset), data_root, augment=False)
    assert len(ours) == len(twin) == (40 if subset is None else 20 if "per_class" in subset else 10)
    assert ours.labels.equal(twin.labels)
    for index in range(len(twin)):
        assert torch.equal(ours[index]["image"], twin[index]["image"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_validation_images_are_those_of_the_folders(data_root: Path, layout: str) -> None:
    ours, twin = val_dataset(of(LAYOUTS[layout]), data_root), val_dataset(of(FOLDER), data_root)
    assert ours.labels.tolist() == twin.labels.tolist() == [label for label in range(10) for _ in range(2)]
    for index in range(20):
        assert torch.equal(ours[index]["image"], twin[index]["image"])
