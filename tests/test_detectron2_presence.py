"""Whether detectron2 is there, told in a sentence: with stand-ins in processes of their own, so run everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from downstream.detection.detectron2 import presence
from tests.launch import ROOT, environment

pytestmark = pytest.mark.engine

ASK = """
import sys
from downstream.detection.detectron2 import presence
from mae_bench.errors import MaeBenchError
for again in range(2):
    try:
        presence.ready()
        print("ready")
    except MaeBenchError as error:
        print(error)
"""
# Stands before whatever detectron2 there may be; a module that is not listed is not there.
WHOLE = {
    name.replace(".", "/") + ".py": "\n".join(f"class {each}: pass" for each in attributes)
    for name, attributes in presence._API.items()
}
PACKAGES = (
    "detectron2",
    "detectron2/modeling",
    "detectron2/modeling/backbone",
    "detectron2/layers",
    "detectron2/data",
)
ZOO = {"detectron2/model_zoo/model_zoo.py": "import pkg_resources\n"}
WAY = (
    "git clone https://github.com/facebookresearch/detectron2, and put that folder on PYTHONPATH; or, compiled, "
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
)


def site(folder: Path, files: dict[str, str]) -> Path:
    """A folder of packages with these files; every package of the stand-in has an ``__init__.py``."""
    made = {f"{package}/__init__.py": "" for package in PACKAGES}
    for path, text in {**made, **files, "detectron2/model_zoo/__init__.py": ""}.items():
        if path.endswith(".py") and f"{path[:-3]}/__init__.py" in made:
            path = f"{path[:-3]}/__init__.py"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def ask(*folders: Path, code: str = ASK) -> list[str]:
    """What two questions in a new process, which looks for packages in `folders` first, are answered."""
    path = os.pathsep.join([str(ROOT), *map(str, folders)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def both_times(answers: list[str]) -> str:
    assert len(answers) == 2
    assert answers[0] == answers[1], "the second answer is the first"
    return answers[0]


def stand_ins(folder: Path, **besides: str) -> Path:
    """A whole detectron2 and what it needs."""
    return site(folder, {**WHOLE, **ZOO, "shapely.py": "", **besides})


def test_a_whole_detectron2_is_ready_without_pkg_resources(tmp_path: Path) -> None:
    folder = stand_ins(tmp_path)
    (folder / "configs").mkdir()
    (folder / "configs/mine.py").write_text("")
    code = f"""{ASK}
import detectron2.model_zoo.model_zoo as zoo
print(zoo.pkg_resources.resource_filename("detectron2.model_zoo", "configs/mine.py"))
print("pkg_resources" in sys.modules)
print(presence.compiled())
"""
    said = ask(folder, code=code)
    assert said[:2] == ["ready", "ready"]
    assert said[2] == str(folder / "configs/mine.py"), "a checkout has them at its top"
    assert said[3:] == ["False", "False"]
    (folder / "detectron2/model_zoo/configs").mkdir()
    (folder / "detectron2/model_zoo/configs/mine.py").write_text("")
    (folder / "detectron2/_C.py").write_text("")
    said = ask(folder, code=code)
    assert said[2] == str(folder / "detectron2/model_zoo/configs/mine.py"), "a built one has them inside"
    assert said[4] == "True"


def test_without_detectron2(tmp_path: Path) -> None:
    """A folder of that name without modules, as a checkout's is, is not it."""
    if ask(code="import importlib.util as u; print(u.find_spec('detectron2') is None)") != ["True"]:
        pytest.skip("detectron2 is installed among this environment's packages")
    (tmp_path / "empty/detectron2/docs").mkdir(parents=True)
    answer = both_times(ask(tmp_path / "empty"))
    assert answer == f'detectron2 cannot be imported here: pip install "mae-bench[detectron2]", then {WAY}'


@pytest.mark.parametrize("module", ["modeling/backbone/vit", "solver"])
def test_an_old_detectron2(tmp_path: Path, module: str) -> None:
    """The last release lacks the module of ViTDet; others lack a class."""
    folder = stand_ins(tmp_path)
    if module == "solver":
        (folder / "detectron2/solver.py").write_text("class LRMultiplier: pass")
        lacking = "detectron2.solver.WarmupParamScheduler"
    else:
        (folder / "detectron2" / f"{module}.py").unlink()
        lacking = "detectron2.modeling.backbone.vit"
    answer = both_times(ask(folder))
    assert answer == f"detectron2 ({folder / 'detectron2'}) is too old, it has no {lacking}: {WAY}"


def test_a_package_that_detectron2_needs_is_missing(tmp_path: Path) -> None:
    folder = stand_ins(tmp_path)
    (folder / "detectron2/config.py").write_text("import no_such_package")
    answer = both_times(ask(folder))
    assert answer == (
        "detectron2 needs the package no_such_package, which is not installed: "
        'pip install "mae-bench[detectron2]"'
    )


def test_a_broken_detectron2(tmp_path: Path) -> None:
    folder = stand_ins(tmp_path)
    (folder / "detectron2/config.py").write_text(
        "raise AttributeError('module has no attribute LINEAR\\nmore')"
    )
    answer = both_times(ask(folder))
    assert answer == (
        f"detectron2 ({folder / 'detectron2'}) cannot be imported (AttributeError: module has no attribute "
        f'LINEAR): pip install "mae-bench[detectron2]", then {WAY}'
    )


def test_the_adapters_import_nothing_of_it() -> None:
    """Listing and checking recipes must answer at once."""
    code = """
import sys
import downstream.detection.detectron2.task, downstream.detection.detectron2.native
print([name for name in ("torch", "detectron2", "omegaconf", "numpy") if name in sys.modules])
"""
    assert ask(code=code) == ["[]"]


def test_settings_that_detectron2_cannot_do() -> None:
    from pydantic import ValidationError

    from downstream.detection.detectron2.settings import Detectron2Config
    from mae_bench import settings
    from mae_bench.recipe import resolve

    values = settings.plain(resolve("coco").config)
    assert Detectron2Config.model_validate({**values, "task": "detection.detectron2"}).train.batch == 64
    for path, value, said in (
        ("train.ema", 0.9, "train.ema"),
        ("train.compile", True, "train.compile"),
        ("data.channels", 1, "data.channels=1"),
        ("data.max_bad_images", 3, "data.max_bad_images"),
    ):
        part, key = path.split(".")
        with pytest.raises(ValidationError, match=said):
            Detectron2Config.model_validate({**values, part: {**values[part], key: value}})
    poly = {**values["optim"], "schedule": "poly", "milestones": []}
    with pytest.raises(ValidationError, match=r"optim\.schedule=poly"):
        Detectron2Config.model_validate({**values, "optim": poly})


def test_a_native_file_is_known_by_its_digest(tmp_path: Path) -> None:
    from pydantic import ValidationError

    from downstream.detection.detectron2.native_settings import NativeConfig

    file = tmp_path / "mine.py"
    file.write_text("model = {}\n")
    split = {"images": "images", "annotations": "annotations.json"}
    values = {
        "task": "native.detectron2",
        "recipe": "mine",
        "native": str(file),
        "data": {"name": "mine", "root": ".", "train": split, "val": split},
    }
    config = NativeConfig.model_validate(values)
    assert config.native_sha256 is not None
    assert NativeConfig.model_validate({**values, "native_sha256": config.native_sha256}) == config
    file.write_text("model = {'another': 1}\n")
    with pytest.raises(ValidationError, match="has changed since"):
        NativeConfig.model_validate({**values, "native_sha256": config.native_sha256})
    with pytest.raises(ValidationError, match="cannot be read; give a config file of the engine"):
        NativeConfig.model_validate({**values, "native": str(tmp_path / "none.yaml")})
