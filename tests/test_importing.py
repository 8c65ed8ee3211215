"""Imports from wandb, by a recorded answer of its API: the mapping of docs/wandb.md, word for word."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mae_bench import api, cli, tables, tracking, yamlfile
from mae_bench.errors import MaeBenchError
from mae_bench.importing import from_wandb
from mae_bench.importing.from_wandb import Imported, import_project
from mae_bench.results import Result, read_result, scan
from mae_bench.settings import flatten
from tests.sample_runs import store, values
from tests.wandb_api import RECORDED, Api

PAGE = Path(__file__).resolve().parent.parent / "docs/wandb.md"


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    (block,) = re.findall(r"```yaml\n# mapping\.yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "mapping.yaml"
    path.write_text(block, encoding="utf-8")
    return path


def changed(path: Path, **changes: Any) -> Path:
    """The mapping with other values at its root; None takes a key away."""
    content = yamlfile.load(path).values | changes
    path.write_text(yamlfile.dump({key: value for key, value in content.items() if value is not None}))
    return path


def run(path: Path, root: Path, answer: dict[str, Any] | None = None, **options: Any) -> Imported:
    return import_project("team/mae", path, root, api=Api(answer), **options)


def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def test_the_mapping_of_the_page_makes_run_folders(mapping: Path, tmp_path: Path) -> None:
    done = run(mapping, tmp_path / "runs")
    assert [Path(folder).relative_to(tmp_path / "runs").as_posix() for folder in done.folders] == [
        "wandb/team/mae/a1b2c3d4",
        "wandb/team/mae/b2c3d4e5",
        "wandb/team/mae/c3d4e5f6",
    ]
    result = read_result(done.folders[0])
    assert (result.task, result.recipe, result.protocol) == (
        "imagenet-finetune",
        "wandb/team/mae",
        "imagenet-finetune",
    )
    assert result.metrics == pytest.approx({"top1": 83.6, "top5": 93.6}, abs=1e-9)
    assert (result.seed, result.epochs, result.batch) == (0, 100.0, 1024)
    assert (result.started, result.finished) == ("2025-03-01T10:00:00+00:00", "2025-03-01T20:00:10+00:00")
    assert result.wall_clock_s == 36010
    assert result.notes == ["trained with our old code", "imported from wandb team/mae/a1b2c3d4"]
    assert result.units["top1"].unit == "%"
    assert flatten(result.config)["foreign.optim.lr"] == 0.004
    assert read_result(done.folders[1]).started == "2025-03-02T10:00:00+00:00"  # without a zone: UTC


def test_what_nobody_recorded_says_so(mapping: Path, tmp_path: Path) -> None:
    result = read_result(run(mapping, tmp_path / "runs").folders[0])
    assert result.backbone is not None
    assert result.dataset is not None
    assert result.backbone.digest == "not recorded: timm:vit_base_patch16_224.mae"
    assert result.dataset.fingerprint == "not recorded: imagenet-1k"
    assert (result.precision, result.steps, result.hardware, result.versions) == (
        "not recorded",
        None,
        {},
        {},
    )
    assert [(entry.key, entry.published, entry.ours) for entry in result.deviations] == [
        ("imported", None, "imported from wandb team/mae")
    ]


def test_a_known_departure_is_one(mapping: Path, tmp_path: Path) -> None:
    short = read_result(run(mapping, tmp_path / "runs").folders[2])
    assert [(entry.key, entry.published, entry.ours) for entry in short.deviations][:1] == [
        ("train.epochs", 100.0, 50)
    ]


def test_curves_come_along(mapping: Path, tmp_path: Path) -> None:
    folder = Path(run(mapping, tmp_path / "runs").folders[0])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 0, "epoch": 0, "loss": 3.0, "lr": 0.001}
    assert lines[1]["step"] == 49
    assert lines[1]["eval"] == pytest.approx({"top1": 79.6, "top5": 93.6}, abs=1e-9)
    assert len(lines) == 6
    assert json.loads((folder / "wandb.json").read_text())["url"].endswith("/runs/a1b2c3d4")
    assert yamlfile.load(folder / "config.yaml").values == read_result(folder).config


def test_what_does_not_fit_is_named(mapping: Path, tmp_path: Path) -> None:
    assert run(mapping, tmp_path / "runs").skipped == [
        "ft-mae-crashed (d4e5f6a7): the mapping does not ask for it: its state is crashed",
        "ft-other (e5f6a7b8): model is 'resnet50' in its config, for which the mapping has no value",
        "debug (f6a7b8c9): the mapping does not ask for it: its name does not fit ft-*",
        "ft-mae-nan (a7b8c9d0): its summary has no finite number as 'val/acc1'",
        "ft-mae-unfinished (b8c9d0e1): its summary has no 'val/acc1'",
    ]


def test_importing_again_changes_nothing_without_force(mapping: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    folder = Path(run(mapping, root).folders[0])
    (folder / "metrics.jsonl").write_text("mine\n")
    again = run(mapping, root)
    assert (again.folders, len(again.present)) == ([], 3)
    assert (folder / "metrics.jsonl").read_text() == "mine\n"
    assert len(run(mapping, root, force=True).folders) == 3
    assert (folder / "metrics.jsonl").read_text() != "mine\n"
    shutil.move(folder, root / "elsewhere")
    assert str(root / "elsewhere") in run(mapping, root).present


def test_an_import_that_was_cut_off_is_done_again(mapping: Path, tmp_path: Path) -> None:
    folder = Path(run(mapping, tmp_path / "runs").folders[0])
    (folder / "result.json").unlink()
    assert run(mapping, tmp_path / "runs").folders == [str(folder)]


def test_no_table_takes_them_for_comparable(mapping: Path, tmp_path: Path) -> None:
    run(mapping, tmp_path / "runs")
    store(tmp_path / "runs", "own", 83.0)
    table = tables.make_table("mae-table3", tmp_path / "runs")
    ours = {row.label: row.cells["vit_b"] for row in table.rows if row.ours}
    foreign = {label: cell for label, cell in ours.items() if "imported" in label}
    assert sorted((cell.n, cell.rank) for cell in foreign.values()) == [(1, 0), (2, 0)]
    assert sorted(cell.departures for cell in foreign.values()) == [
        "50 of 100 epochs, imported from wandb team/mae, where other settings are not recorded",
        "imported from wandb team/mae, where other settings are not recorded",
    ]
    assert all(cell.marks for cell in foreign.values())
    assert [cell.departures for label, cell in ours.items() if label not in foreign] == [""]
    assert not any("imported from wandb team/mae/" in remark for remark in table.remarks)


def test_runs_that_differ_in_any_setting_never_average(mapping: Path, tmp_path: Path) -> None:
    answer = recorded()
    answer["runs"][1]["config"]["optim"]["lr"] = 0.001
    first, second = (
        read_result(folder).recipe_hash for folder in run(mapping, tmp_path / "a", answer).folders[:2]
    )
    assert first != second
    first, second = (read_result(folder).recipe_hash for folder in run(mapping, tmp_path / "b").folders[:2])
    assert first == second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": {}}, r"metric: unknown key; did you mean|metric: unknown key \("),
        ({"metrics": {"top-1": {"key": "a"}}}, r"metrics\.top-1: imagenet-finetune has no such metric; did you mean 'top1'"),
        ({"config": {"train.epoch": 1}}, r"config\.train\.epoch: imagenet-finetune has no such setting; did you mean 'train\.epochs'"),
        ({"recipe": "imagenet-finetun"}, "imagenet-finetune"),
        ({"seed": {"config": "a", "summary": "b"}}, "give config or summary, the one place"),
        ({"metrics": {}}, "metrics: should have at least 1"),
    ],
)  # fmt: skip
def test_a_faulty_mapping_is_told(mapping: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message) as caught:
        run(changed(mapping, **changes), tmp_path / "runs")
    assert "mapping.yaml" in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": {"config": "model"}}, r"seed: should be a whole number, not \"mae_vit_base\""),
        ({"epochs": {"config": "length"}}, "its config has no 'length'"),
        ({"batch": {"summary": "nothing"}}, "its summary has no 'nothing'"),
    ],
)
def test_a_run_with_other_values_is_skipped(
    mapping: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    done = run(changed(mapping, **changes), tmp_path / "runs")
    assert done.folders == []
    assert any(re.search(message, skipped) for skipped in done.skipped)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Could not find project mae"), "there is no such project, or it is not open to you"),
        (RuntimeError("No API key configured. Use `wandb login` to log in."), "run 'wandb login'"),
        (RuntimeError("HTTP 429: rate limit exceeded"), "try again in a few minutes"),
        (OSError("connection\nrefused"), r"wandb does not answer as it should \(connection refused\)"),
    ],
)
def test_faults_of_the_service_are_one_sentence(tmp_path: Path, error: Exception, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message) as caught:
        import_project("team/mae", None, tmp_path, api=Api(failing=error))
    assert "\n" not in str(caught.value)


def test_another_project_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="team/other: there is no such project"):
        import_project("team/other", None, tmp_path, api=Api())


@pytest.mark.parametrize("project", ["", "a/b/c", "/b", "a/"])
def test_a_project_has_an_owner_and_a_name(tmp_path: Path, project: str) -> None:
    with pytest.raises(MaeBenchError, match="write ENTITY/PROJECT"):
        import_project(project, None, tmp_path, api=Api())


# ---------------------------------------------------------------- runs of our own


def own(result: Result, id: str = "0123456789abcdef") -> dict[str, Any]:
    """What wandb answers of a run that mae-bench logged."""
    answer = recorded()
    model = copy.deepcopy(answer["runs"][0])
    history = [
        {"_step": 20, "_timestamp": 1.0, "loss": 2.5, "lr": 0.1},
        {"_step": 40, "_timestamp": 2.0, "loss": 1.5, "lr": 0.1, "eval/top1": 83.6, "eval/raw_top1": 80.0},
        {"_step": 41, "per_class": {"_type": "table-file"}},
    ]
    summary = tracking.summary_of(result) | {"_runtime": 3}
    answer["runs"] = [model | {"id": id, "config": result.config, "summary": summary, "history": history}]
    return answer


def test_our_own_runs_need_no_mapping(tmp_path: Path) -> None:
    original = store(tmp_path / "there", "run", 83.6, details={"word": "für"})
    done = import_project("team/mae", None, tmp_path / "runs", api=Api(own(read_result(original))))
    (folder,) = map(Path, done.folders)
    assert (folder / "result.json").read_bytes() == (original / "result.json").read_bytes()
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 20, "loss": 2.5, "lr": 0.1},
        {"step": 40, "loss": 1.5, "lr": 0.1},
        {"step": 40, "eval": {"top1": 83.6, "raw_top1": 80.0}},
    ]
    shutil.copytree(original, tmp_path / "runs" / "own")
    assert len(scan(tmp_path / "runs").runs) == 1


def test_the_original_counts_as_there(tmp_path: Path) -> None:
    folder = store(tmp_path, "run", 83.6)
    (folder / "wandb.json").write_text('{"id": "0123456789abcdef"}')
    done = import_project("team/mae", None, tmp_path, api=Api(own(read_result(folder))))
    assert (done.folders, done.present) == ([], [str(folder)])


def test_without_a_mapping_others_are_named(tmp_path: Path) -> None:
    done = import_project("team/mae", None, tmp_path, api=Api())
    assert done.folders == []
    assert done.skipped[0] == (
        "ft-mae-s0 (a1b2c3d4): mae-bench did not log it; say with --mapping what its names mean"
    )
    answer = own(Result.model_validate(values(config={"recipe": "x", "train": {}})))
    del answer["runs"][0]["summary"][tracking.RESULT_KEY]
    assert "did not finish" in import_project("team/mae", None, tmp_path, api=Api(answer)).skipped[0]


def test_a_damaged_record_is_skipped(tmp_path: Path) -> None:
    answer = own(Result.model_validate(values()))
    answer["runs"][0]["summary"][tracking.RESULT_KEY] = '{"schema": 1, "ta'
    done = import_project("team/mae", None, tmp_path, api=Api(answer))
    assert "is damaged, it is not complete JSON" in done.skipped[0]
    assert list(tmp_path.iterdir()) == []


def test_names_from_there_stay_inside_the_folder(mapping: Path, tmp_path: Path) -> None:
    answer = recorded()
    answer["runs"][0]["id"] = "../../../up"
    (folder,) = (Path(one) for one in run(mapping, tmp_path / "runs", answer).folders if "up" in one)
    assert folder.resolve().is_relative_to(tmp_path / "runs" / "wandb" / "team" / "mae")


def test_the_command_says_what_became_of_each(
    mapping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = import_project
    monkeypatch.setattr(
        from_wandb, "import_project", lambda *given, **options: asked(*given, **options, api=Api())
    )
    arguments = ["import", "wandb", "team/mae", "--mapping", str(mapping), "--runs", str(tmp_path / "runs")]
    answer = CliRunner().invoke(cli.app, arguments)
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[-1] == "3 imported, 0 there already, 5 skipped"
    assert "skipped: ft-other" in answer.stderr
    assert len(api.load_results(tmp_path / "runs")) == 3


def test_the_stand_in_answers_as_the_real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded values given to wandb's own class, as its server would, which asks no network then."""
    public = pytest.importorskip("wandb.apis.public", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for entry, fake in zip(recorded()["runs"], Api().runs("team/mae", "", 1), strict=True):
        attributes = {
            "name": entry["id"],
            "displayName": entry["name"],
            "state": entry["state"],
            "tags": entry["tags"],
            "createdAt": entry["created_at"],
            "config": json.dumps({key: {"value": value} for key, value in entry["config"].items()}),
            "summaryMetrics": json.dumps(entry["summary"]),
        }
        real = public.Run(None, "team", "mae", entry["id"], attributes, lazy=False)
        for name in ("id", "name", "state", "tags", "created_at", "config", "entity", "project"):
            assert getattr(real, name) == getattr(fake, name), name
        assert from_wandb._summary(real) == from_wandb._summary(fake) == entry["summary"]
        assert callable(real.scan_history)
