"""`mae-bench data`: what it says of data, where it writes, with which status it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import mae_bench
from mae_bench import api, cli, datacheck, datasets, whereabouts
from mae_bench.errors import MaeBenchError
from tests.launch import environment

BACKBONE = "random:vit_tiny_patch16_224?img_size=32&embed_dim=24&depth=1&num_heads=2"
TINY = """\
# Two colours
extends: imagenet-knn
data: {name: two-colours, root: tiny, classes: 2, image_size: [32, 32], evaluation: {resize: null}, workers: 0}
k: [1]
headline_k: 1
"""
HEAVY = {"torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "matplotlib", "PIL"}


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, ["data", *arguments])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with the recipe tiny.yaml and its data, two classes of three images in both splits."""
    for at, split in enumerate(("train", "val")):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            folder = tmp_path / "data" / "tiny" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                shade = (colour[0], 100 * at + number, colour[2])
                Image.new("RGB", (32, 32), shade).save(folder / f"{number}.png")
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- check


def test_good_data_passes(place: Path) -> None:
    done = invoke("check", "tiny.yaml", "--workers", "1")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert done.stdout.startswith("data check of two-colours: no fault\n")
    assert "report saved in data/.mae-bench/tiny.json\n" in done.stderr
    report = json.loads((place / "data/.mae-bench/tiny.json").read_text())
    assert (report["ok"], report["checked"], report["findings"]) == (True, 12, [])


def test_faults_are_told_and_change_the_status(place: Path) -> None:
    image = place / "data/tiny/val/red/1.png"
    image.write_bytes(image.read_bytes()[:60])
    done = invoke("check", "tiny.yaml", "--workers", "0", "--report", "bad.json")
    assert done.exit_code == 1
    assert "FAULT: unreadable (1)" in done.stdout
    assert json.loads((place / "bad.json").read_text())["bad_files"] == ["data/tiny/val/red/1.png"]
    # Quickly, no image is read, so this one is not found.
    assert invoke("check", "tiny.yaml", "--quick").exit_code == 0


@pytest.mark.parametrize("task", ["inat18", "coco", "ade20k", "imagenet-robustness", "mae-vit-base"])
def test_data_that_is_not_there_is_a_finding_and_a_hint(task: str, place: Path) -> None:
    done = invoke("check", task, "--quick")
    assert (done.exit_code, done.exception and type(done.exception)) == (1, SystemExit)
    assert "FAULT: layout (" in done.stdout
    assert f"mae-bench data where {task} tells where it is expected\n" in done.stderr
    assert "mae-bench data where" not in invoke("check", "tiny.yaml", "--quick").stderr


def test_what_was_read_is_not_read_again(place: Path) -> None:
    assert mae_bench.data_check("tiny.yaml", workers=0).checked == 12
    again = mae_bench.data_check("tiny.yaml", workers=0)
    assert (again.checked, again.resumed, again.ok) == (0, 12, True)


def test_overrides_and_json(place: Path) -> None:
    done = invoke("check", "tiny.yaml", "data.classes=3", "--quick", "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["dataset"] == "two-colours"
    assert report["quick"] is True
    assert "data.classes" in report["findings"][0]["message"]


def test_counts_are_compared_with_what_is_known(place: Path) -> None:
    done = invoke("check", "tiny.yaml", "data.name=cifar-10", "data.classes=2", "--quick", "--json")
    messages = [finding["message"] for finding in json.loads(done.stdout)["findings"]]
    assert done.exit_code == 1
    assert "train has 6 images, but CIFAR-10 has 50,000 there: 49,994 missing" in messages


def test_data_that_cannot_be_written_has_its_report_in_the_runs_folder(place: Path) -> None:
    (place / "data/.mae-bench").write_text("in the way")
    done = invoke("check", "tiny.yaml", "--workers", "0", "--runs", "elsewhere")
    assert done.exit_code == 0
    assert (
        "data/.mae-bench cannot be written (File exists): the report goes to elsewhere/.mae-bench\n"
        in done.stderr
    )
    assert json.loads((place / "elsewhere/.mae-bench/tiny.json").read_text())["ok"]


def test_no_data_root_is_made_for_a_report(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = place / "config/mae-bench/config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(f"roots: {{tiny: {place}/data/tiny}}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    empty = place / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert CliRunner().invoke(cli.app, ["data", "check", "../tiny.yaml", "--quick"]).exit_code == 0
    assert [str(path.relative_to(empty)) for path in empty.rglob("*.json")] == ["runs/.mae-bench/tiny.json"]


def test_processes() -> None:
    assert datacheck.processes(0) == 0
    assert datacheck.processes(40) == 40
    assert 1 <= datacheck.processes("auto") <= datacheck.MOST_WORKERS


# ---------------------------------------------------------------- fingerprint


def test_the_fingerprint_is_the_one_of_results(place: Path) -> None:
    result = api.run("tiny.yaml", BACKBONE)
    assert result.dataset is not None
    done = invoke("fingerprint", "tiny.yaml")
    lines = done.stdout.splitlines()
    assert lines[0] == f"two-colours  {result.dataset.fingerprint}"
    assert [line.split()[0] for line in lines[1:]] == ["train", "val"]
    assert all(line.endswith("  6 images, 2 classes") for line in lines[1:])
    # The data elsewhere is the same data, and a name makes the split that it is in another one.
    (place / "moved").mkdir()
    (place / "data/tiny").rename(place / "moved/tiny")
    before = json.loads(invoke("fingerprint", "tiny.yaml", "--json", "--data-root", "moved").stdout)
    assert before["fingerprint"] == result.dataset.fingerprint
    assert [line.split()[1] for line in lines[1:]] == [part["digest"] for part in before["parts"].values()]
    (place / "moved/tiny/val/red/1.png").rename(place / "moved/tiny/val/red/one.png")
    after = mae_bench.data_fingerprint("tiny.yaml", data_root="moved")
    assert after.digest != before["fingerprint"]
    assert after.parts["train"] == before["parts"]["train"]
    assert after.parts["val"]["digest"] != before["parts"]["val"]["digest"]


def test_data_that_is_not_there_has_no_fingerprint(place: Path) -> None:
    done = invoke("fingerprint", "tiny.yaml", "data.root=nowhere")
    assert done.exit_code == 2
    assert done.stderr.startswith(
        "error: the data of tiny.yaml has no fingerprint, as not all of it could be opened: data.train: "
    )


# ---------------------------------------------------------------- where


def test_the_table_tells_what_is_there(place: Path) -> None:
    (place / "data/inat18").mkdir()
    (place / "data/inat18/train2018.json").write_text("{}")
    for name in ("train", "val.tar"):
        (place / "data/imagenet" / name).mkdir(parents=True)
    (place / "data/sketch").mkdir()
    lines = invoke("where").stdout.splitlines()
    rows = {line.split("  ")[0]: line for line in lines}
    assert set(rows) >= set(datasets.known())
    assert rows["inat-2018"].split() == [
        "inat-2018", "part", "of", "it", "8,142", "train", "437,513,", "val", "24,426", "non-commercial",
        "data/inat18",
    ]  # fmt: skip
    assert "  there  " in rows["imagenet-1k"]
    assert "  there  " in rows["imagenet-sketch"]
    assert "  missing  " in rows["coco"]
    assert "  drawn when needed  " in rows["generated-shapes"]
    found = {one.dataset: one for one in mae_bench.data_where()}
    assert found["inat-2018"].lacking == ["val2018.json", "train_val2018"]
    assert (found["imagenet-real"].state, found["imagenet-real"].lacking) == ("part", ["real.json"])


def test_the_table_follows_the_users_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    config = place / "config/mae-bench/config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("roots: {imagenet: /big/in}\n")
    (real,) = mae_bench.data_where("imagenet-real")
    assert (real.dataset, str(real.folder)) == ("imagenet-real", "/big/in")
    assert real.origin == "config/mae-bench/config.yaml:1"
    lines = invoke("where").stdout.splitlines()
    assert f"{config} counts: roots imagenet" in lines
    assert next(line for line in lines if line.startswith("imagenet-1k ")).endswith("  /big/in")
    lines = invoke("where", "--data-root", "data").stdout.splitlines()
    assert f"{config} does not count, for --data-root is given" in lines
    assert next(line for line in lines if line.startswith("imagenet-1k ")).endswith("  data/imagenet")
    assert "  as config/mae-bench/config.yaml:1 says\n" in invoke("where", "imagenet-1k").stdout


@pytest.mark.parametrize("name", ["imagenet-finetune", "imagenet-1k"])
def test_the_card_of_a_recipe_or_of_a_dataset(name: str, place: Path) -> None:
    card = invoke("where", name).stdout
    facts = datasets.facts("imagenet-1k")
    assert facts is not None
    assert card.startswith("imagenet-1k: ImageNet-1K (ILSVRC-2012)\n  expected in data/imagenet (missing)\n")
    for text in (
        facts.terms.strip(),
        facts.homepage,
        *facts.notes,
        *facts.expects.splitlines(),
        *facts.source,
    ):
        assert text in card
    # To be copied: at the margin, with the folder of this machine in it.
    assert f"\nmkdir -p {place}/data/imagenet && cd {place}/data/imagenet\necho '1d675b" in card


def test_a_dataset_of_ones_own(place: Path) -> None:
    assert invoke("where", "tiny.yaml").stdout == (
        "two-colours\n"
        "  expected in data/tiny (there)\n"
        "  nothing is known of 'two-colours': no counts, terms or download\n"
    )
    (place / "hub.yaml").write_text(TINY.replace("root: tiny", "root: someone/set, source: hf"))
    assert "(on the Hugging Face hub)" in invoke("where", "hub.yaml").stdout


def test_several_at_once_and_for_programs(place: Path) -> None:
    assert invoke("where", "coco", "tiny.yaml").stdout.count("  expected in ") == 2
    (coco,) = json.loads(invoke("where", "coco", "--json").stdout)
    assert (coco["dataset"], coco["folder"], coco["state"]) == ("coco", "data/coco", "missing")
    assert coco["facts"]["images"] == {"train": 118287, "val": 5000}
    assert coco["facts"]["download"][0] == f"mkdir -p {place}/data/coco && cd {place}/data/coco"
    assert len(json.loads(invoke("where", "--json").stdout)) == len(datasets.known())


def test_a_recipe_of_several_sets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets are known by the folders that recipes expect them in."""
    values = {
        "recipe": "many",
        "data": {"name": "many"},
        "sets": {"a": {"root": "imagenet-a"}, "x": {"root": "own"}, "c": None},
    }
    monkeypatch.setattr(whereabouts.settings, "plain", lambda _: values)
    found = whereabouts.of("imagenet-knn", whereabouts.roots.find())
    assert [(one.dataset, str(one.folder)) for one in found] == [
        ("imagenet-a", "data/imagenet-a"),
        ("many, sets.x", "data/own"),
    ]


# ---------------------------------------------------------------- corrupt


def test_corrupting_hands_everything_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mae_bench.data import corrupting

    asked: dict[str, Any] = {}

    def make(source: Any, folder: Path, **options: Any) -> Path:
        asked.update(options, source=source, folder=folder)
        return folder

    monkeypatch.setattr(corrupting, "make", make)
    done = invoke("corrupt", "tiny.yaml", "--output", "made", "--corruptions", "fog, snow", "--severities", "1,3",
                  "--workers", "2", "data.evaluation.resize=40")  # fmt: skip
    assert (done.exit_code, done.stdout) == (0, "made\n"), done.stderr
    assert len(asked.pop("source")) == 6
    assert callable(asked.pop("progress"))
    assert asked == {
        "folder": Path("made"),
        "corruptions": ["fog", "snow"],
        "severities": [1, 3],
        "resize": 40,
        "crop": 32,
        "source_name": "two-colours",
        "workers": 2,
    }
    mae_bench.data_corrupt("tiny.yaml", "all")
    assert (asked["corruptions"], asked["severities"]) == (
        list(corrupting.CORRUPTIONS),
        list(corrupting.SEVERITIES),
    )


# ---------------------------------------------------------------- mistakes, and answering at once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "imagenet-nn"], "error: unknown recipe 'imagenet-nn'; did you mean 'imagenet-knn' or "),
        (["check", "data.root=x"], "error: 'data.root=x' sets a value of a recipe: name the recipe before it"),
        (["check", "imagenet-knn", "--workers", "many"], "error: --workers many: should be a whole number"),
        (["check"], "Error: Missing argument 'TASK'."),
        (["where", "imagnet-1k"], "error: there is no recipe and no dataset 'imagnet-1k'; did you mean 'imagenet-1k'"),
        (["where", "nowhere.yaml"], "error: nowhere.yaml does not exist"),
        (["fingerprint", "coco", "data.x=1"], "error: data.x: unknown key (override)"),
        (["corrupt", "imagenet-knn"], "Error: Missing option '--output'."),
        (["corrupt", "coco", "--output", "o"],
         "error: coco has no images with a class each, so there is no set like ImageNet-C of it"),
        (["corrupt", "imagenet-knn", "data.image_size=[224, 256]", "--output", "o"],
         "error: data.image_size is [224, 256], and images of ImageNet-C are square: set data.image_size=[256, 256]"),
        (["corrupt", "imagenet-knn", "--output", "o", "--severities", "1,x"],
         "error: --severities x: should be a whole number"),
        (["corrupt", "imagenet-knn", "--output", "o", "--corruptions", "fog,,snow"],
         "error: --corruptions fog,,snow: should be values with commas between them"),
    ],
)  # fmt: skip
def test_mistakes_in_use_are_one_line(arguments: list[str], message: str, place: Path) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr
    assert not list(place.rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        *(([verb, "--help"], 0) for verb in ("check", "where", "fingerprint", "corrupt")),
        (["where"], 0),
        (["where", "imagenet-finetune"], 0),
        (["check", "imagenet-nn"], 2),
        (["corrupt", "coco", "--output", "o"], 2),
    ],
)
def test_it_answers_without_torch(arguments: list[str], status: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mae_bench", "data", *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert not imported & HEAVY


def test_a_task_that_cannot_tell_its_data_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from downstream.classification.knn import KNN

    def refuse(self: KNN, data_root: Path) -> Any:
        raise MaeBenchError("the task 'x' does not tell what its data is, to be checked")

    monkeypatch.setattr(KNN, "survey", refuse, raising=False)
    done = invoke("check", "tiny.yaml")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: the task 'x' does not tell what its data is, to be checked\n",
    )
