"""The wheel, installed where there is no checkout, does what the checkout does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from tests.launch import ROOT

pytestmark = pytest.mark.slow


def told(arguments: list[str], cwd: Path) -> str:
    """The standard output of a command that must succeed, away from the checkout and from any setting of it."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        arguments, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{arguments} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    told(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        folder,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment of its own that holds the wheel, and sees the dependencies of this one."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    scripts = folder / "bin"
    told([sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet", "--no-index",
          "--no-deps", str(wheel)], folder)  # fmt: skip
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    # Folders named in a .pth file come after the environment's own, and the .pth files in them are not read: so
    # this environment's installation of the project, in place or not, stays out of sight.
    here = sysconfig.get_paths()
    Path(paths["purelib"], "dependencies.pth").write_text(
        f"{here['purelib']}\n{here['platlib']}\n", encoding="utf-8"
    )
    return scripts


def test_the_wheel_holds_recipes_and_tables_and_no_tests(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    data = {name.removeprefix("mae_bench/_data/") for name in names if name.startswith("mae_bench/_data/")}
    shipped = {
        str(path.relative_to(ROOT))
        for top in ("configs", "tables")
        for path in (ROOT / top).rglob("*")
        if path.is_file()
    }
    assert data == shipped
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"mae_bench", "downstream"}


def test_the_installed_command_lists_the_same(bin_folder: Path, tmp_path: Path) -> None:
    where = told([str(bin_folder / "python"), "-c", "import mae_bench; print(mae_bench.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(bin_folder.parent)
    listing = told([str(bin_folder / "mae-bench"), "list", "--json"], tmp_path)
    assert json.loads(listing)["problems"] == []
    assert listing == told([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
                            "from mae_bench import listing; print(listing.as_json())"], tmp_path)  # fmt: skip


def test_an_installed_recipe_resolves(bin_folder: Path, tmp_path: Path) -> None:
    shown = told([str(bin_folder / "mae-bench"), "show", "imagenet-finetune-large"], tmp_path)
    assert "_data/configs/tasks/imagenet-finetune.yaml:" in shown


TINY = """\
extends: imagenet-knn
data: {name: tiny, root: tiny, classes: 2, image_size: [32, 32], evaluation: {resize: 32}, workers: 0}
k: [1]
headline_k: 1
"""


def test_a_task_runs_from_the_wheel(bin_folder: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            folder = tmp_path / "data" / "tiny" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (*colour[:2], colour[2] + number)).save(folder / f"{number}.png")
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    backbone = "random:vit_tiny_patch16_224?img_size=32&embed_dim=24&depth=1&num_heads=2"
    told([str(bin_folder / "mae-bench"), "run", "--task", "tiny.yaml", "--backbone", backbone], tmp_path)
    (file,) = tmp_path.glob("runs/tiny/*/result.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert (result["recipe"], result["dataset"]["val_images"], result["metrics"]["top1"]) == (
        "tiny",
        6,
        100.0,
    )


@pytest.mark.engine
def test_the_extra_brings_all_that_openmmlab_imports(wheel: Path) -> None:
    """six, ftfy and regex are imported by engines that do not ask for them."""
    archive = ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    lines = archive.read(name).decode().splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if "extra == 'openmmlab'" in line]
    named = {re.split(r"[<>=;! ]", need)[0] for need in needs}
    assert named == {"ftfy", "mmcv-lite", "mmdet", "mmengine", "mmsegmentation", "regex", "six"}


@pytest.mark.engine
def test_another_engine_runs_from_the_wheel(bin_folder: Path, tmp_path: Path) -> None:
    shown = told(
        [str(bin_folder / "mae-bench"), "run", "--task", "demo/ade20k", "--engine", "mmseg",
         "--backbone", "random:vit_tiny_patch16_224?img_size=32&patch_size=4&embed_dim=16&depth=4&num_heads=2",
         "--name", "wheel", "data.root=generated/tiny-scenes/ade20k", "train.steps=2", "train.batch=2",
         "optim.warmup_steps=0", "model.channels=8", "model.auxiliary_channels=8", "data.workers=0"],
        tmp_path,
    )  # fmt: skip
    assert shown == ""
    result = json.loads((tmp_path / "runs" / "wheel" / "result.json").read_text(encoding="utf-8"))
    assert (result["engine"], result["steps"]) == ("mmseg", 2)
    assert (tmp_path / "runs" / "wheel" / "mmseg_config.py").exists()
