"""Figures of runs: learning curves with what they are compared with, and scores of single classes."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from typer.testing import CliRunner

from mae_bench import cli
from mae_bench.errors import MaeBenchError
from mae_bench.figures import draw_classes, draw_curves, of_classes, of_runs, style
from mae_bench.figures.courses import Course, read_reference, read_run, short_names
from tests.sample_runs import store


def log(folder: Path, *entries: dict[str, Any] | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def trained(folder: Path, scale: float = 1.0) -> Path:
    return log(
        folder,
        {"step": 10, "epoch": 0.5, "loss": 2.0 * scale, "lr": 0.1},
        {"step": 20, "eval": {"top1": 30.0 * scale, "top5": 60.0 * scale}},
        {"step": 20, "epoch": 1.0, "loss": 1.5 * scale, "lr": 0.05},
        {"step": 40, "epoch": 2.0, "loss": 1.0 * scale, "lr": 0.0},
        {"step": 40, "eval": {"top1": 50.0 * scale, "top5": 80.0 * scale}},
    )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that becomes a file."""
    made: list[Figure] = []
    for module in (of_runs, of_classes):
        keep = style.save
        monkeypatch.setattr(
            module,
            "save",
            lambda make, output, keep=keep: keep(lambda: made.append(make()) or made[-1], output),
        )
    return made


# ---------------------------------------------------------------- reading


def test_evaluations_stand_at_the_epoch_of_their_step(tmp_path: Path) -> None:
    course = read_run(trained(tmp_path / "a"))
    assert course.points("loss", "epoch") == ([0.5, 1.0, 2.0], [2.0, 1.5, 1.0])
    assert course.points("eval.top1", "step") == ([20, 40], [30.0, 50.0])
    assert course.points("eval.top1", "epoch") == ([1.0, 2.0], [30.0, 50.0])


def test_what_is_no_number_is_no_point(tmp_path: Path) -> None:
    folder = log(
        tmp_path / "a", {"step": 1, "loss": 2.0, "best": True, "note": "x"}, '{"step": 2, "loss": NaN}'
    )
    assert read_run(folder).values == {"loss": [(1, None, 2.0)]}


def test_a_killed_process_may_leave_half_a_line(tmp_path: Path) -> None:
    course = read_run(log(tmp_path / "a", {"step": 1, "loss": 2.0}, '{"step": 2, "lo'))
    assert course.points("loss", "step") == ([1], [2.0])


def test_a_damaged_line_before_the_last_is_named(tmp_path: Path) -> None:
    folder = log(tmp_path / "a", {"step": 1, "loss": 2.0}, '{"step": 2, "lo', {"step": 3, "loss": 1.0})
    with pytest.raises(MaeBenchError, match=r"a/metrics\.jsonl, line 2: not a line of JSON"):
        read_run(folder)


@pytest.mark.parametrize(
    ("strange", "points"),
    [
        ({"step": "two", "epoch": 2.0, "loss": 1.0}, [(None, 2.0, 1.0)]),
        ({"step": math.nan, "epoch": math.inf, "loss": 1.0}, [(None, None, 1.0)]),
        ({"step": 10**400, "epoch": "2", "loss": 1.0}, [(None, None, 1.0)]),
        ({"step": 2, "loss": 10**400}, []),
        ({"step": 2, "loss": True}, []),
    ],
)
def test_a_strange_log_has_points_where_it_tells_numbers(
    tmp_path: Path, strange: dict[str, Any], points: list[Any]
) -> None:
    run = log(tmp_path / "a", {"step": 1, "epoch": 1.0, "loss": 2.0}, strange)
    assert read_run(run).values["loss"] == [(1, 1.0, 2.0), *points]


def test_a_run_that_logged_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"a/metrics\.jsonl: there is no such file"):
        read_run(tmp_path / "a")
    with pytest.raises(MaeBenchError, match=r"holds no numbers: the run has trained nothing"):
        read_run(log(tmp_path / "b"))


def test_a_log_of_the_authors_release_is_a_reference(tmp_path: Path) -> None:
    """The fields are those that engine_pretrain.py and main_finetune.py of facebookresearch/mae write."""
    file = tmp_path / "log.txt"
    lines = [
        {
            "train_lr": 1e-5,
            "train_loss": 6.9,
            "test_loss": 5.0,
            "test_acc1": 10.0,
            "test_acc5": 20.0,
            "epoch": 0,
        },
        {
            "train_lr": 2e-5,
            "train_loss": 6.1,
            "test_loss": 4.0,
            "test_acc1": 12.5,
            "test_acc5": 25.0,
            "epoch": 1,
        },
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    course = read_reference(file)
    assert course.reference
    assert course.points("loss", "epoch") == ([1.0, 2.0], [6.9, 6.1])
    assert course.points("eval.top1", "epoch") == ([1.0, 2.0], [10.0, 12.5])
    assert course.points("eval.top1", "step") == ([], [])


def test_a_csv_file_is_a_reference(tmp_path: Path) -> None:
    file = tmp_path / "theirs.csv"
    file.write_text("epoch,loss,eval.top1\n1,2.5,\n2,2.0,40\n")
    course = read_reference(file)
    assert (course.name, course.reference) == ("theirs", True)
    assert course.points("loss", "epoch") == ([1.0, 2.0], [2.5, 2.0])
    assert course.points("eval.top1", "epoch") == ([2.0], [40.0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "loss\n1\n",
            "has a column 'step' or 'epoch' and at least one of a metric; its header is loss",
        ),
        ("a.csv", "", "its header is empty"),
        ("a.csv", "step,loss\n1,low\n", r"a\.csv, line 2: loss is no number: 'low'"),
        ("a.txt", "[1]\n{}\n", "is no reference curve: give a run folder, a log.txt of facebookresearch/mae"),
        ("a.txt", "words\nwords\n", r"a\.txt, line 1: not a line of JSON"),
    ],
)
def test_what_is_no_reference_is_said(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MaeBenchError, match=message):
        read_reference(tmp_path / name)


def test_names_are_as_long_as_needed() -> None:
    assert short_names([Path("/r/coco/x"), Path("/r/ade/x")]) == ["coco/x", "ade/x"]
    assert short_names([Path("/r/1/coco/x"), Path("/r/2/coco/x")]) == ["1/coco/x", "2/coco/x"]


# ---------------------------------------------------------------- learning curves


def test_runs_and_references_lie_over_each_other(tmp_path: Path, seen: list[Figure]) -> None:
    reference = tmp_path / "paper.csv"
    reference.write_text("epoch,loss\n1,1.9\n2,1.2\n")
    first, second = trained(tmp_path / "r/one"), trained(tmp_path / "r/two", 0.9)
    path = draw_curves([first, second], tmp_path / "out.svg", references=[reference])
    loss, top1 = seen[0].axes
    assert [line.get_label() for line in loss.lines] == ["r/one", "r/two", "paper (reference)"]
    assert list(loss.lines[0].get_xdata()) == [0.5, 1.0, 2.0]
    assert list(loss.lines[2].get_ydata()) == [1.9, 1.2]
    assert [line.get_label() for line in top1.lines] == ["r/one", "r/two"]
    assert (loss.get_ylabel(), top1.get_ylabel(), top1.get_xlabel()) == ("loss", "top1", "Epoch")
    looks = {(line.get_color(), str(line.get_linestyle())) for line in loss.lines}
    assert len(looks) == 3
    text = path.read_text()
    assert "paper (reference)" in text, "text stays text"
    assert draw_curves([first, second], tmp_path / "again.svg", references=[reference]).read_text() == text


def legend(figure: Figure) -> dict[str, tuple[str, str]]:
    """What the legend says of each name: colour and line."""
    (shown,) = figure.legends
    texts = [text.get_text() for text in shown.get_texts()]
    assert len(set(texts)) == len(texts)
    return {
        text: (handle.get_color(), str(handle.get_linestyle()))
        for text, handle in zip(texts, shown.get_lines(), strict=True)
    }


def test_every_curve_has_its_own_name_in_the_legend(tmp_path: Path, seen: list[Figure]) -> None:
    logs = [tmp_path / name / "x" / "log.txt" for name in ("a", "b")]
    for i, path in enumerate(logs):
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"epoch": 0, "train_loss": 1.0 + i}))
    draw_curves([trained(tmp_path / "_r/_one")], tmp_path / "out.svg", references=logs)
    shown = legend(seen[0])
    assert list(shown) == [" _r/_one", "a/x/log.txt (reference)", "b/x/log.txt (reference)"]
    curves = {
        line.get_label(): (line.get_color(), str(line.get_linestyle())) for line in seen[0].axes[0].lines
    }
    assert {name.strip(): look for name, look in shown.items()} == curves


def test_evaluations_are_called_as_the_run_calls_them(tmp_path: Path, seen: list[Figure]) -> None:
    store(tmp_path, "done", 50.0)
    draw_curves([trained(tmp_path / "done")], tmp_path / "a.svg", metrics=["loss", "top1"])
    assert [axes.get_ylabel() for axes in seen[0].axes] == ["loss", "top-1 (%)"]


def test_a_run_without_a_log_is_told_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    store(tmp_path, "knn", 50.0)
    with pytest.raises(
        MaeBenchError, match=r"knn holds no metrics\.jsonl: it is no run folder, or a run that"
    ):
        draw_curves([tmp_path / "knn"], tmp_path / "a.png")
    with pytest.raises(MaeBenchError, match=r"nowhere/metrics\.jsonl: there is no such file"):
        draw_curves([tmp_path / "nowhere"], tmp_path / "a.png")


def test_more_curves_than_looks_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [log(tmp_path / f"r{i}", {"step": 1, "epoch": 1.0, "loss": 1.0}) for i in range(29)]
    draw_curves(folders[:28], tmp_path / "a.svg")
    assert capsys.readouterr().err == ""
    draw_curves(folders, tmp_path / "a.svg")
    assert "29 curves: colours and dashes repeat after 28" in capsys.readouterr().err


def test_metrics_and_axis_can_be_chosen(tmp_path: Path, seen: list[Figure]) -> None:
    draw_curves([trained(tmp_path / "a")], tmp_path / "out.png", metrics=["top5", "lr"], axis="step")
    assert [axes.get_ylabel() for axes in seen[0].axes] == ["top5", "lr"]
    assert list(seen[0].axes[0].lines[0].get_xdata()) == [20, 40]


def test_steps_serve_where_a_curve_tells_no_epochs(tmp_path: Path, seen: list[Figure]) -> None:
    draw_curves([log(tmp_path / "a", {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})], tmp_path / "a.pdf")
    assert seen[0].axes[0].get_xlabel() == "Step"


def test_a_curve_that_has_no_place_is_named(tmp_path: Path) -> None:
    reference = tmp_path / "paper.csv"
    reference.write_text("epoch,loss\n1,1.9\n")
    with pytest.raises(MaeBenchError, match="paper does not tell the step of loss; use --axis epoch"):
        draw_curves([trained(tmp_path / "a")], tmp_path / "a.png", references=[reference], axis="step")


def test_the_published_value_is_a_level_line_for_an_exact_run_alone(
    tmp_path: Path, seen: list[Figure]
) -> None:
    expected = [{"metric": "top1", "value": 83.6, "source": "Table 3"}]
    for name, deviations in (
        ("exact", []),
        ("short", [{"key": "train.epochs", "published": 100, "ours": 2}]),
    ):
        store(tmp_path, name, 50.0, config={"expected": expected}, deviations=deviations)
        draw_curves([trained(tmp_path / name)], tmp_path / f"{name}.svg")
    levels = [[line.get_label() for line in figure.axes[1].lines][1:] for figure in seen]
    assert levels == [["published 83.6: Table 3"], []]


def test_unknown_metrics_answer_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match="no curve has 'los'; did you mean 'loss'"):
        draw_curves([trained(tmp_path / "a")], tmp_path / "a.png", metrics=["los"])
    with pytest.raises(MaeBenchError, match="at least one run"):
        draw_curves([], tmp_path / "a.png")


# ---------------------------------------------------------------- classes


def judged(root: Path, name: str, scores: dict[str, Any]) -> Path:
    store(root, name, 50.0, details={"per_class": scores})
    return root / name


def test_classes_stand_in_the_order_of_the_first_run(tmp_path: Path, seen: list[Figure]) -> None:
    first = {
        "cat": {"iou": 10.0, "pixels": 5},
        "dog": {"iou": 60.0, "pixels": 7},
        "sky": {"iou": None, "pixels": 0},
    }
    second = {name: {**values, "iou": 33.0} for name, values in first.items()}
    folders = [judged(tmp_path, "a", first), judged(tmp_path, "b", second)]
    text = draw_classes(folders, tmp_path / "c.svg").read_text()
    axes = seen[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat", "sky"]
    assert list(axes.lines[0].get_xdata()) == [60.0, 10.0], "a class without a score is no point"
    assert list(axes.lines[1].get_xdata()) == [33.0, 33.0, 33.0]
    assert axes.get_xlabel() == "IoU (%)"
    assert "dog" in text


def test_many_classes_stand_in_columns(tmp_path: Path, seen: list[Figure]) -> None:
    scores = {f"class {i:03}": {"box_ap": float(i), "box_ap50": 1.0} for i in range(150)}
    draw_classes([judged(tmp_path, "a", scores)], tmp_path / "c.png", metric="box_ap")
    counts = [len(axes.get_yticklabels()) for axes in seen[0].axes]
    assert (sum(counts), max(counts)) == (150, 50)
    assert seen[0].axes[0].get_yticklabels()[0].get_text() == "class 149"
    assert seen[0].axes[0].get_xlabel() == "box AP (%)"


def test_runs_of_other_classes_are_not_mixed(tmp_path: Path) -> None:
    folders = [judged(tmp_path, "a", {"cat": {"iou": 1.0}}), judged(tmp_path, "b", {"dog": {"iou": 1.0}})]
    with pytest.raises(MaeBenchError, match=r"b has other classes than .*a; draw them apart"):
        draw_classes(folders, tmp_path / "c.png")
    with pytest.raises(MaeBenchError, match=r"classes have no 'iuo'; did you mean 'iou'\? \(known: iou\)"):
        draw_classes(folders[:1], tmp_path / "c.png", metric="iuo")
    store(tmp_path, "plain", 50.0)
    with pytest.raises(MaeBenchError, match="plain has no scores of single classes"):
        draw_classes([tmp_path / "plain"], tmp_path / "c.png")


# ---------------------------------------------------------------- the command line, and colours


def test_the_verb_draws(tmp_path: Path) -> None:
    run, output = trained(tmp_path / "a"), tmp_path / "curves.svg"
    done = CliRunner().invoke(
        cli.app, ["draw", "curves", str(run), "-o", str(output), "--metric", "top1", "--reference", str(run)]
    )
    assert (done.exit_code, done.output) == (0, f"{output}\n")
    assert "(reference)" in output.read_text()
    refused = CliRunner().invoke(cli.app, ["draw", "classes", str(run), "-o", str(tmp_path / "c.png")])
    assert refused.exit_code == 2
    assert "there is no such file (a run writes it when it finishes)" in refused.output


# Machado, Oliveira and Fernandes (2009), A physiologically-based model for simulation of color vision
# deficiency: the matrices of severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(color: str, deficiency: Any) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as a person with the deficiency sees it."""
    srgb = np.array(to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(deficiency) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    ratio = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_differ_for_everybody(deficiency: str) -> None:
    seen_as = [lab(color, DEFICIENCIES[deficiency]) for color in style.COLORS]
    nearest = min(math.dist(a, b) for a, b in itertools.combinations(seen_as, 2))
    assert nearest > 10, "about four just noticeable differences"


def test_red_and_green_would_not_pass() -> None:
    assert math.dist(*(lab(color, DEFICIENCIES["deuteranopia"]) for color in ("#b08000", "#8a9a00"))) < 10


def test_a_course_forgets_what_is_infinite() -> None:
    course = Course("x")
    course.add("loss", 1, None, math.inf)
    assert course.values == {}
