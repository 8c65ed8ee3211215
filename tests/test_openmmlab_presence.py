"""What is said where OpenMMLab's engines are missing, of another version or broken, and which mmcv is used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest

from downstream.openmmlab import extension, presence
from mae_bench.errors import MaeBenchError
from tests.launch import environment

pytestmark = pytest.mark.engine

GOOD = {
    "six": "1.17.0",
    "ftfy": "6.3.1",
    "regex": "2026.1.1",
    "mmengine": "0.10.7",
    "mmcv-lite": "2.1.0",
    "mmdet": "3.3.0",
    "mmsegmentation": "1.2.2",
}
INSTALL = 'pip install "mae-bench[openmmlab]"'


def pretend(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str]) -> None:
    """Let these distributions be installed and no others; nothing can be imported without one."""

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(presence.metadata, "version", version)
    monkeypatch.setattr(presence.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(presence, "_import", lambda name: None)
    monkeypatch.setattr(presence, "_broken", {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mmdet": None}, f"mmdet is not installed: {INSTALL}"),
        ({"mmdet": "3.2.0"}, f"mmdet 3.2.0 is too old (>=3.3,<3.4 is needed): {INSTALL}"),
        ({"mmdet": "3.4.0rc1"}, f"mmdet 3.4.0rc1 is too new (>=3.3,<3.4 is needed): {INSTALL}"),
        (
            {"mmdet": "main"},
            f"mmdet has no version that can be compared ('main'; >=3.3,<3.4 is needed): {INSTALL}",
        ),
        ({"mmsegmentation": None}, f"mmsegmentation is not installed: {INSTALL}"),
        ({"mmsegmentation": "1.2.1"}, f"mmsegmentation 1.2.1 is too old (>=1.2.2,<1.3 is needed): {INSTALL}"),
        ({"mmengine": "0.10.6"}, f"mmengine 0.10.6 is too old (>=0.10.7,<0.11 is needed): {INSTALL}"),
        ({"mmengine": "0.11.0"}, f"mmengine 0.11.0 is too new (>=0.10.7,<0.11 is needed): {INSTALL}"),
        ({"mmcv-lite": None}, f"mmcv-lite is not installed: {INSTALL}"),
        ({"mmcv-lite": "2.0.1"}, f"mmcv-lite 2.0.1 is too old (>=2.1,<2.2 is needed): {INSTALL}"),
        (
            {"mmcv-lite": None, "mmcv": "2.2.0"},
            f"mmcv 2.2.0 is too new (>=2.1,<2.2 is needed): pip uninstall mmcv, then {INSTALL}",
        ),
        (
            {"mmcv-lite": None, "mmcv-full": "1.7.2"},
            f"mmcv-full 1.7.2 is too old (>=2.1,<2.2 is needed): pip uninstall mmcv-full, then {INSTALL}",
        ),
        (
            {"mmcv": "2.1.1"},
            f"mmcv-lite 2.1.0 and mmcv 2.1.1 are both installed, into one folder: pip uninstall mmcv-lite mmcv, then {INSTALL}",
        ),
        ({"six": None}, f"six is not installed: {INSTALL}"),
        ({"ftfy": None, "regex": None}, f"ftfy is not installed, and regex is not installed: {INSTALL}"),
        (
            {"mmengine": None, "mmdet": "4.0"},
            f"mmengine is not installed, and mmdet 4.0 is too new (>=3.3,<3.4 is needed): {INSTALL}",
        ),
    ],
)
def test_one_sentence_says_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None], message: str
) -> None:
    pretend(monkeypatch, {name: version for name, version in {**GOOD, **changed}.items() if version})
    with pytest.raises(MaeBenchError) as raised:
        presence.ready("mmdet", "mmseg")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "mmcv",
    [{"mmcv-lite": "2.1.1rc1"}, {"mmcv": "2.1.0+cu118"}, {"mmcv": "2.1.0", "mmcv-lite": "2.1.0"}],
)
def test_either_mmcv_will_do_and_both_if_they_are_one(
    monkeypatch: pytest.MonkeyPatch, mmcv: dict[str, str]
) -> None:
    pretend(monkeypatch, {**{name: version for name, version in GOOD.items() if name != "mmcv-lite"}, **mmcv})
    presence.ready("mmdet", "mmseg", "mmcv", "mmengine")


def test_what_another_engine_needs_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {name: GOOD[name] for name in ("mmdet", "mmengine", "mmcv-lite", "six")})
    presence.ready("mmdet")
    pretend(
        monkeypatch,
        {name: GOOD[name] for name in ("mmsegmentation", "mmengine", "mmcv-lite", "ftfy", "regex")},
    )
    presence.ready("mmseg")


def test_installing_the_bridge_twice_is_installing_it_once() -> None:
    extension.install()
    once = list(sys.meta_path)
    extension.install()
    assert sys.meta_path == once


# ---------------------------------------------------------------- imported for real, from pretended packages


class Packages:
    """A folder of tiny packages in the place of the engines, first on the path of a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("six", "ftfy", "regex"):
            self.write(f"{name}.py")
        for package, modules in (
            ("mmengine", ("runner", "hooks", "optim", "visualization")),
            ("mmcv", ("ops", "transforms")),
            ("mmdet", ("datasets", "engine", "evaluation", "models", "visualization")),
        ):
            version = GOOD["mmcv-lite" if package == "mmcv" else package]
            self.write(f"{package}/__init__.py", f"__version__ = '{version}'\n")
            for module in modules:
                self.write(f"{package}/{module}.py")
        self.write("mmcv/ops.py", "import mmcv._ext\n")
        self.write(
            "mmcv/_ext/__init__.py"
        )  # as if it were compiled: the bridge takes seconds to import torch
        for name, version in GOOD.items():
            self.distribution(name, version)

    def write(self, path: str, text: str = "") -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(dedent(text), encoding="utf-8")

    def not_compiled(self) -> None:
        shutil.rmtree(self.folder / "mmcv" / "_ext")

    def distribution(self, name: str, version: str) -> None:
        self.write(
            f"{name.replace('-', '_')}-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        )

    def run(self, program: str) -> list[str]:
        """What a program prints, line by line, where every warning is an error."""
        variables = environment()
        variables |= {
            "PYTHONPATH": os.pathsep.join([str(self.folder), variables["PYTHONPATH"]]),
            "PYTHONWARNINGS": "error",
        }
        head = "from downstream.openmmlab.presence import ready\nfrom downstream.openmmlab.extension import bridged\n"
        done = subprocess.run(
            [sys.executable, "-c", head + dedent(program)], env=variables, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def refused(self) -> str:
        """The sentence with which `ready` refuses these packages, which it says again if it is asked again."""
        first, again = self.run(
            """
            for _ in range(2):
                try:
                    ready("mmdet")
                    print("ready")
                except Exception as error:
                    print(type(error).__name__, str(error), sep=": ")
            """
        )
        assert first == again
        return first


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path)


def test_a_compiled_mmcv_is_used_where_there_is_one(packages: Packages) -> None:
    packages.write("mmcv/_ext/__init__.py", "nms = 'compiled'\n")
    assert packages.run(
        """
        import sys
        print(bridged(), "mmcv" in sys.modules)
        ready("mmdet")
        import mmcv._ext
        print(bridged(), mmcv._ext.nms, "torch" in sys.modules)
        """
    ) == ["False False", "False compiled False"]


def test_the_bridge_is_used_where_mmcv_is_not_compiled(packages: Packages) -> None:
    """It stays whole where another package breaks, and what has registered once is not imported again."""
    packages.not_compiled()
    packages.write("mmdet/models.py", "print('imported'); raise RuntimeError('first')")
    assert packages.run(
        """
        import sys
        from mae_bench.errors import MaeBenchError
        print(bridged(), "torch" in sys.modules)
        for _ in range(2):
            try:
                ready("mmdet")
            except MaeBenchError as error:
                print(type(error.__cause__).__name__, error.__cause__)
        ready("mmcv")
        import mmcv._ext
        from downstream.openmmlab.operators import boxes
        print(bridged(), mmcv._ext.nms is boxes.nms, callable(mmcv._ext.carafe_forward))
        """
    ) == ["True False", "imported", "RuntimeError first", "RuntimeError first", "True True True"]


def test_without_mmcv_nothing_is_bridged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, extension.NAME, raising=False)
    monkeypatch.setattr(extension, "find_spec", lambda name: None)
    assert not extension.bridged()


def test_compiled_operators_that_cannot_be_loaded(packages: Packages) -> None:
    """A module compiled for another torch; here it is no library at all. The bridge does not hide it."""
    packages.not_compiled()
    packages.write(f"mmcv/_ext{sysconfig.get_config_var('EXT_SUFFIX')}", "none")
    told = packages.refused()
    assert told.startswith("MaeBenchError: the compiled operators of mmcv-lite 2.1.0 cannot be loaded (")
    assert told.endswith(
        f"); build them for this torch, or do without: pip uninstall mmcv-lite, then {INSTALL}"
    )


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        (
            "mmdet/models.py",
            "raise KeyError('twice')",
            f"""mmdet 3.3.0 cannot be imported (KeyError: 'twice'): pip uninstall mmdet, then {INSTALL}""",
        ),
        (
            "mmdet/models.py",
            "import package_that_nobody_has.part",
            f"mmdet 3.3.0 needs the module package_that_nobody_has, which is not installed: {INSTALL}",
        ),
        (
            "mmengine/hooks.py",
            "from mmengine import absent",
            "mmengine 0.10.7 cannot be imported (ImportError: cannot import name 'absent' from 'mmengine' (",
        ),
        (
            "mmengine/__init__.py",
            "__version__ = '0.9.0'",
            f"mmengine 0.9.0 is too old (>=0.10.7,<0.11 is needed): {INSTALL}",
        ),
    ],
)
def test_a_package_that_breaks_when_it_is_imported(
    packages: Packages, module: str, source: str, message: str
) -> None:
    packages.write(module, source)
    assert packages.refused().startswith(f"MaeBenchError: {message}")


def test_a_checkout_on_the_path_needs_no_installation(packages: Packages) -> None:
    program = """
        import importlib.metadata as metadata
        installed = metadata.version
        def version(name):
            if name == "mmdet":
                raise metadata.PackageNotFoundError(name)
            return installed(name)
        metadata.version = version
        try:
            ready("mmdet")
            print("ready")
        except Exception as error:
            print(error)
    """
    assert packages.run(program) == ["ready"]
    packages.write("mmdet/__init__.py", "__version__ = '2.28.2'")
    assert packages.run(program) == [f"mmdet 2.28.2 is too old (>=3.3,<3.4 is needed): {INSTALL}"]


def test_warnings_of_the_packages_are_theirs(packages: Packages) -> None:
    packages.write("mmdet/models.py", "import warnings\nwarnings.warn('old', FutureWarning)\n'\\d'\n")
    assert packages.refused() == "ready"
