"""The report as a file: what is gathered, what is thinned out or left out, and that nothing can break out of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from mae_bench import cli, resources
from mae_bench.errors import MaeBenchError
from mae_bench.report import Limits, content, curves, drawings, page, pictures, write
from mae_bench.results import scan
from tests.launch import ROOT
from tests.sample_runs import deviation, store
from tests.sample_trees import write_log

EVIL = "</script><img src=x onerror=alert(1)>{{7*7}}<!--"


FEW = ("mae-fig9", "mae-table3", "transfer-finetune", "vitdet-table")


@pytest.fixture(autouse=True)
def _few_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading every layout takes seconds, and what the report makes of one it makes of all."""
    every = resources.tables()
    monkeypatch.setattr(resources, "tables", lambda: {name: every[name] for name in FEW})


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts.append((self.elements[-1][1], data))
        self.text += data

    def data(self, name: str = "data") -> Any:
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == name and text.strip()]
        return json.loads(text)


def written(root: Path, **limits: Any) -> Page:
    return Page(page.render(page.gather(root, Limits(**limits))))


def picture(path: Path, size: tuple[int, int] = (64, 32), colour: str = "teal") -> None:
    Image.new("RGB", size, colour).save(path)


# ---------------------------------------------------------------- what is gathered


def test_the_page_holds_runs_tables_and_curves(tmp_path: Path) -> None:
    folder = store(tmp_path, "mine", 84.2, seed=3, deviations=[deviation("train.epochs", 100, 12)])
    write_log(folder, 30, "top1", 84.2)
    found = written(tmp_path)
    data = found.data()
    (run,) = data["runs"]
    assert (run["name"], run["seed"], run["metrics"]) == ("mine", 3, {"top1": 84.2})
    assert run["command"] == "mae-bench run --task imagenet-finetune"
    assert data["pools"]["departures"][run["departures"]] == ["12 of 100 epochs"]
    assert data["pools"]["backbones"][run["backbone"]]["size"] == "Base"
    ours = [table["id"] for table in data["tables"] if any(row["ours"] for row in table["rows"])]
    assert "mae-table3" in ours
    assert [table["id"] for table in data["tables"]][: len(ours)] == ours
    assert data["curves"][0]["places"] == [0]
    (curve,) = found.data("curves-0")["runs"]
    assert sorted(curve["curves"]) == ["eval.top1", "loss", "lr"]
    assert curve["per_step"] == pytest.approx(100 / 600, rel=1e-5)


def test_what_runs_share_stands_once(tmp_path: Path) -> None:
    for seed in range(4):
        store(tmp_path, f"s{seed}", 80.0 + seed, seed=seed)
    data = content.runs_as_data(scan(tmp_path).runs)
    assert {name: len(values) for name, values in data["pools"].items()} == dict.fromkeys(data["pools"], 1)
    assert len(data["runs"]) == 4


def test_rows_and_columns_tell_their_size(tmp_path: Path) -> None:
    store(tmp_path, "mine", 84.2)
    runs = scan(tmp_path).runs
    tables = {table["id"]: table for table in content.tables_as_data(content.all_tables(runs), runs)}
    sized = tables["mae-table3"]
    assert {"Base", "Large"} <= {column["size"] for column in sized["columns"]}
    assert {row["size"] for row in sized["rows"]} == {None}
    transfer = tables["transfer-finetune"]
    assert {row["size"] for row in transfer["rows"] if row["ours"]} <= {"Base"}


def test_an_empty_tree_still_shows_what_was_published(tmp_path: Path) -> None:
    found = written(tmp_path / "nothing")
    assert found.data()["runs"] == []
    assert len(found.data()["tables"]) == len(FEW)
    assert "no finished run" in found.text


def test_damaged_folders_and_logs_are_named_and_unfinished_runs_too(tmp_path: Path) -> None:
    store(tmp_path, "whole", 80.0)
    broken = store(tmp_path, "broken-log", 81.0, seed=1)
    (broken / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\nnot json\n{"step": 2, "loss": 1}\n')
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "result.json").write_text('{"schema": 1,')
    (tmp_path / "going").mkdir()
    (tmp_path / "going" / "config.yaml").write_text("seed: 0\n")
    picture(broken / "good.png")
    (broken / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    report = page.gather(tmp_path, Limits())
    assert len(report.problems) == 3
    for name in ("half", "metrics.jsonl", "bad.png"):
        assert any(name in problem for problem in report.problems), name
    found = Page(page.render(report))
    assert "3 problems" in found.text
    assert "1 unfinished run" in found.text
    assert "going" in found.text
    assert [run["name"] for run in found.data()["runs"]] == ["broken-log", "whole"]
    assert [shown.file for shown in report.pictures.shown] == ["good.png"]


# ---------------------------------------------------------------- curves


@pytest.mark.parametrize("count", [1, 7, 200, 201, 999, 10000])
def test_thinned_curves_keep_their_ends_and_peaks(count: int) -> None:
    chance = random.Random(count)
    values = [chance.random() for _ in range(count)]
    spike = count // 3
    values[spike] = 50.0
    steps, kept = curves.thinned(list(range(count)), values, 200)
    assert len(kept) == len(steps) <= 200
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, count - 1)
    assert (max(kept), min(kept)) == (50.0, min(values))
    assert kept == [values[int(step)] for step in steps]
    if count <= 200:
        assert kept == values


def going(root: Path, name: str, **config: Any) -> Path:
    """A run folder as it is before the run has finished."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


def test_runs_that_are_not_finished_have_curves_and_no_place_in_the_list(tmp_path: Path) -> None:
    write_log(store(tmp_path, "done", 80.0), 20, "top1", 80.0)
    config = {"task": "imagenet.finetune", "recipe": "mine", "backbone": "timm:x", "seed": 7}
    write_log(going(tmp_path, "half", **config), 10, "top1", 50.0)
    write_log(going(tmp_path, "plugin", task="gone.task"), 10, "top1", 50.0)
    (going(tmp_path, "just-begun", **config) / "metrics.jsonl").touch()
    found = written(tmp_path)
    data = found.data()
    assert [run["name"] for run in data["runs"]] == ["done"]
    known = {run["name"]: run for run in data["unfinished"]}
    assert list(known) == ["half", "plugin"]
    assert (known["half"]["recipe"], known["half"]["seed"]) == ("mine", "7")
    assert data["pools"]["backbones"][known["half"]["backbone"]] == {"spec": "timm:x"}
    places = {task["task"]: task["places"] for task in data["curves"]}
    assert places == {"gone.task": [2], "imagenet-finetune": [0, 1]}
    tasks = [task["task"] for task in data["curves"]]
    curves_of = found.data(f"curves-{tasks.index('imagenet-finetune')}")["runs"]
    assert [len(one["curves"]["loss"][0]) for one in curves_of] == [20, 10]


def test_an_unfinished_run_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = going(tmp_path, "half")
    (folder / "config.yaml").write_text("task: [")
    write_log(folder, 10, "top1", 50.0)
    report = page.gather(tmp_path, Limits())
    (problem,) = report.problems
    assert "half/config.yaml" in problem
    assert report.curves == []


def test_numbers_that_are_none_are_no_points(tmp_path: Path) -> None:
    folder = store(tmp_path, "mine", 80.0)
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": 1.23456789}\n{"step": 3, "loss": Infinity}\n'
    )
    (task,), _, problems = curves.gather(scan(tmp_path).runs)
    assert problems == []
    assert task["runs"][0]["curves"] == {"loss": [[2], [1.23457]]}


# ---------------------------------------------------------------- figures


def test_inlined_figures_share_no_identifier_and_no_style() -> None:
    svg = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="10pt" height="5pt" viewBox="0 0 10 5"><metadata>who</metadata><defs><style>*{stroke-linecap: butt}'
        '</style><path id="m" d="M0 0"/></defs><g clip-path="url(#p)"><use xlink:href="#m"/></g>'
        '<clipPath id="p"/><text>a &lt;b&gt;</text></svg>'
    )
    one, two = (drawings.inlined(svg, name, f"T & {name}") for name in ("f-0", "f-1"))
    names = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert names[0] == {"f-0", "f-0-m", "f-0-p"}
    assert not names[0] & names[1]
    assert 'href="#f-0-m"' in one
    assert "url(#f-0-p)" in one
    assert "#f-0 *{" in one
    assert "<text>a &lt;b&gt;</text>" in one
    assert 'aria-label="T &amp; f-0"' in one
    assert "metadata" not in one
    assert 'width="10pt"' not in one


def test_a_table_with_a_figure_and_runs_of_ours_is_drawn(tmp_path: Path) -> None:
    for blocks, top1 in ((0, 60.0), (4, 80.0)):
        store(tmp_path, f"p{blocks}", top1, task="imagenet-partial", recipe="imagenet-partial",
              recipe_hash=f"{blocks}" * 64, config={"blocks": blocks})  # fmt: skip
    drawn = drawings.draw_all(content.all_tables(scan(tmp_path).runs))
    assert (drawn.problems, drawn.crowded) == ([], [])
    found = drawn.shown
    assert "mae-fig9" in [drawing.table for drawing in found]
    # Text as text: a reader can search and copy it.
    assert "Fine-tuned blocks" in found[[d.table for d in found].index("mae-fig9")].svg


def test_a_figure_of_too_many_curves_is_left_out_and_said_so(tmp_path: Path) -> None:
    for model in range(drawings.MOST_CURVES):
        store(tmp_path, f"p{model}", 60.0, task="imagenet-partial", recipe="imagenet-partial", config={"blocks": 4},
              backbone={"spec": f"timm:vit.m{model}", "digest": f"{model:064x}"})  # fmt: skip
    text = written(tmp_path).text
    assert f"{drawings.MOST_CURVES + 2} curves are more than can be told apart" in text
    assert "mae-bench table mae-fig9 --figure FILE" in text


# ---------------------------------------------------------------- pictures


def test_pictures_are_scaled_down_and_described(tmp_path: Path) -> None:
    folder = store(tmp_path, "mine", 80.0)
    picture(folder / "reconstructions.png", (3000, 1500))
    (folder / "predictions").mkdir()
    picture(folder / "predictions" / "raw.png")
    (shown,) = pictures.gather(scan(tmp_path).runs, 10, 10.0).shown
    assert (shown.width, shown.height) == (1200, 600)
    assert shown.alt.startswith("Reconstructions: original, masked")
    assert "run mine" in shown.alt
    content_of = base64.b64decode(shown.uri.partition(",")[2])
    with Image.open(io.BytesIO(content_of)) as image:
        assert image.size == (1200, 600)


def test_pictures_of_every_task_come_before_seconds_of_one(tmp_path: Path) -> None:
    for seed in range(3):
        picture(store(tmp_path, f"a{seed}", 80.0, seed=seed) / "x.png")
    picture(store(tmp_path, "b", 70.0, task="imagenet-linear") / "x.png")
    found = pictures.gather(scan(tmp_path).runs, 2, 10.0)
    assert [shown.run for shown in found.shown] == ["a2", "b"]
    assert found.left_out == 2


@pytest.mark.parametrize(("limits", "left_out"), [({"pictures": 0}, 2), ({"megabytes": 0.0}, 2), ({}, 0)])
def test_what_is_left_out_is_said(tmp_path: Path, limits: dict[str, Any], left_out: int) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    folder = store(tmp_path, "mine", 80.0)
    for name in ("a.png", "b.png"):
        picture(folder / name)
    text = written(tmp_path, **limits).text
    assert (f"{left_out} more pictures are left out" in text) is bool(left_out)


# ---------------------------------------------------------------- one file that asks for nothing


def hostile(root: Path) -> Path:
    """A run whose every name tries to be something else."""
    folder = store(
        root, "a<b>'\"&{{7*7}}", 80.0, recipe=EVIL, selection=EVIL, notes=[EVIL],
        backbone={"spec": f"timm:{EVIL}", "arch": EVIL, "pretraining": {EVIL: EVIL}},
        dataset={"name": EVIL}, command=["mae-bench", EVIL], hardware={"device": EVIL, EVIL: 1},
        versions={EVIL: EVIL},
        deviations=[deviation(EVIL, EVIL, EVIL)],
    )  # fmt: skip
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, EVIL: 2.0, "loss": 1.0}) + "\n")
    picture(folder / "'\"><script>alert(1)<script>.png")
    (root / "<img src=y onerror=alert(2)>").mkdir()
    (root / "<img src=y onerror=alert(2)>" / "config.yaml").write_text("")
    return root


def test_names_of_runs_stay_text(tmp_path: Path) -> None:
    found = written(hostile(tmp_path))
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("src", "data:").startswith("data:"), (tag, attributes)  # type: ignore[union-attr]
    kinds = [attributes.get("type") for tag, attributes in found.elements if tag == "script"]
    assert kinds == ["application/json", "application/json", None]
    assert found.data()["runs"][0]["recipe"] == EVIL
    assert "{{7*7}}" in found.text
    assert "<img src=y onerror=alert(2)>" in found.text


def test_the_page_may_load_nothing_and_runs_one_script(tmp_path: Path) -> None:
    found = written(hostile(tmp_path))
    (policy,) = [
        attributes["content"]
        for tag, attributes in found.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = {name: rest for name, _, rest in (rule.strip().partition(" ") for rule in policy.split(";"))}
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    (program,) = [text for attributes, text in found.scripts if not attributes and text.strip()]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    for _, attributes in found.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match(r"data:|#|$", attributes.get(name) or ""), attributes


def test_the_verb_writes_the_page_and_names_it(tmp_path: Path) -> None:
    store(tmp_path / "runs", "mine", 84.2)
    output = tmp_path / "deep" / "report.html"
    done = CliRunner().invoke(cli.app, ["report", "--runs", str(tmp_path / "runs"), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(output)
    assert Page(output.read_text(encoding="utf-8")).data()["runs"][0]["name"] == "mine"


@pytest.mark.parametrize(
    ("output", "limits", "message"),
    [
        ("report.pdf", {}, "report.pdf: a report is a web page, so give a name that ends in .html"),
        ("report.html", {"pictures": -1}, "--pictures -1: give 0 (none) or more"),
        ("report.html", {"megabytes": float("nan")}, "--max-mb nan: give 0 or a larger number of megabytes"),
    ],
)
def test_what_makes_no_sense_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, limits: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MaeBenchError, match=re.escape(message)):
        write(tmp_path, output, Limits(**limits))
    assert list(tmp_path.iterdir()) == []


def test_every_part_of_the_page_is_beside_its_module() -> None:
    """What the wheel is built from; hatchling takes whatever lies in the package."""
    home = ROOT / "mae_bench" / "report"
    parts = {path.stem for path in (home / "program").glob("*.js")}
    assert parts == set(page.PROGRAM)
    assert (home / page.TEMPLATE).is_file()
    assert (home / page.STYLE).is_file()
