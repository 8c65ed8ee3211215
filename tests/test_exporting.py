"""All runs as one table of data: columns, types, both files, and their description in the docs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import mae_bench
from mae_bench import cli, exporting
from mae_bench.errors import MaeBenchError
from mae_bench.results import BackboneRecord, DatasetRecord, Result, scan
from tests.sample_runs import deviation, store

PAGE = Path(__file__).resolve().parent.parent / "docs/results.md"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    store(
        root,
        "a/fine, tuned",
        deviations=[deviation("train.epochs", 100, 12.5), deviation("optim.betas", [0.9, 0.95], None)],
        notes=['says "so"', "=1+1"],
        config={
            "train": {"micro_batch": 32, "ema": None},
            "augment": True,
            "lr": 1,
            "data": {"size": [8, 8]},
        },
        backbone={"pretraining": {"method": "MAE", "epochs": 1600}},
        details={"per_class": {"straße": {"iou": 1.5}}},
    )
    store(
        root,
        "b",
        metrics={"miou": 40.25},
        units={"miou": {"unit": "", "higher_is_better": True, "label": "mIoU"}},
        seed=1,
        steps=None,
        backbone=None,
        config={"train": {"micro_batch": "auto", "ema": 0.5}, "augment": False, "lr": 0.5},
    )
    (root / "half").mkdir()
    (root / "half" / "result.json").write_text('{"schema"')
    return root


def exported(root: Path, name: str, **options: bool) -> Path:
    return Path(mae_bench.export_results(root.parent / name, runs_root=root, **options))


def test_a_csv_is_read_in_one_line(root: Path) -> None:
    frame = pd.read_csv(exported(root, "results.csv"))
    assert frame["folder"].tolist() == ["a/fine, tuned", "b"]
    assert frame["schema"].tolist() == [exporting.SCHEMA] * 2
    assert frame["seed"].tolist() == [0, 1]
    assert frame.loc[0, "metric.top1"] == 83.6
    assert frame.loc[1, "metric.miou"] == 40.25
    assert frame.loc[0, "notes"] == 'says "so"\n=1+1'
    assert frame.loc[0, "departures"] == (
        "train.epochs: 12.5 (published 100)\noptim.betas: null (published [0.9, 0.95])"
    )
    assert json.loads(frame.loc[0, "details"]) == {"per_class": {"straße": {"iou": 1.5}}}
    assert frame.loc[0, "pretraining.method"] == "MAE"
    assert frame.loc[0, "started"] == "2026-01-01T00:00:00Z"
    assert frame["backbone"].isna().tolist() == [False, True]


def test_columns_come_in_the_documented_order(root: Path) -> None:
    names = list(exporting.as_frame(scan(root)).columns)
    fixed = ["schema", *exporting.COLUMNS, *exporting.MORE_COLUMNS]
    assert names[: len(fixed)] == fixed
    free = names[len(fixed) :]
    order = [
        next(i for i, prefix in enumerate(exporting.PREFIXES) if name.startswith(prefix)) for name in free
    ]
    assert order == sorted(order)
    assert set(order) == set(range(len(exporting.PREFIXES)))
    config = [name for name in free if name.startswith("config.")]
    assert config == sorted(config)


def test_types_survive_in_parquet(root: Path) -> None:
    frame = pd.read_parquet(exported(root, "results.parquet"))
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert types["steps"] == "Int64"
    assert frame["steps"].isna().tolist() == [False, True]
    assert types["config.augment"] == "boolean"
    assert frame["config.augment"].tolist() == [True, False]
    assert types["metric.top1"] == types["config.lr"] == types["config.train.ema"] == "float64"
    assert types["started"] == "datetime64[us, UTC]"
    assert frame.loc[0, "finished"] == pd.Timestamp("2026-01-02", tz="UTC")
    assert types["config.train.micro_batch"] == "string"
    assert frame["config.train.micro_batch"].tolist() == ["32", "auto"]
    assert frame.loc[0, "config.data.size"] == "[8, 8]"
    assert frame.loc[1, "config.data.size"] is pd.NA


def test_numbers_too_large_for_a_column_of_counts_are_text(tmp_path: Path) -> None:
    store(tmp_path, "a", config={"big": 2**70, "small": 1})
    store(tmp_path, "b", seed=1, config={"big": 0.5, "small": 2})
    frame = exporting.as_frame(scan(tmp_path))
    assert frame["config.big"].tolist() == [str(2**70), "0.5"]
    assert str(frame["config.small"].dtype) == "Int64"


def test_the_long_form_has_a_row_a_metric(root: Path) -> None:
    frame = pd.read_parquet(exported(root, "long.parquet", long=True))
    assert list(frame.columns) == ["schema", *exporting.COLUMNS, *exporting.LONG_COLUMNS]
    assert list(zip(frame["folder"], frame["metric"], frame["value"], frame["unit"], strict=True)) == [
        ("a/fine, tuned", "top1", 83.6, "%"),
        ("a/fine, tuned", "top5", 96.5, "%"),
        ("b", "miou", 40.25, ""),
    ]
    assert frame["higher_is_better"].tolist() == [True] * 3


def test_it_says_the_same_as_load_results(root: Path) -> None:
    wide = exporting.as_frame(scan(root))
    ours = mae_bench.load_results(root)
    for name in exporting.COLUMNS:
        left, right = wide[name], ours[name]
        if name in ("started", "finished"):
            right = pd.to_datetime(right, utc=True)
        assert left.isna().tolist() == right.isna().tolist(), name
        assert left.dropna().tolist() == right.dropna().tolist(), name


def test_no_runs_make_a_file_with_the_columns(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    frame = pd.read_csv(exported(tmp_path / "runs", "none.csv"))
    assert list(frame.columns) == ["schema", *exporting.COLUMNS, *exporting.MORE_COLUMNS]
    assert len(frame) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("results.xlsx", r"results\.xlsx: the name of the file must end in \.csv or \.parquet"),
        ("results", "must end in"),
    ],
)
def test_other_endings_are_refused(root: Path, name: str, message: str) -> None:
    with pytest.raises(MaeBenchError, match=message):
        exported(root, name)


def test_a_missing_folder_of_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"nowhere: there is no such folder of runs"):
        exported(tmp_path / "nowhere", "results.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_pyarrow_is_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "pyarrow" else importlib.util)
    with pytest.raises(MaeBenchError, match=r"pip install 'mae-bench\[parquet\]'"):
        exported(root, "results.parquet")


def test_the_command_names_what_it_leaves_out(root: Path) -> None:
    file = root.parent / "out.csv"
    answer = CliRunner().invoke(cli.app, ["export", str(file), "--runs", str(root)])
    assert answer.exit_code == 0
    assert answer.stdout.strip() == str(file)
    assert "half/result.json is damaged" in answer.stderr.replace("\n", "")
    assert len(pd.read_csv(file)) == 2


# ---------------------------------------------------------------- the page


def documented(heading: str) -> list[tuple[str, str]]:
    section = re.split(rf"^#+ {heading}$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)


def test_every_column_is_documented() -> None:
    code = {"schema": "version of this description", **exporting.COLUMNS, **exporting.MORE_COLUMNS}
    code |= {f"{prefix}*": about for prefix, about in exporting.PREFIXES.items()} | exporting.LONG_COLUMNS
    assert documented("Columns") == list(code.items())
    assert f"version of this description, {exporting.SCHEMA}." in PAGE.read_text(encoding="utf-8")


def test_every_field_of_a_result_is_documented() -> None:
    written = {field.alias or name for name, field in Result.model_fields.items() if not field.exclude}
    about = dict(documented(r"result\.json"))
    assert set(about) == written
    for name, record in (("dataset", DatasetRecord), ("backbone", BackboneRecord)):
        assert set(re.findall(r"`(\w+)`", about[name])) == set(record.model_fields)
