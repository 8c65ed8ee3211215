"""Audits of tables: what a number stands on, and what changed since it was made."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from mae_bench import api, cli, recipe, resources, roots, runlist, settings
from mae_bench.backbones.weights import digest, save_encoder
from mae_bench.errors import MaeBenchError
from mae_bench.files import sha256_file
from mae_bench.results import BackboneRecord, read_result, write_json_atomic
from mae_bench.run import versions
from mae_bench.tracing import provenance, recipes, weights
from mae_bench.tracing.audit import audit
from mae_bench.tracing.findings import Audit, RunAudit
from mae_bench.tracing.telling import tell
from tests.recorded_runs import BASE, finished

TASK = "imagenet-finetune"
ENCODER = {"blocks.0.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture(autouse=True)
def _no_empty_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would fill empty cells is another test file's matter, and takes its time."""
    monkeypatch.setattr("mae_bench.tracing.gaps.GapFinder.gaps", lambda self: [])


def looked(root: Path, *tables: str, data_root: Path | None = None) -> Audit:
    places = roots.Roots(data_root if data_root is not None else root / "no-data", root)
    return audit(tables or ("mae-table3",), places)


def one(found: Audit) -> RunAudit:
    (run,) = found.runs.values()
    return run


def said(run: RunAudit, kind: str) -> list[tuple[str, bool]]:
    return [(finding.text, finding.stale) for finding in run.findings if finding.kind == kind]


# ---------------------------------------------------------------- the code


def test_the_digest_is_of_paths_and_contents(tmp_path: Path) -> None:
    (tmp_path / "mae_bench").mkdir()
    (tmp_path / "downstream").mkdir()
    file = tmp_path / "mae_bench" / "a.py"
    digests = []
    for path, text in ((file, "x = 1"), (file, "x = 2"), (file.with_name("b.py"), "x = 2")):
        path.write_text(text)
        digests.append(provenance.source_digest.__wrapped__(tmp_path))
    assert len(set(digests)) == 3
    assert all(len(found) == 16 and int(found, 16) >= 0 for found in digests)
    file.with_name("c.txt").write_text("no code")
    assert provenance.source_digest.__wrapped__(tmp_path) == digests[-1]


def test_results_tell_the_source() -> None:
    assert versions()["mae-bench source"] == provenance.source_digest()


def test_the_commit_of_a_checkout_and_whether_it_was_changed(tmp_path: Path) -> None:
    ask = provenance.commit.__wrapped__
    assert ask(tmp_path) is None
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "mae_bench").mkdir()
    file = tmp_path / "mae_bench" / "a.py"
    file.write_text("x = 1\n")
    assert ask(tmp_path) is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "a")
    head = git("rev-parse", "HEAD")
    assert ask(tmp_path) == head
    (tmp_path / "notes.txt").write_text("not code")
    assert ask(tmp_path) == head
    file.write_text("x = 2\n")
    assert ask(tmp_path) == f"{head}+changes"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance.commit.__wrapped__(tmp_path) is None


@pytest.mark.parametrize(
    ("then", "text", "stale"),
    [
        ({"mae-bench": "9.8.0"}, "mae-bench 9.8.0 -> 0.1.0", True),
        ({"mae-bench": "0.1.77"}, "mae-bench 0.1.77 -> 0.1.0", False),
        ({"mae-bench": "0.1.0", "mae-bench source": "0" * 16}, "mae-bench source 000000000000 -> ", False),
        ({"torch": "1.0"}, "torch 1.0 -> ", False),
    ],
)
def test_other_code_is_an_alarm_only_with_another_minor_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: dict[str, str], text: str, stale: bool
) -> None:
    from mae_bench.tracing import audit as module

    real = module.metadata.version
    monkeypatch.setattr(
        module.metadata, "version", lambda name: "0.1.0" if name == "mae-bench" else real(name)
    )
    finished(tmp_path, TASK, versions=then)
    found = looked(tmp_path)
    ((told, alarm),) = said(one(found), "code")
    assert told.startswith(text)
    assert alarm is stale
    assert found.ok is not stale


# ---------------------------------------------------------------- the recipe


@pytest.fixture
def corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Recipes of the catalogue as they are tomorrow: ``corrected(name, old, new)`` changes one's text."""
    copies = tmp_path / "catalogue"
    shutil.copytree(resources.configs_dir(), copies / "configs")
    monkeypatch.setattr(resources, "configs_dir", lambda: copies / "configs")

    def change(name: str, old: str, new: str) -> None:
        path = resources.recipes()[name]
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        recipes.today.cache_clear()

    yield change
    recipes.today.cache_clear()


def test_a_fresh_run_is_not_stale(tmp_path: Path) -> None:
    finished(tmp_path, TASK)
    found = looked(tmp_path)
    assert found.ok
    assert said(one(found), "recipe") == []


def test_a_run_that_chose_to_depart_is_not_stale(tmp_path: Path) -> None:
    finished(tmp_path, TASK, ["train.epochs=12", "mix=null"])
    assert looked(tmp_path).ok


def test_a_published_value_that_was_corrected_is_stale(tmp_path: Path, corrected: Any) -> None:
    runs = tmp_path / "runs"
    finished(runs, TASK)
    finished(runs, TASK, ["train.epochs=12"], seed=1)
    finished(runs, TASK, ["optim.layer_decay=0.7"], seed=2)
    corrected(TASK, "layer_decay: 0.65", "layer_decay: 0.7")
    found = looked(runs)
    change = ("recipe imagenet-finetune changed since: optim.layer_decay 0.65 -> 0.7", True)
    # The third has the value of today, yet its footnote names the one of then.
    assert [said(run, "recipe") for run in found.runs.values()] == [[change]] * 3
    assert [list(entry.overrides) for entry in found.redo] == [
        [],
        ["train.epochs=12.0"],
        ["optim.layer_decay=0.7"],
    ]
    assert all(entry.task == TASK and entry.backbone == BASE.spec for entry in found.redo)


def test_a_section_that_the_protocol_lost(tmp_path: Path, corrected: Any) -> None:
    runs = tmp_path / "runs"
    finished(runs, TASK)
    corrected(TASK, "mix: {mixup: 0.8, cutmix: 1.0, prob: 1.0, switch_prob: 0.5}", "mix: null")
    ((text, stale),) = said(one(looked(runs)), "recipe")
    assert stale
    assert "mix.mixup 0.8 -> none" in text


def test_notes_and_expectations_of_a_recipe_are_no_change(tmp_path: Path, corrected: Any) -> None:
    runs = tmp_path / "runs"
    finished(runs, TASK)
    corrected(TASK, "value: 83.6", "value: 83.7")
    corrected(TASK, "root: imagenet", "root: ilsvrc")
    assert looked(runs).ok


class TestVariations:
    """Recipes that vary a protocol: whether a difference was asked for is in the command line."""

    NAME = "demo/imagenet-knn"

    def state(self, root: Path, **changes: Any) -> recipes.RecipeState:
        return recipes.state(read_result(finished(root, self.NAME, ["k=[5]", "headline_k=5"], **changes)))

    def test_asked_for(self, tmp_path: Path) -> None:
        found = self.state(tmp_path)
        assert found.findings == ()
        assert found.asked_for == ("k=[5]", "headline_k=5")

    def test_not_asked_for(self, tmp_path: Path) -> None:
        ((finding),) = self.state(tmp_path, command=["mae-bench", "run", "--task", self.NAME]).findings
        assert finding.stale
        assert finding.text.startswith("recipe demo/imagenet-knn changed since: k 5 -> 5, 10, 20")

    def test_started_by_a_program(self, tmp_path: Path) -> None:
        found = self.state(tmp_path, command=["experiment.py"])
        ((finding),) = found.findings
        assert not finding.stale
        assert finding.text.endswith("whether it was asked to or the recipe changed since is not recorded")
        assert found.asked_for == ("k=[5]", "headline_k=5")

    def test_its_protocol_changed(self, tmp_path: Path, corrected: Any) -> None:
        result = read_result(finished(tmp_path / "runs", self.NAME))
        corrected("imagenet-knn", "temperature: 0.07", "temperature: 0.1")
        ((finding),) = recipes.state(result).findings
        assert finding.text == "recipe imagenet-knn changed since: temperature 0.07 -> 0.1"


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        (
            ["mae-bench", "run", "--task", "t", "--backbone", "x=1", "a=1", "--force", "b.c=2"],
            ["a=1", "b.c=2"],
        ),
        (["/x/__main__.py", "pretrain", "--recipe=t", "seed=3", "a=1"], ["a=1"]),
        (["mae-bench", "demo"], []),
        (["mae-bench", "run", "--task", "mine.yaml", "a=1"], None),
        (["mae-bench", "suite", "paper"], None),
        (["train.py", "run"], None),
        ([], None),
    ],
)
def test_overrides_of_a_command_line(command: list[str], overrides: list[str] | None) -> None:
    assert recipes.overrides_of(command, {}) == overrides


def test_a_recipe_of_ones_own_is_not_checked(tmp_path: Path) -> None:
    finished(tmp_path, TASK, recipe="mine", protocol=None)
    found = looked(tmp_path)
    assert found.ok
    assert "recipe: it is a file of your own, not of the catalogue" in one(found).unchecked
    assert found.redo == ()


def test_settings_that_are_not_valid_any_more_are_stale(tmp_path: Path) -> None:
    config = settings.plain(recipe.resolve(TASK, [], {"backbone": BASE.spec}).config) | {"gone": 1}
    finished(tmp_path, TASK, config=config)
    ((text, stale),) = said(one(looked(tmp_path)), "recipe")
    assert stale
    assert text.startswith("its configuration is not valid any more: gone: unknown key")


def test_what_a_classifier_departs_in_is_not_the_recipe_of_its_evaluation(tmp_path: Path) -> None:
    own = {"key": "data.name", "published": "imagenet-robustness", "ours": "generated-robustness"}
    of_training = {"key": "mix.mixup", "published": 0.8, "ours": None}
    named = {"key": "data.name", "published": "imagenet-1k", "ours": "generated-shapes"}
    folder = finished(tmp_path, "demo/imagenet-robustness", deviations=[own, named, of_training])
    assert recipes.state(read_result(folder)).findings == ()


# ---------------------------------------------------------------- the weights


def pretrained(root: Path) -> tuple[Path, BackboneRecord]:
    """A finished pretraining, and how a result tells of its encoder."""
    folder = finished(root, "demo/mae", like=None, folder="mae")
    metadata = {"arch": "vit_tiny_patch16_224", "image_size": (32, 32), "channels": 3, "mean": [0.5] * 3}
    save_encoder(
        folder / "encoder.safetensors",
        ENCODER,
        {**metadata, "std": [0.5] * 3, "model_args": {}, "pretraining": None},
    )
    facts = {"recipe_hash": read_result(folder).recipe_hash}
    record = BASE.model_copy(update={"spec": f"run:{folder}", "pretraining": facts})
    return folder, record


def transferred(root: Path, record: BackboneRecord) -> Path:
    folder = finished(root, "demo/imagenet-knn", like=record, folder="knn")
    write_json_atomic(folder / "load_report.json", {"digest_before": digest(ENCODER), "arch": record.arch})
    return folder


def test_the_digest_of_a_file_is_that_of_its_tensors(tmp_path: Path) -> None:
    more = {"z": torch.tensor(True), "c": torch.empty(0, 3), "b": torch.tensor([1, -2], dtype=torch.int8)}
    save_file({**ENCODER, **more}, tmp_path / "x.safetensors", {"about": "y"})
    assert weights.tensors_digest(tmp_path / "x.safetensors") == digest({**ENCODER, **more})


@pytest.mark.parametrize("damage", ["cut", "header", "words", "gone", "outside"])
def test_a_damaged_file_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ENCODER, path)
    content = path.read_bytes()
    beyond = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    changed = {
        "cut": content[:-3],
        "header": b"\xff" * 8 + content[8:],
        "words": b"not at all",
        "outside": struct.pack("<Q", len(beyond)) + beyond,
    }
    path.unlink() if damage == "gone" else path.write_bytes(changed[damage])
    with pytest.raises(MaeBenchError, match=r"x\.safetensors (is no whole safetensors file|cannot be read)"):
        weights.tensors_digest(path)


def test_weights_that_did_not_change(tmp_path: Path) -> None:
    _, record = pretrained(tmp_path)
    transferred(tmp_path, record)
    found = looked(tmp_path, "demo-transfer")
    assert found.ok
    assert not [reason for reason in one(found).unchecked if reason.startswith("weights")]


def test_an_encoder_that_changed_is_stale_and_made_again_in_its_place(tmp_path: Path) -> None:
    folder, record = pretrained(tmp_path)
    run = transferred(tmp_path, record)
    save_file({"a.bias": torch.zeros(4)}, folder / "encoder.safetensors")
    found = looked(tmp_path, "demo-transfer")
    ((text, stale),) = said(one(found), "weights")
    assert stale
    assert text.startswith(f"{folder / 'encoder.safetensors'} changed since: {digest(ENCODER)[:12]} -> ")
    (entry,) = found.redo
    assert (entry.task, entry.name) == ("demo/imagenet-knn", "knn")
    assert entry.replaces == read_result(run).finished


def test_a_pretraining_that_was_begun_afresh(tmp_path: Path) -> None:
    folder, record = pretrained(tmp_path)
    transferred(tmp_path, record)
    (folder / "result.json").unlink()
    ((text, stale),) = said(one(looked(tmp_path, "demo-transfer")), "weights")
    assert (text, stale) == (f"{folder} was begun afresh and has not finished", True)


def test_a_pretraining_by_another_recipe(tmp_path: Path) -> None:
    folder, record = pretrained(tmp_path)
    transferred(tmp_path, record.model_copy(update={"pretraining": {"recipe_hash": "0" * 64}}))
    now = read_result(folder).recipe_hash[:8]
    ((text, _),) = said(one(looked(tmp_path, "demo-transfer")), "weights")
    assert text == f"{folder} was pretrained by recipe 00000000 then, and holds one of {now} now"


def test_a_pretraining_whose_recipe_changed_is_a_note(tmp_path: Path, corrected: Any) -> None:
    _, record = pretrained(tmp_path / "runs")
    transferred(tmp_path / "runs", record)
    corrected("mae-vit-base", "mask_ratio: 0.75", "mask_ratio: 0.8")
    found = looked(tmp_path / "runs", "demo-transfer")
    assert said(one(found), "recipe") == [
        ("of the pretraining: recipe mae-vit-base changed since: mask_ratio 0.75 -> 0.8", False)
    ]
    assert found.ok


def test_runs_that_moved_are_found_below_the_runs_folder(tmp_path: Path) -> None:
    _, record = pretrained(tmp_path)
    transferred(tmp_path, record.model_copy(update={"spec": "run:/elsewhere/runs/mae"}))
    found = one(looked(tmp_path, "demo-transfer"))
    assert not any(reason.startswith("weights") for reason in found.unchecked)
    assert said(found, "weights") == []


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (BASE.spec, "weights: they are kept by timm, and only loading them would tell"),
        ("hf:facebook/vit-mae-base", "weights: they are kept by the Hugging Face hub, and only loading them would tell"),
        ("mae-vit-base", "weights: mae-vit-base is a published backbone, kept elsewhere"),
        ("run:gone", "weights: gone is not here any more, or has no encoder.safetensors"),
        ("random:vit_base_patch16_224", None),
    ],
)  # fmt: skip
def test_weights_that_are_not_checked_say_why(tmp_path: Path, spec: str, reason: str | None) -> None:
    finished(tmp_path, TASK, like=BASE.model_copy(update={"spec": spec}), folder="a")
    found = one(looked(tmp_path))
    assert [text for text in found.unchecked if text.startswith("weights")] == ([reason] if reason else [])


def test_a_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ENCODER, path)
    record = BASE.model_copy(update={"spec": f"file:{path}?arch=vit_base_patch16_224"})
    folder = finished(tmp_path / "runs", TASK, like=record)
    write_json_atomic(folder / "load_report.json", {"digest_before": digest(ENCODER)})
    assert said(one(looked(tmp_path / "runs")), "weights") == []
    save_file({"a.bias": torch.zeros(4)}, path)
    ((_, stale),) = said(one(looked(tmp_path / "runs")), "weights")
    assert stale
    write_json_atomic(folder / "load_report.json", {"digest_before": "a", "converted": [{"name": "b"}]})
    run = one(looked(tmp_path / "runs"))
    assert f"weights: {path} is there; only loading it would tell if it changed" in run.unchecked
    path.unlink()
    assert said(one(looked(tmp_path / "runs")), "weights") == [(f"{path} is not there any more", False)]


def test_a_classifier_and_its_evaluation(tmp_path: Path, corrected: Any) -> None:
    runs = tmp_path / "runs"
    classifier = finished(runs, TASK)
    (classifier / "model.safetensors").write_bytes(b"weights")
    made = read_result(classifier)
    facts = {
        "run": str(classifier), "recipe": TASK, "protocol": TASK, "recipe_hash": made.recipe_hash, "task": TASK,
        "dataset": "imagenet-1k", "seed": 0, "digest": sha256_file(classifier / "model.safetensors"),
    }  # fmt: skip
    run = BASE.model_copy(update={"spec": f"run:{classifier}"})
    finished(
        runs, "imagenet-robustness", like=run, backbone=BASE.model_dump(), details={"classifier": facts},
        folder="robust",
    )  # fmt: skip
    found = looked(runs, "robustness-finetune")
    assert found.ok
    (classifier / "model.safetensors").write_bytes(b"others")
    ((text, _),) = said(looked(runs, "robustness-finetune").runs["robust"], "weights")
    assert "model.safetensors changed since" in text
    (classifier / "model.safetensors").write_bytes(b"weights")
    corrected(TASK, "layer_decay: 0.65", "layer_decay: 0.7")
    found = looked(runs, "robustness-finetune")
    assert said(found.runs["robust"], "weights") == [
        (f"the classifier's run is stale itself: {classifier.relative_to(runs).as_posix()}", True)
    ]
    first, second = found.entries()
    assert (first.task, first.backbone) == (TASK, BASE.spec)
    assert (second.task, second.after, second.backbone) == ("imagenet-robustness", TASK, BASE.spec)


# ---------------------------------------------------------------- the data


def test_data_that_is_here_is_compared(tmp_path: Path) -> None:
    data = tmp_path / "data"
    recipe_file = tmp_path / "knn.yaml"
    recipe_file.write_text(
        f"extends: {resources.recipes()['demo/imagenet-knn']}\n"
        "data: {name: imagenet-1k, root: few, source: folder, classes: 2}\n"
    )
    for split in ("train", "val"):
        for name in ("a", "b"):
            (data / "few" / split / name).mkdir(parents=True)
            (data / "few" / split / name / "1.png").touch()
    now = api.data_fingerprint(str(recipe_file), data_root=data).digest
    config = settings.plain(recipe.resolve(str(recipe_file), [], {"backbone": BASE.spec}).config)
    facts = {"name": "imagenet-1k", "fingerprint": now, "train_images": 2, "classes": 2}
    runs = tmp_path / "runs"
    finished(runs, "imagenet-finetune", config=config, dataset=facts, protocol="knn", recipe="knn")
    run = one(looked(runs, data_root=data))
    assert said(run, "data") == []
    assert not any(reason.startswith("data") for reason in run.unchecked)
    (data / "few" / "val" / "a" / "2.png").touch()
    ((text, stale),) = said(one(looked(runs, data_root=data)), "data")
    assert stale
    assert text.startswith(f"data of imagenet-1k changed since: fingerprint {now[:12]} -> ")
    shutil.rmtree(data / "few" / "val")
    run = one(looked(runs, data_root=data))
    assert any(
        reason.startswith("data: the data of imagenet-1k has no fingerprint") for reason in run.unchecked
    )


def test_data_that_is_not_here_is_not_checked_and_not_drawn(tmp_path: Path) -> None:
    finished(tmp_path / "runs", "demo/imagenet-knn")
    found = one(looked(tmp_path / "runs", "demo-transfer", data_root=tmp_path / "data"))
    assert f"data: no data here ({tmp_path / 'data' / 'generated/shapes'})" in found.unchecked
    (tmp_path / "data/generated/shapes").mkdir(parents=True)
    found = one(looked(tmp_path / "runs", "demo-transfer", data_root=tmp_path / "data"))
    assert "data: the generated world 'shapes' is not drawn here as this code draws it" in found.unchecked
    assert list((tmp_path / "data/generated/shapes").iterdir()) == []


# ---------------------------------------------------------------- the report


def test_runs_without_outcomes_and_runs_that_were_repeated(tmp_path: Path) -> None:
    finished(tmp_path, TASK, folder="a", finished="2026-01-01T00:00:00+00:00")
    finished(tmp_path, TASK, folder="b", finished="2026-01-03T00:00:00+00:00")
    (tmp_path / "b" / "outcomes.npz").touch()
    found = looked(tmp_path)
    (cell,) = found.tables[0].cells
    assert (cell.runs, cell.superseded) == (("b",), ("a",))
    assert said(one(found), "outcomes") == []
    (tmp_path / "b" / "outcomes.npz").unlink()
    assert len(said(one(looked(tmp_path)), "outcomes")) == 1


def test_runs_that_did_not_finish_or_cannot_be_read_are_named(tmp_path: Path) -> None:
    from mae_bench import yamlfile

    for name, task in (("begun", TASK), ("other", "coco-vit-fpn")):
        (tmp_path / name).mkdir()
        config = settings.plain(recipe.resolve(task, [], {"backbone": BASE.spec}).config)
        (tmp_path / name / "config.yaml").write_text(yamlfile.dump(config))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "result.json").write_text("{")
    found = looked(tmp_path)
    config_file = tmp_path / "begun" / "config.yaml"
    assert found.tables[0].unfinished == (
        f"begun: mae-bench run --task {config_file} --runs {tmp_path} --name begun",
    )
    assert [problem.split(" is ")[0] for problem in found.problems] == [str(tmp_path / "broken/result.json")]
    assert found.ok


def test_an_imported_run_is_not_checked(tmp_path: Path) -> None:
    finished(tmp_path, TASK, deviations=[{"key": "imported", "published": None, "ours": "wandb"}], config={})
    found = looked(tmp_path)
    assert found.ok
    assert one(found).unchecked == ("recipe, weights and data: the run was imported from elsewhere",)


EVIL = "a|`b`\x1b[31m<script>"


def test_every_format_takes_strangers_names(tmp_path: Path) -> None:
    record = BASE.model_copy(update={"spec": f"run:{EVIL}"})
    finished(tmp_path, TASK, like=record, folder="evil`|name")
    found = looked(tmp_path)
    terminal, markdown = tell(found, "terminal"), tell(found, "markdown")
    assert "\x1b" not in terminal
    assert r"\x1b[31m" in terminal
    row = next(line for line in markdown.splitlines() if line.startswith("| `"))
    assert row.replace(r"\|", "").count("|") == 6
    assert "``evil`\\|name``" in row
    values = json.loads(tell(found, "json"))
    assert values["runs"]["evil`|name"]["stands_on"]["weights"].startswith(f"run:{EVIL}")
    with pytest.raises(
        MaeBenchError, match="an audit is written as terminal, markdown or json, not as latex"
    ):
        tell(found, "latex")


def invoke(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["table", *words])


def test_the_command_line(tmp_path: Path, corrected: Any) -> None:
    runs = tmp_path / "runs"
    finished(runs, TASK)
    answer = invoke("mae-table3", "--audit", "--runs", str(runs), "--format", "json")
    assert answer.exit_code == 0
    assert json.loads(answer.stdout)["ok"]
    corrected(TASK, "layer_decay: 0.65", "layer_decay: 0.7")
    due = tmp_path / "due.yaml"
    answer = invoke("mae-table3", "--audit", "--runs", str(runs), "--save", str(due))
    assert answer.exit_code == 1
    assert "  ! recipe imagenet-finetune changed since: optim.layer_decay 0.65 -> 0.7" in answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("1 run in 1 cell, 1 stale; ")
    (entry,) = runlist.read(due).entries
    assert (entry.task, entry.replaces) == (TASK, "2026-01-02T00:00:00+00:00")


def test_options_of_an_audit_alone_are_refused_without_it(tmp_path: Path) -> None:
    answer = invoke("mae-table3", "--save", "x.yaml")
    assert (answer.exit_code, answer.stderr) == (2, "error: --save belongs to --audit\n")


def test_all_tables_at_once(tmp_path: Path) -> None:
    finished(tmp_path, TASK)
    found = api.audit(runs_root=tmp_path, data_root=tmp_path / "no")
    assert [table.id for table in found.tables] == list(resources.tables())
    assert {table.id for table in found.tables if table.cells} >= {"mae-table3"}
