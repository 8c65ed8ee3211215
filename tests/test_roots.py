"""Where data lies: the user's configuration file, `--data-root`, and what they do to recipes and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from mae_bench import api, cli, recipe, roots, scenes, settings
from mae_bench.api import running
from mae_bench.errors import MaeBenchError
from mae_bench.roots import Placed
from mae_bench.run import folder_for
from mae_bench.validation import Origin

BACKBONE = "random:vit_tiny_patch16_224?img_size=32&embed_dim=24&depth=1&num_heads=2"
TINY = """\
extends: imagenet-knn
data: {name: tiny, root: tiny, classes: 2, image_size: [32, 32], evaluation: {resize: 32}, workers: 0}
k: [1]
headline_k: 1
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's file goes; it is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "config" / "mae-bench" / "config.yaml"
    path.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return path


def draw(folder: Path) -> None:
    """Two classes of three images in both splits."""
    for split in ("train", "val"):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (32, 32), (colour[0], number, colour[2])).save(place / f"{number}.png")


# ---------------------------------------------------------------- the file


def test_without_the_file_nothing_is_changed(file: Path) -> None:
    assert roots.config_file() == file
    assert roots.find() == roots.Roots(Path("data"), Path("runs"), {}, None)
    assert roots.find("d", "r") == roots.Roots(Path("d"), Path("r"), {}, None)


@pytest.mark.parametrize("base", ["", "relative/config"])
def test_without_an_absolute_base_it_lies_in_the_home_folder(
    base: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", base)
    assert roots.config_file() == tmp_path / "home" / ".config" / "mae-bench" / "config.yaml"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert roots.config_file() == tmp_path / "home" / ".config" / "mae-bench" / "config.yaml"


def test_the_file_says_where_things_are(file: Path, tmp_path: Path) -> None:
    file.write_text(
        "data_root: ~/sets\nruns: /scratch/runs\nroots:\n  imagenet: /big/ILSVRC2012\n  coco/: ~/c\n"
    )
    found = roots.find()
    assert (found.data_root, found.runs, found.file) == (
        tmp_path / "home/sets",
        Path("/scratch/runs"),
        file,
    )
    assert found.named == {
        "imagenet": Placed(Path("/big/ILSVRC2012"), Origin("config/mae-bench/config.yaml:4")),
        "coco": Placed(tmp_path / "home/c", Origin("config/mae-bench/config.yaml:5")),
    }


def test_a_data_root_that_is_given_counts_alone(file: Path) -> None:
    file.write_text("data_root: /sets\nruns: /scratch/runs\nroots: {imagenet: /big}\n")
    assert roots.find("data") == roots.Roots(Path("data"), Path("/scratch/runs"), {}, None)
    assert roots.find(runs="here").runs == Path("here")
    assert roots.find(runs="here").data_root == Path("/sets")


@pytest.mark.parametrize(
    "text", ["", "# data_root: /x\n\n", "roots:\n  # imagenet: /x\n", "data_root: null\n"]
)
def test_a_file_may_say_nothing(text: str, file: Path) -> None:
    file.write_text(text)
    assert roots.find() == roots.Roots(Path("data"), Path("runs"), {}, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_rot: /x\n", "data_rot: unknown key (config/mae-bench/config.yaml:1); did you mean 'data_root'?"),
        ("runs: 3\n", "runs: should be text, not 3 (config/mae-bench/config.yaml:1)"),
        ("data_root: sets\n",
         "data_root: should be an absolute path, or begin with ~/, not 'sets' (config/mae-bench/config.yaml:1)"),
        ("data_root: /x\nroots:\n  a: /x\n  b: y\n",
         "roots.b: should be an absolute path, or begin with ~/, not 'y' (config/mae-bench/config.yaml:4)"),
        ("roots: [a]\n", 'roots: should be a mapping of keys, not ["a"] (config/mae-bench/config.yaml:1)'),
        ("roots: {generated/tiny: /x}\n",
         "roots: 'generated/tiny' is drawn below the data root and has no folder of its own "
         "(config/mae-bench/config.yaml:1)"),
        ("- a\n", "config/mae-bench/config.yaml should hold keys and values (key: value), and holds a list"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_path_and_line(text: str, message: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(MaeBenchError) as error:
        roots.find()
    assert str(error.value) == message
    done = CliRunner().invoke(cli.app, ["show", "imagenet-knn"])
    assert (done.exit_code, done.stderr) == (2, f"error: {message}\n")


# ---------------------------------------------------------------- which roots


@pytest.mark.parametrize(
    ("root", "folder"),
    [
        ("imagenet", "/big/in"),
        ("imagenet/val", "/fast/val"),
        ("imagenet/train/x", "/big/in/train/x"),
        ("./imagenet", "/big/in"),
        ("imagenet-a", None),
        ("/imagenet", None),
        ("other/imagenet", None),
    ],
)
def test_a_root_or_its_leading_folders_are_looked_up(root: str, folder: str | None) -> None:
    here = Origin("file:1")
    named = {"imagenet": Placed(Path("/big/in"), here), "imagenet/val": Placed(Path("/fast/val"), here)}
    assert roots.placed(root, named) == (None if folder is None else Placed(Path(folder), here))


def test_generated_worlds_are_called_so() -> None:
    assert roots.GENERATED == scenes.FOLDER


class Sets(settings.Settings):
    a: Any = None
    b: dict[str, Any] = {"root": "imagenet", "deep": {"root": "coco", "list": [{"root": "imagenet"}]}}  # noqa: RUF012


def test_every_key_that_is_called_root_is_one() -> None:
    """Whatever wrote it, a default too; but no root in a list, which has no place in recipes."""
    origins: dict[str, Origin] = {}
    named = {"imagenet": Placed(Path("/i"), Origin("f:1")), "coco": Placed(Path("/c"), Origin("f:2"))}
    config = roots.put(Sets(a={"root": "other"}), origins, named)
    assert config == Sets(
        a={"root": "other"}, b={"root": "/i", "deep": {"root": "/c", "list": [{"root": "imagenet"}]}}
    )
    assert origins == {"b.root": Origin("f:1"), "b.deep.root": Origin("f:2")}
    unchanged = Sets()
    assert roots.put(unchanged, origins, {}) is unchanged


# ---------------------------------------------------------------- recipes and runs


@pytest.mark.parametrize("name", ["imagenet-finetune", "coco", "ade20k", "coco-mmdet-native"])
def test_folders_of_the_machine_do_not_make_another_recipe(name: str) -> None:
    plain = recipe.resolve(name)
    root = settings.plain(plain.config)["data"]["root"]
    moved = recipe.resolve(name, named={root: Placed(Path("/big/x"), Origin("file:3"))})
    assert settings.plain(moved.config)["data"]["root"] == "/big/x"
    assert moved.origins["data.root"] == Origin("file:3")
    assert settings.recipe_hash(moved.config) == settings.recipe_hash(plain.config)
    assert settings.deviations(moved.config, plain.config) == []
    # But it is another run: what is in a folder is not known to be the same.
    assert folder_for(moved.config, Path("runs")) != folder_for(plain.config, Path("runs"))


def test_show_tells_where_the_folder_was_written(file: Path) -> None:
    file.write_text("roots:\n  imagenet: /big/ILSVRC2012\n")
    shown = CliRunner().invoke(cli.app, ["show", "imagenet-knn"]).stdout
    (line,) = [line for line in shown.splitlines() if line.strip().startswith("root:")]
    assert line.split() == ["root:", "/big/ILSVRC2012", "#", "config/mae-bench/config.yaml:2"]


def test_a_run_finds_its_data_where_the_file_says(file: Path, tmp_path: Path) -> None:
    draw(tmp_path / "big" / "two-colours")
    (tmp_path / "tiny.yaml").write_text(TINY)
    file.write_text(f"runs: {tmp_path}/mine\nroots:\n  tiny: {tmp_path}/big/two-colours\n")
    first = api.run("tiny.yaml", BACKBONE)
    assert first.metrics["top1"] == 100.0
    folder = tmp_path / "mine" / Path(str(first.folder)).relative_to(tmp_path / "mine")
    assert f"root: {tmp_path}/big/two-colours" in (folder / "config.yaml").read_text()
    assert json.loads((folder / "result.json").read_text())["config"]["data"]["root"].endswith("two-colours")
    # The run is found again, and its own file repeats it without the user's.
    assert api.run("tiny.yaml", BACKBONE).started == first.started
    file.unlink()
    again = api.run(str(folder / "config.yaml"), runs_root=tmp_path / "again")
    assert again.dataset == first.dataset
    with pytest.raises(MaeBenchError, match=r"data/tiny"):
        api.run("tiny.yaml", BACKBONE)


def test_a_run_is_opened_again_where_the_data_is_now(file: Path, tmp_path: Path) -> None:
    """A run that was made with `root: tiny` below some data root finds the folder that the file names."""
    folder = tmp_path / "runs" / "old"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(TINY.replace("headline_k: 1", f"headline_k: 1\nbackbone: {BACKBONE}"))
    file.write_text(f"roots: {{tiny: {tmp_path}/big}}\n")
    data: Any = running._reopen(folder, None).config
    assert data.data.root == f"{tmp_path}/big"
    given: Any = running._reopen(folder, "elsewhere")
    assert (given.config.data.root, given.data_root) == ("tiny", Path("elsewhere"))


def test_runs_of_the_file_are_those_of_the_tables(file: Path, tmp_path: Path) -> None:
    file.write_text(f"runs: {tmp_path}/mine\n")
    (tmp_path / "mine").mkdir()
    assert len(api.load_results()) == 0
    assert "mae-b" not in api.table("demo-transfer")
    file.write_text("runs: 1\n")
    with pytest.raises(MaeBenchError, match="runs: should be text"):
        api.table("demo-transfer")
