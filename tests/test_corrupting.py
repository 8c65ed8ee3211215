"""A corrupted set made locally: the same files whatever makes them, whole or gone on with, and labelled."""

from __future__ import annotations

import fcntl
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from mae_bench import corruptions
from mae_bench.corruptions import EXTRA, Preparation, prepare
from mae_bench.data import open_source
from mae_bench.data.corrupting import CORRUPTIONS, LABEL, SEVERITIES, corrupt, made_locally, make
from mae_bench.data.sources import Source, SubsetSource
from mae_bench.errors import MaeBenchError
from mae_bench.settings import DataSettings

ALL = [*CORRUPTIONS, *EXTRA]
RANDOM = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "frost",
    "fog",
)
# Of every group, and every generator of random numbers: NumPy's, one of its own, Numba's, none.
SOME: dict[str, Any] = {
    "corruptions": ("gaussian_noise", "impulse_noise", "glass_blur", "frost", "pixelate"),
    "severities": (1, 4),
    "resize": 40,
    "crop": 36,
}
FILES = ("cat/one.JPEG", "cat/two.jpg", "dog/one.JPEG")


def picture(width: int, height: int, number: int = 0) -> Image.Image:
    """A smooth picture with an edge in it."""
    y, x = np.mgrid[:height, :width]
    bands = [np.sin(x / (7 + k) + number) * np.cos(y / (9 - k)) for k in range(3)]
    values = 128 + 90 * np.stack(bands, axis=-1)
    values[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 80)
    return Image.fromarray(values.astype(np.uint8))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Three JPEG files in two classes, of different sizes."""
    for number, name in enumerate(FILES):
        file = tmp_path / "clean/val" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(60 + 10 * number, 50, number).save(file, "JPEG", quality=95)
    return open_source(DataSettings.model_validate({"name": "clean", "root": "clean"}), "val", tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# ---------------------------------------------------------------- one image


def test_names_are_the_librarys_in_the_official_order() -> None:
    import imagecorruptions

    assert list(CORRUPTIONS) == imagecorruptions.get_corruption_names("common")
    assert list(EXTRA) == imagecorruptions.get_corruption_names("validation")
    for group in ("noise", "blur", "weather"):
        ours = [name for name, of in CORRUPTIONS.items() if of == group]
        assert ours == imagecorruptions.get_corruption_names(group)


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", ALL)
def test_every_corruption_works_at_every_severity(name: str, side: int) -> None:
    image = np.asarray(picture(side, side))
    before = image.copy()
    changes = []
    # Large images take seconds: their mildest and their strongest stand for the others.
    for severity in SEVERITIES if side == 32 else (SEVERITIES[0], SEVERITIES[-1]):
        corrupted = corrupt(image, name, severity, key=3)
        assert (corrupted.shape, corrupted.dtype) == (image.shape, np.uint8)
        if side == 32:
            assert (corrupted == corrupt(image, name, severity, key=3)).all()
        changes.append(np.abs(corrupted.astype(int) - image).mean())
    assert (image == before).all()
    assert changes[-1] > 1
    assert changes[-1] > changes[0]


@pytest.mark.parametrize("name", RANDOM)
def test_the_key_decides_what_is_random(name: str) -> None:
    image = np.asarray(picture(48, 40))
    assert (corrupt(image, name, 3, key=1) != corrupt(image, name, 3, key=2)).any()


def test_the_global_generators_neither_matter_nor_change() -> None:
    image = np.asarray(picture(48, 40))
    first = [corrupt(image, name, 2, key=1) for name in ALL]
    np.random.seed(77)
    torch.manual_seed(77)
    state = np.random.get_state()[1].tolist()
    again = [corrupt(image, name, 2, key=1) for name in ALL]
    assert np.random.get_state()[1].tolist() == state
    for one, other in zip(first, again, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("image", "name", "severity", "message"),
    [
        (np.zeros((40, 40, 3), np.uint8), "gausian_noise", 1, r"did you mean 'gaussian_noise'"),
        (np.zeros((40, 40, 3), np.uint8), "fog", 6, r"no severity 6"),
        (np.zeros((31, 40, 3), np.uint8), "fog", 1, r"32 or more, not uint8 \(31, 40, 3\)"),
        (np.zeros((40, 40), np.uint8), "fog", 1, r"not uint8 \(40, 40\)"),
        (np.zeros((40, 40, 3), np.float32), "fog", 1, r"not float32"),
    ],
)
def test_wrong_arguments_are_one_sentence(image: Any, name: str, severity: int, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        corrupt(image, name, severity, key=0)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (301, 299), (100, 333)])
def test_the_preparation_is_the_official_one(size: tuple[int, int]) -> None:
    image = picture(*size)
    official = np.asarray(Compose([Resize(256), CenterCrop(224)])(image))
    assert (prepare(image, Preparation(256, 224, 85)) == official).all()


# ---------------------------------------------------------------- a set


def test_the_layout_is_the_official_one(source: Source, tmp_path: Path) -> None:
    seen: list[int] = []
    folder = make(source, tmp_path / "c", resize=40, crop=36, workers=1, progress=seen.append)
    assert folder == tmp_path / "c"
    expected = [
        f"{name}/{severity}/{file}" for name in CORRUPTIONS for severity in SEVERITIES for file in FILES
    ]
    assert sorted(contents(folder)) == sorted([*expected, LABEL])
    assert sum(seen) == len(expected) == 225
    reference = io.BytesIO()
    picture(36, 36).save(reference, "JPEG", quality=85)
    for name in expected:
        with Image.open(folder / name) as image, Image.open(reference) as of_quality:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (36, 36))
            assert image.quantization == of_quality.quantization


def test_files_hold_the_corrupted_pixels(source: Source, tmp_path: Path) -> None:
    folder = make(
        source, tmp_path / "c", corruptions=["contrast"], severities=[5], resize=40, crop=36, workers=1
    )
    with Image.open(tmp_path / "clean/val/cat/one.JPEG") as image:
        pixels = prepare(image, Preparation(40, 36, 85))
    with Image.open(folder / "contrast/5/cat/one.JPEG") as image:
        written = np.asarray(image).astype(int)
    assert np.abs(written - corrupt(pixels, "contrast", 5, key=0)).mean() < 2


@pytest.mark.slow
def test_files_do_not_depend_on_workers_nor_on_order(source: Source, tmp_path: Path) -> None:
    alone = contents(make(source, tmp_path / "one", **SOME, workers=1))
    assert len(alone) == 5 * 2 * 3 + 1
    assert contents(make(source, tmp_path / "two", **SOME, workers=2)) == alone
    backwards = contents(make(SubsetSource(source, np.array([2, 1])), tmp_path / "three", **SOME, workers=1))
    for name in backwards.keys() - {LABEL}:
        assert backwards[name] == alone[name]
    reseeded = contents(make(source, tmp_path / "four", **SOME, workers=1, seed=1))
    noise = "gaussian_noise/1/cat/one.JPEG"
    assert reseeded[noise] != alone[noise]
    of_another_class = "gaussian_noise/1/dog/one.JPEG"
    assert alone[of_another_class] != alone[noise]


def test_a_stopped_set_is_gone_on_with(source: Source, tmp_path: Path) -> None:
    folder = make(source, tmp_path / "c", **SOME, workers=1)
    whole = contents(folder)
    (folder / "glass_blur/4/cat/two.jpg").unlink()
    (folder / "frost/1/dog/one.JPEG").write_bytes(b"")
    (folder / ".unfinished").mkdir()
    (folder / ".unfinished/123.jpg").write_bytes(b"half")
    kept = folder / "frost/4/dog/one.JPEG"
    before = kept.stat().st_mtime_ns
    seen: list[int] = []
    make(source, folder, **SOME, workers=1, progress=seen.append)
    assert contents(folder) == whole
    assert sum(seen) == 30
    assert kept.stat().st_mtime_ns == before


def test_a_failure_leaves_whole_files_and_a_label_that_says_so(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save
    written: list[object] = []

    def full(self: Image.Image, file: Any, *given: Any, **more: Any) -> None:
        written.append(file)
        if len(written) > 4:
            Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(self, file, *given, **more)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(MaeBenchError, match=r"cannot be written: No space left on device"):
        make(source, tmp_path / "c", **SOME, workers=1)
    monkeypatch.undo()
    label = made_locally(tmp_path / "c")
    assert label is not None
    assert (label["complete"], label["corruptions"]) == (False, {})
    pictures = [file for file in contents(tmp_path / "c") if not file.startswith((".", LABEL))]
    assert len(pictures) == 4
    make(source, tmp_path / "c", **SOME, workers=1)
    assert contents(tmp_path / "c") == contents(make(source, tmp_path / "other", **SOME, workers=1))


def test_the_label_says_what_the_set_is(source: Source, tmp_path: Path) -> None:
    folder = make(source, tmp_path / "c", **SOME, workers=1, source_name="my photos", seed=3)
    name, version = corruptions.library()
    label = made_locally(folder)
    assert label is not None
    assert "not the official ImageNet-C" in label.pop("note")
    assert label == {
        "library": name,
        "version": version,
        "seed": 3,
        "source": {"name": "my photos", "fingerprint": source.fingerprint(), "images": 3, "classes": 2},
        "preparation": {"resize": 40, "crop": 36, "quality": 85},
        "corruptions": {name: [1, 4] for name in SOME["corruptions"]},
        "complete": True,
    }
    more = {**SOME, "corruptions": ["saturate", "frost"], "severities": [5]}
    make(source, folder, **more, workers=1, seed=3)
    label = made_locally(folder)
    assert label is not None
    assert label["corruptions"]["frost"] == [1, 4, 5]
    assert label["corruptions"]["saturate"] == [5]
    assert label["corruptions"]["pixelate"] == [1, 4]
    assert label["source"]["name"] == str(tmp_path / "clean/val")


def test_sets_without_a_label_were_not_made_locally(tmp_path: Path) -> None:
    assert made_locally(tmp_path) is None
    assert made_locally(tmp_path / "nowhere") is None
    for damaged in ("{", "[]"):
        (tmp_path / LABEL).write_text(damaged)
        with pytest.raises(MaeBenchError, match=r"corrupted\.json is damaged"):
            made_locally(tmp_path)


def test_an_official_set_is_left_alone(source: Source, tmp_path: Path) -> None:
    official = tmp_path / "imagenet-c/gaussian_noise/1/cat/one.JPEG"
    official.parent.mkdir(parents=True)
    official.write_bytes(b"official")
    with pytest.raises(
        MaeBenchError, match=r"imagenet-c holds gaussian_noise and no corrupted.json.*left alone"
    ):
        make(source, tmp_path / "imagenet-c", **SOME, workers=1)
    assert contents(tmp_path / "imagenet-c") == {"gaussian_noise/1/cat/one.JPEG": b"official"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "was begun with seed 0, not 1"),
        ({"crop": 34}, "was begun with preparation .*36.*34"),
        ({"version": "9.9"}, "was begun with version .* not 9.9"),
        ({"images": [0, 1]}, "was made of other images than these"),
    ],
)
def test_a_set_is_gone_on_with_as_it_was_begun(
    change: dict[str, Any],
    message: str,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {**SOME, "corruptions": ["contrast"]}
    folder = make(source, tmp_path / "c", **few, workers=1)
    before = contents(folder)
    if "version" in change:
        version = change["version"]
        monkeypatch.setattr(corruptions.metadata, "version", lambda name: version)
        change = {}
    if "images" in change:
        source = SubsetSource(source, np.array(change["images"]))
        change = {}
    with pytest.raises(MaeBenchError, match=message):
        make(source, folder, **{**few, **change}, workers=1)
    assert contents(folder) == before


def test_one_process_at_a_time(source: Source, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    handle = os.open(tmp_path / "c", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(MaeBenchError, match="another process is making the set"):
            make(source, tmp_path / "c", **SOME, workers=1)
    finally:
        os.close(handle)


def test_files_of_other_kinds_become_jpegs(tmp_path: Path) -> None:
    (tmp_path / "clean/val/cat").mkdir(parents=True)
    picture(50, 44).save(tmp_path / "clean/val/cat/a.png")
    picture(50, 44).convert("L").save(tmp_path / "clean/val/cat/b.jpeg")
    (tmp_path / "clean/val/cat/wrong.jpg").write_bytes((tmp_path / "clean/val/cat/a.png").read_bytes())
    settings = DataSettings.model_validate({"name": "clean", "root": "clean"})
    source = open_source(settings, "val", tmp_path)
    folder = make(
        source, tmp_path / "c", corruptions=["contrast"], severities=[1], resize=None, crop=None, workers=1
    )
    place = folder / "contrast/1/cat"
    assert sorted(file.name for file in place.iterdir()) == ["a.JPEG", "b.jpeg", "wrong.jpg"]
    for file in place.iterdir():
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (50, 44))


def broken(tmp_path: Path, source: Source) -> Source:
    file = tmp_path / "clean/val/cat/two.jpg"
    file.write_bytes(file.read_bytes()[:400])
    return source


class Renamed(SubsetSource):
    """A source whose classes or files are called otherwise."""

    def __init__(self, base: Source, classes: list[str], name: str | None = None) -> None:
        super().__init__(base, np.arange(len(base)))
        self.classes = classes
        self._name = name

    def name(self, index: int) -> str:
        return self._name or super().name(index)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_image_is_named(source: Source, tmp_path: Path, workers: int) -> None:
    with pytest.raises(MaeBenchError, match=r"clean/val/cat/two\.jpg cannot be corrupted: (?i:.*truncated)"):
        make(
            broken(tmp_path, source), tmp_path / "c", **{**SOME, "corruptions": ["contrast"]}, workers=workers
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corruptions": ["frosty"]}, "no corruption 'frosty'.*did you mean 'frost'"),
        ({"severities": [0]}, "no severity 0"),
        ({"severities": []}, "nothing to make"),
        ({"crop": 41}, r"one\.JPEG cannot be corrupted: it is 48 x 40 pixels, less than the crop of 41"),
        ({"resize": 30, "crop": None}, "32 or more"),
        ({"resize": 0}, "resize is 0"),
        ({"quality": 96}, "quality is 96"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_arguments_out_of_range_are_one_sentence(
    change: dict[str, Any], message: str, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(MaeBenchError, match=message):
        make(source, tmp_path / "c", **{**SOME, "workers": 1, **change})


@pytest.mark.parametrize(
    ("classes", "name", "message"),
    [
        (["a/b", "dog"], None, "the class 'a/b' cannot be a folder's name"),
        (["cat", "dog"], "val.tar:one.png", "would both become cat/one.JPEG"),
    ],
)
def test_names_that_cannot_be_written_are_refused(
    classes: list[str], name: str | None, message: str, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(MaeBenchError, match=re.escape(message)):
        make(Renamed(source, classes, name), tmp_path / "c", **SOME, workers=1)


def test_a_folder_that_cannot_be_made_is_named(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MaeBenchError, match=r"file/c cannot be made: Not a directory"):
        make(source, tmp_path / "file/c", **SOME, workers=1)


def test_without_the_library_the_error_says_what_to_install(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise corruptions.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(corruptions.metadata, "version", missing)
    with pytest.raises(
        MaeBenchError, match=r'imagecorruptions-imaug: pip install "mae-bench\[corruptions\]"'
    ):
        make(source, tmp_path / "c", **SOME, workers=1)
    assert not (tmp_path / "c").exists()
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(MaeBenchError, match=r'pip install "mae-bench\[corruptions\]"'):
        corrupt(np.zeros((40, 40, 3), np.uint8), "fog", 1, key=0)
