"""The laws of the house, read from the sources: who may import whom, and what a file may be called."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.launch import ROOT, environment

# Training engines are optional: only their own files import them, and only when a function runs.
ENGINES = {"mmcv", "mmdet", "mmengine", "mmseg", "detectron2"}
# What the command line must not import to answer at once.
HEAVY = {"torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "matplotlib", "PIL"}
# family -> families it may import.
ALLOWED = {
    "robustness": {"classification"},
    "detection": {"openmmlab"},
    "segmentation": {"openmmlab"},
}
# The folders that may name an engine at all.
ENGINE_FOLDERS = ("openmmlab", "detection/mmdet", "detection/detectron2", "segmentation/mmseg")

SOURCES = sorted(path for top in ("mae_bench", "downstream") for path in (ROOT / top).rglob("*.py"))
PYTHON = sorted({*SOURCES, *(path for top in ("tests", "benchmarks") for path in (ROOT / top).rglob("*.py"))})


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, typing aside; `at_import`: only what importing the file runs."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if is_typing_only(node) or (at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def offences(paths: list[Path], forbidden: set[str], *, at_import: bool = False) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path, at_import=at_import)
        if any(under(name, package) for package in forbidden)
    ]


def test_there_is_something_to_read() -> None:
    assert {"mae_bench", "mae_bench.cli", "downstream"} <= {module_of(path) for path in SOURCES}
    assert "mae_bench.adapter" in {
        name.rpartition(".")[0]
        for path in SOURCES
        if path.is_relative_to(ROOT / "downstream")
        for name in imports(path)
    }


def test_the_core_never_imports_a_task() -> None:
    core = [path for path in SOURCES if path.is_relative_to(ROOT / "mae_bench")]
    assert offences(core, {"downstream", "tests", "benchmarks"}) == []


def test_no_core_file_imports_the_pretrainer() -> None:
    core = [
        path
        for path in SOURCES
        if path.is_relative_to(ROOT / "mae_bench")
        and not path.is_relative_to(ROOT / "mae_bench" / "pretrain")
    ]
    assert offences(core, {"mae_bench.pretrain"}) == []


def test_tasks_import_the_core_and_not_the_pretrainer() -> None:
    tasks = [path for path in SOURCES if path.is_relative_to(ROOT / "downstream")]
    assert offences(tasks, {"mae_bench.pretrain", "mae_bench.cli", "mae_bench.api"}) == []


def test_no_family_imports_another() -> None:
    families = {path.name: path for path in (ROOT / "downstream").iterdir() if path.is_dir()}
    wrong = [
        offence
        for name, folder in families.items()
        for offence in offences(
            [path for path in SOURCES if path.is_relative_to(folder)],
            {
                f"downstream.{other}"
                for other in families
                if other != name and other not in ALLOWED.get(name, set())
            },
        )
    ]
    assert wrong == []


def test_engines_are_imported_only_inside_functions() -> None:
    assert offences(SOURCES, ENGINES, at_import=True) == []


def test_engines_are_imported_only_in_their_own_files() -> None:
    homes = [ROOT / "downstream" / folder for folder in ENGINE_FOLDERS]
    others = [path for path in SOURCES if not any(path.is_relative_to(home) for home in homes)]
    assert offences(others, ENGINES) == []


def test_no_file_is_called_utils() -> None:
    vague = {"util", "utils", "helper", "helpers", "misc", "common"}
    assert [module_of(path) for path in SOURCES if vague & set(path.stem.lower().split("_"))] == []


def test_what_the_command_line_reads_imports_nothing_heavy() -> None:
    """Adapters and their settings are read to validate a recipe, so importing them must be quick."""
    program = (
        "import sys\n"
        "from mae_bench import api, cli, listing, recipe, registry\n"
        "for entry in registry.adapters().entries.values():\n"
        "    before = set(sys.modules)\n"
        "    entry.missing() or registry.adapters().load(entry.name)\n"
        f"    heavy = {HEAVY!r} & (set(sys.modules) - before)\n"
        "    print(entry.name, sorted(heavy)) if heavy else None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert (done.stderr, done.stdout) == ("", "")


def test_every_source_has_a_docstring() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert [str(path.relative_to(ROOT)) for path, tree in trees.items() if not ast.get_docstring(tree)] == []


def test_nothing_of_the_machine_stands_in_the_sources() -> None:
    """Absolute paths of whoever wrote a file have no place in it."""
    homes = tuple(f"/{name}/" for name in ("home", "root", "Users"))
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in PYTHON
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if any(home in line for home in homes)
    ]
    assert wrong == []


def test_every_module_can_be_imported_first() -> None:
    """Whatever a program imports first must not meet a half-imported module: each is tried in a process of its own."""
    program = (
        "import importlib, os, sys\n"
        "import accelerate, faster_coco_eval, jinja2, matplotlib.figure, pandas, PIL.Image, psutil, pydantic, rich.table\n"
        "import safetensors.torch, scipy.stats, timm, torch, torchvision.transforms.v2, typer, yaml\n"
        "for name in sys.argv[1:]:\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        os.waitpid(child, 0)\n"
        "        continue\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except BaseException as error:\n"
        "        print(f'{name}: {error!r}', flush=True)\n"
        "    os._exit(0)\n"
    )
    names = [module_of(path) for path in SOURCES if path.name != "__main__.py"]
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
