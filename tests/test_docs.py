"""README and docs: what they name exists, what they show is accepted, and their examples really run."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import BaseModel
from timm.models import _builder as timm_builder
from typer.testing import CliRunner

from mae_bench import api, cli, recipe, registry, resources, runlist, settings, yamlfile
from mae_bench.backbones import load_backbone
from mae_bench.suite import SuiteReport
from mae_bench.tables import layouts
from mae_bench.tracing.findings import Audit
from tests.launch import ROOT
from tests.plugins import Site

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *DOCS]
SIZE = "patch_size=8&img_size=32&embed_dim=24&depth=1&num_heads=2"
TINY = f"random:vit_tiny_patch16_224?{SIZE}"

# What stands for a name of the reader's own in the commands that the pages show.
PLACEHOLDERS = {"RECIPE": "imagenet-knn", "RUN": "runs/mae-b", "FOLDER": "runs/mae-b", "ID": "mae-table3"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name that its first line gives it, ``# NAME.py: what it is``."""
        found = re.match(r"# ([\w.-]+\.(?:py|yaml))\b", self.text)
        return found[1] if found else None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            text = "\n".join(lines[start + 1 : number])
            yield Block(page, start + 1, lines[start].removeprefix("```").strip(), text)
            start = None
    assert start is None, f"{name_of(page)}: the block of line {start} has no end"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """What stands between backticks in the page's prose."""
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(page))]


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
YAML = [block for block in BLOCKS if block.language == "yaml"]
LAYOUTS = [block for block in YAML if (block.file or "").endswith("-table.yaml")]
SUITES = [block for block in YAML if (block.file or "").endswith("-suite.yaml")]
MAPPINGS = [block for block in YAML if block.file == "mapping.yaml"]
RECIPES = [block for block in YAML if block not in [*LAYOUTS, *SUITES, *MAPPINGS]]


def of(blocks: list[Block]) -> list[Any]:
    return [pytest.param(block, id=f"{name_of(block.page)}:{block.line}") for block in blocks]


# ---------------------------------------------------------------- what is named exists


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    own = [target.partition("#")[0] for target in targets if not re.match(r"https?://|#", target)]
    assert [target for target in own if not (page.parent / target).exists()] == []


def test_readme_links_every_page_of_the_docs() -> None:
    assert DOCS
    linked = set(re.findall(r"\]\((docs/[^)]+\.md)\)", README.read_text(encoding="utf-8")))
    assert linked == {name_of(page) for page in DOCS}


def mapped(page: Path, first: str) -> list[str]:
    """The paths in the map of the tree on a page, which begins with the folder `first`."""
    (tree,) = [b for b in blocks(page) if b.language == "text" and b.text.startswith(f"{first} ")]
    named: list[str] = []
    folders: list[str] = []
    for line in tree.text.splitlines():
        entry, _, subject = line.strip().partition(" ")
        assert subject.strip(), f"{entry} has no subject"
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        if entry.endswith("/"):
            folders.append(entry)
        named.append("".join(folders) + ("" if entry.endswith("/") else entry))
    return named


def test_the_map_of_the_tree_is_the_tree() -> None:
    engines = mapped(ROOT / "docs" / "engines.md", "downstream/openmmlab/")
    named = mapped(README, "mae_bench/")
    # The README shows the folders of the engines, and leaves their files to the page about them.
    folders = {
        "downstream/detection/detectron2/",
        "downstream/detection/mmdet/",
        "downstream/segmentation/mmseg/",
    }
    assert set(engines) & set(named) == {"downstream/openmmlab/", *folders}
    named = [*(name for name in named if name not in engines), *engines]
    modules = [
        path
        for top in ("mae_bench", "downstream")
        for path in (ROOT / top).rglob("*.py")
        if path.name != "__init__.py"
    ]
    packages = {path.parent for top in ("mae_bench", "downstream") for path in (ROOT / top).rglob("*.py")}
    others = {f"{folder}/" for folder in ("configs", "tables", "tests", "docs", "benchmarks")}
    there = {name_of(path) for path in modules} | {f"{name_of(path)}/" for path in packages} | others
    assert sorted(named) == sorted(there)


def test_the_table_of_tasks_is_the_catalogue() -> None:
    section = README.read_text(encoding="utf-8").split("## Tasks")[1].split("\n## ")[0]
    named: list[str] = []
    for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE):
        names = re.findall(r"`([a-z][\w-]*)`", row)
        suffixes = re.findall(r"`(-[\w-]+)`", row)
        named += [*names, *(name + suffix for name in names for suffix in suffixes)]
    assert sorted(named) == [name for name in resources.recipes() if not name.startswith("demo/")]


@pytest.fixture
def _every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every engine were installed: what the pages say of their settings can be read without them."""
    monkeypatch.setattr(registry.Entry, "missing", lambda self: [])


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = settings.submodel(field.annotation)
        if inner is not None:
            yield from key_paths(inner, f"{prefix}{name}.")


@pytest.mark.usefixtures("_every_engine")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_and_files_that_are_named_exist(page: Path) -> None:
    known: set[str] = set()
    for name in registry.adapters().entries:
        known |= set(key_paths(registry.adapters().load(name).Config))
    # The page about data leaves out the section's name.
    known |= {path.removeprefix("data.") for path in known if path.startswith("data.")}
    sections = {path.partition(".")[0] for path in known if "." in path}
    wrong = []
    for span in spans(page):
        key = re.fullmatch(r"([a-z_]+)\.[a-z_.]+(?==|$)", span.partition("=")[0])
        is_file = span.endswith((".tar", ".safetensors", ".py", ".yaml", ".json"))
        if key and key[1] in sections and not is_file and span.partition("=")[0] not in known:
            wrong.append(span)
        if re.fullmatch(r"(mae_bench|downstream|configs|tables|tests|docs|benchmarks)/[\w./-]*", span):
            wrong += [] if (ROOT / span).exists() else [span]
    assert wrong == []


# ---------------------------------------------------------------- what is shown is accepted


def entry_points() -> dict[str, dict[str, str]]:
    """Those that the pages tell a reader to write: whole in a block of TOML, the README's in words."""
    found: dict[str, dict[str, str]] = {registry.ADAPTER_GROUP: {}, registry.BACKBONE_GROUP: {}}
    for block in BLOCKS:
        if block.language == "toml":
            for group, points in tomllib.loads(block.text)["project"]["entry-points"].items():
                found[group] |= points
    for page in PAGES:
        for span in spans(page):
            point = re.fullmatch(r'([\w-]+) = "(\w+:(ADAPTERS|SOURCES))"', span)
            if point:
                group = registry.ADAPTER_GROUP if point[3] == "ADAPTERS" else registry.BACKBONE_GROUP
                found[group][point[1]] = point[2]
    return found


@pytest.fixture
def workplace(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the pages show, and their modules installed as a package."""
    for block in PYTHON:
        if block.file:
            site.module(block.file.removesuffix(".py"), block.text)
    site.distribution("from-the-docs", entry_points())
    folder = tmp_path / "work"
    (folder / "runs" / "mae-b").mkdir(parents=True)
    for block in YAML:
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    (folder / "my-table.yaml").write_bytes(resources.tables()["demo-transfer"].read_bytes())
    some_run = settings.plain(recipe.resolve("imagenet-knn", [], {"backbone": TINY}).config)
    (folder / "runs" / "mae-b" / "config.yaml").write_text(yamlfile.dump(some_run), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("block", of(RECIPES))
def test_recipes_are_valid(block: Block, workplace: Path) -> None:
    path = workplace / "shown.yaml"
    path.write_text(block.text, encoding="utf-8")
    assert recipe.resolve(str(path)).config.task in registry.adapters().entries


@pytest.mark.parametrize("block", of(LAYOUTS))
def test_layouts_are_valid(block: Block, workplace: Path) -> None:
    assert block.file is not None
    assert layouts.load_layout(workplace / block.file).ours


@pytest.mark.parametrize("block", of(SUITES))
def test_lists_of_runs_are_valid(block: Block, workplace: Path) -> None:
    assert block.file is not None
    for entry in runlist.read(workplace / block.file).entries:
        kind: Any = "tasks" if entry.task is not None else "pretrain"
        recipe.resolve(entry.what, entry.overrides, kind=kind, engine=entry.engine)


def shell_lines(block: Block) -> Iterator[str]:
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "console":
            if line.startswith("$ "):
                yield line.removeprefix("$ ")
        elif line.strip():
            yield line


def our_arguments(line: str) -> list[str] | None:
    """The words behind `mae-bench`, or behind `-m mae_bench`, of a line of shell; None if it is not ours."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    if not words:
        return None
    if Path(words[0]).name == "mae-bench":
        return words[1:]
    for place in range(len(words) - 1):
        if words[place] == "-m" and words[place + 1] == "mae_bench":
            return words[place + 2 :]
    return None


def commands() -> list[Any]:
    """Every command of ours on the pages, with its place."""
    found = [
        pytest.param(arguments, id=f"{name_of(block.page)}:{block.line} {' '.join(arguments)}")
        for block in BLOCKS
        if block.language in ("sh", "console")
        for line in shell_lines(block)
        if (arguments := our_arguments(line)) is not None and not line_fails(block, line)
    ]
    found += [
        pytest.param(shlex.split(span)[1:], id=f"{name_of(page)} {span}")
        for page in PAGES
        for span in spans(page)
        if span.startswith("mae-bench ")
    ]
    assert len(found) > 20
    return found


def line_fails(block: Block, line: str) -> bool:
    """Whether the page itself shows that the command is refused."""
    return f"$ {line}\nerror: " in block.text


class Calls:
    """Stands for `mae_bench.api`: notes what the command line asks for, and does nothing."""

    def __init__(self) -> None:
        self.last: tuple[str, inspect.BoundArguments] | None = None

    def take(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        signature = inspect.signature(getattr(api, name))

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.last = name, signature.bind(*args, **kwargs)
            if name == "demo":
                return type("Report", (), {"table": "", "pictures": []})
            if name in ("data_check", "data_fingerprint", "import_wandb"):
                told = {"ok": True, "as_text": lambda _: "", "as_json": lambda _: ""}
                return type("Report", (), told)()
            if name == "suite":
                return SuiteReport()
            if name == "audit":
                return Audit("runs", (), {})
            return {"table": "", "figure": "", "judge": {}, "data_corrupt": ""}.get(name, [])

        monkeypatch.setattr(api, name, noted)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    taken = Calls()
    for name in (
        "all_tables",
        "audit",
        "check",
        "compare",
        "pretrain",
        "pretrain_seeds",
        "run",
        "run_seeds",
        "suite",
        "visualize",
        "judge",
        "table",
        "figure",
        "demo",
        "draw_classes",
        "draw_curves",
        "data_check",
        "data_fingerprint",
        "data_corrupt",
        "export_results",
        "import_wandb",
        "push_table",
        "report",
    ):
        taken.take(name, monkeypatch)
    return taken


@pytest.mark.usefixtures("_every_engine")
@pytest.mark.parametrize("arguments", commands())
def test_commands_are_accepted(arguments: list[str], workplace: Path, calls: Calls) -> None:
    given = [PLACEHOLDERS.get(word, word.replace("FOLDER/", "runs/mae-b/")) for word in arguments]
    for place, word in enumerate(given):
        if word.startswith("native=") and "::" not in word:
            Path(word.removeprefix("native=")).touch()
        if word == "--backbone":
            given[place + 1] = TINY if given[place + 1] == "..." else given[place + 1]
            if ":" not in given[place + 1]:
                Path(given[place + 1]).mkdir(parents=True, exist_ok=True)
    answer = CliRunner().invoke(cli.app, [word for word in given if word != "..."])
    if len(arguments) == 1 and "Missing" in answer.stderr:
        return  # the verb alone, spoken of
    assert answer.exit_code == 0, answer.stderr
    if calls.last is not None:
        name, bound = calls.last
        accept(name, bound.arguments)


def accept(verb: str, asked: dict[str, Any]) -> None:
    """Resolve what a verb was asked for as far as that goes without data and weights."""
    if verb == "suite":
        assert runlist.read(asked["listed"]).entries
    if verb == "audit":
        assert all(layouts.load_layout(name) for name in asked["tables"])
    if verb in ("table", "figure"):
        layouts.load_layout(asked["table_id"])
    if verb.startswith("data_"):
        recipe.resolve(asked["task"], asked["overrides"])
    verb = verb.removesuffix("_seeds")
    if verb not in ("check", "pretrain", "run"):
        return
    name = asked["task" if verb == "run" else "recipe_name"]
    if name is None:  # a backbone alone, or the verb alone, spoken of
        assert asked["backbone"] is None or registry.normalise_backbone(asked["backbone"])
        return
    extra = {"backbone": asked["backbone"]} if asked.get("backbone") else {}
    kind: Any = {"run": "tasks", "pretrain": "pretrain", "check": None}[verb]
    resolved = recipe.resolve(name, asked["overrides"], extra, kind=kind, engine=asked.get("engine"))
    assert (resolved.config.backbone is not None) == resolved.adapter_class.needs_backbone


@pytest.mark.parametrize("block", of([b for b in BLOCKS if b.language in ("sh", "console")]))
def test_other_commands_are_real_too(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in shell_lines(block):
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            targets = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), line
        elif our_arguments(line) is None:
            assert "mae-bench " not in line, f"not understood, so not checked: {line}"


def test_there_are_as_many_aliases_as_the_pages_say() -> None:
    said = {page for page in PAGES if "some eighty published backbones" in prose(page)}
    assert said == {README, ROOT / "docs" / "backbones.md"}
    assert 75 <= len(resources.backbones()) <= 85


def test_extras_that_are_named_exist() -> None:
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra for page in PAGES for extra in re.findall(r"pip install -e '\.\[(\w+)\]'", page.read_text())
    }
    assert named
    assert named <= set(offered["optional-dependencies"])


@pytest.mark.parametrize("block", of([b for b in BLOCKS if b.language == "console"]))
def test_answers_are_as_shown(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `show` is said to answer; line numbers of recipes may differ."""
    monkeypatch.chdir(ROOT)

    def without_lines(text: str) -> str:
        return re.sub(r"\.yaml:\d+", ".yaml", text).strip()

    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        arguments = our_arguments(command)
        if arguments is not None and arguments[0] == "show":
            answer = CliRunner().invoke(cli.app, arguments)
            assert without_lines(shown) == without_lines(answer.stdout + answer.stderr)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_that_is_shown_fits_the_functions(page: Path) -> None:
    """Calls such as ``mae_bench.run(...)`` name what there is and give it arguments that it takes."""
    sources = [block.text for block in PYTHON if block.page == page]
    sources += [span for span in spans(page) if re.fullmatch(r"mae_bench\.[\w.]+\(.*\)", span)]
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("mae_bench.")):
                continue
            owner, _, name = ast.unparse(node.func).rpartition(".")
            function = getattr(importlib.import_module(owner), name)
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
            inspect.signature(function).bind(*node.args, **keywords)


# ---------------------------------------------------------------- the examples run


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the generated world is drawn once for all examples."""
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("what", ["adapter", "backbone"])
def test_examples_are_as_short_as_they_say(what: str) -> None:
    text = README.read_text(encoding="utf-8")
    heading = re.search(rf"^## Add an? {what} in (\d+)", text, re.MULTILINE)
    assert heading
    section = text[heading.end() :].split("\n## ")[0]
    examples = [part.split("```")[0] for part in section.split("```python\n")[1:]]
    assert examples
    for code in examples:
        assert len([line for line in code.splitlines() if line.strip()]) <= int(heading[1])


def test_the_adapter_of_the_readme_runs(workplace: Path, data_root: Path) -> None:
    result = api.run("my-recipe.yaml", TINY, data_root=data_root, runs_root=workplace / "runs")
    assert result.task == "feature-spread"
    assert list(result.metrics) == ["spread"]
    assert 0 < result.metrics["spread"] < 2
    assert api.load_results(workplace / "runs")["recipe"].tolist() == ["my-recipe"]


def test_the_module_of_the_readme_runs(workplace: Path, data_root: Path) -> None:
    spec = "python:my_nets:Tower?depth=2"
    result = api.run("my-recipe.yaml", spec, data_root=data_root, runs_root=workplace / "runs")
    assert math.isfinite(result.metrics["spread"])
    assert result.backbone is not None
    assert (result.backbone.spec, result.backbone.arch) == (spec, "Tower")


def test_the_backbone_of_the_readme_runs(
    workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = f"vit_tiny_patch16_224&{SIZE.replace('&img_size=32', '')}"
    original = load_backbone(TINY, seed=3)
    torch.save(original.vit.state_dict(), workplace / "small.pth")
    module = importlib.import_module("my_backbones")
    monkeypatch.setattr(module, "FILES", {"mae-b": (str(workplace / "small.pth"), arch)})
    result = api.run("my-recipe.yaml", "mylab:mae-b", data_root=data_root, runs_root=workplace / "runs")
    assert math.isfinite(result.metrics["spread"])
    assert result.backbone is not None
    assert (result.backbone.spec, result.backbone.digest) == ("mylab:mae-b", original.digest)


def test_the_training_task_of_the_docs_runs(workplace: Path, data_root: Path) -> None:
    result = api.run("rotation.yaml", TINY, data_root=data_root, runs_root=workplace / "runs")
    assert result.task == "rotation"
    assert 0 <= result.metrics["top1"] <= 100
    assert (result.steps, result.epochs) == (8, 2.0)


def test_the_worked_examples_of_the_page_about_backbones_run(
    workplace: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block in its order: files are written and run, commands answer as shown but for their digests.

    timm's download is replaced by untrained weights of the same names; what needs ImageNet is left out.
    """
    monkeypatch.setattr(
        timm_builder,
        "load_state_dict_from_hf",
        lambda *_, **__: timm.create_model("vit_base_patch16_224", num_classes=0).state_dict(),
    )

    def same(text: str) -> str:
        text = re.sub(r"sha256 [0-9a-f]+…?", "sha256", text)
        return re.sub(r"(small of ).*(my_vit\.py)", r"\1\2", text).strip()

    answered = 0
    page = ROOT / "docs" / "backbones.md"
    scripts = {block.file: block.text for block in blocks(page) if block.language == "python"}
    for block in blocks(page):
        for part in (
            re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:] if block.language == "console" else []
        ):
            command, _, shown = part.partition("\n")
            arguments = our_arguments(command)
            if arguments is None:
                program, script = shlex.split(command)
                assert program == "python"
                exec(compile(scripts[script], script, "exec"), {})
                continue
            if arguments[0] == "run" and not arguments[2].startswith("demo/"):
                continue
            answer = CliRunner().invoke(
                cli.app, [*arguments, "--data-root", str(data_root), "--runs", str(workplace / "runs")]
            )
            if arguments[0] == "run":
                assert answer.exit_code == 0, answer.output
                assert not shown.strip()
            else:
                assert same(answer.stdout + answer.stderr) == same(shown)
                answered += 1
    assert answered == 4
    results = api.load_results(workplace / "runs").to_dict("records")
    assert [result["recipe"] for result in results] == ["demo/imagenet-knn"] * 2
    notes = [json.loads(file.read_text())["notes"] for file in (workplace / "runs").rglob("result.json")]
    assert [len(own) for own in notes if any("predictor.weight" in note for note in own)] == [1]
