"""Finished runs compared: what is put together, what is told apart, what is said and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.robustness.corruption_error import ALEXNET
from downstream.robustness.outcomes import Corrupted
from mae_bench import comparing, outcomes
from mae_bench.comparing import Report, compare, render
from mae_bench.comparing.rendering import CSV_COLUMNS, as_data
from mae_bench.errors import MaeBenchError
from mae_bench.outcomes import Hits
from mae_bench.significance import holm
from tests.sample_runs import deviation, store
from tests.simulated import backbones, finished, finished_seeds

MINUS = "\N{MINUS SIGN}"
NO_SPREAD = "the seed spread is unknown"


def hits(
    right: int, of: int = 200, *, wrong_first: int = 0, samples: str = "same", top5: int | None = None
) -> Hits:
    """`right` of `of` images, from the one after `wrong_first` on."""
    images = np.arange(of)
    found = {"top1": (images >= wrong_first) & (images < wrong_first + right)}
    return Hits(samples, found if top5 is None else {**found, "top5": images < top5})


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    """Three backbones of three seeds on 2,000 images: two alike, one 12 points better."""
    three = backbones(np.random.default_rng(3), 2000, [1.9, 1.0, 1.0], [3, 3, 3])
    for name, runs in zip(("better", "one", "other"), three, strict=True):
        finished_seeds(tmp_path, name, runs)
    return tmp_path


def sentences(report: Report) -> list[str]:
    return [entry["verdict"] for entry in as_data(report)["comparisons"]]


# ---------------------------------------------------------------- what follows from the runs


def test_backbones_that_differ_and_backbones_that_do_not(benchmark: Path) -> None:
    report = compare(["better", "one", "other"], benchmark)
    assert [len(side.runs) for side in report.sides] == [3, 3, 3]
    told = {(one.a.label, one.b.label): (one.shown, one.shown_over_seeds) for one in report.comparisons}
    assert told == {
        ("timm:better", "timm:one"): (True, True),
        ("timm:better", "timm:other"): (True, True),
        ("timm:one", "timm:other"): (False, False),
    }
    first, _, last = sentences(report)
    assert re.fullmatch(
        r"timm:better is better than timm:one in top-1 by 1\d\.\d points \(95 % interval \d+\.\d to \d+\.\d\) on these "
        r"2,000 images; p < 0\.0001 after correction for 3 comparisons\. It holds over seeds of training too "
        r"\(3 and 3 seeds, 95 % interval \d+\.\d to \d+\.\d, p (< |= )0\.\d+\)\.",
        first,
    )
    assert re.match(
        r"No difference shown between timm:one and timm:other in top-1: [+~]?\d\.\d points \(95 % interval ~\d\.\d to "
        r"\d\.\d\) on these 2,000 images; p = \d\.\d+ after correction for 3 comparisons; these images can tell "
        r"apart about \d\.\d points\. Nor is one over seeds of training",
        last.replace(MINUS, "~"),
    )


def test_a_folder_of_all_runs_is_all_sides(benchmark: Path) -> None:
    one_folder = as_data(compare([benchmark], benchmark))
    assert one_folder == as_data(compare(["better", "one", "other"], benchmark))
    assert one_folder == as_data(
        compare([benchmark / "better", "one/s2", "one/s1", "one/s0/result.json", "other"], benchmark)
    )


def test_the_correction_is_holms_over_pairs_and_metrics(tmp_path: Path) -> None:
    for at, (right, top5) in enumerate([(100, 150), (106, 158), (112, 160)]):
        finished_seeds(tmp_path, f"b{at}", [hits(right, wrong_first=2 * at, top5=top5)])
    report = compare([tmp_path], tmp_path, metrics=["top1", "top5", "top1"])
    assert [(one.metric, one.a.label, one.b.label) for one in report.comparisons] == [
        (metric, f"timm:b{i}", f"timm:b{j}")
        for metric in ("top1", "top5")
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert [one.p for one in report.comparisons] == holm([one.difference.p for one in report.comparisons])
    # 8 images the one way, 2 the other: twice P(X <= 2) less P(X = 2) of 10 fair coins.
    assert report.comparisons[0].difference.p == pytest.approx((2 * 56 - 45) / 1024)


def test_a_baseline_is_what_each_is_compared_with(benchmark: Path) -> None:
    for named in (["better", "one", "other"], ["better", "one"]):
        report = compare(named, benchmark, baseline="other")
        pairs = [(one.a.label, one.b.label) for one in report.comparisons]
        assert pairs == [("timm:better", "timm:other"), ("timm:one", "timm:other")]
    assert compare([benchmark], benchmark, baseline="other/s1").comparisons[0].b.label == "timm:other"


def test_lower_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    lower = {"top1": {"unit": "%", "higher_is_better": False, "label": "error"}}
    finished_seeds(tmp_path, "few", [hits(60)], units=lower)
    finished_seeds(tmp_path, "many", [hits(90)], units=lower)
    (said,) = sentences(compare(["many", "few"], tmp_path))
    assert said.startswith("timm:few is better than timm:many in error by 15.0 points (95 % interval 1")
    (said,) = sentences(compare(["few", "many"], tmp_path))
    assert said.startswith("timm:few is better than timm:many in error by 15.0 points (95 % interval 1")


def test_one_run_a_side_says_that_the_seed_spread_is_unknown(tmp_path: Path) -> None:
    finished_seeds(tmp_path, "a", [hits(100)])
    finished_seeds(tmp_path, "b", [hits(140)])
    data = as_data(compare(["a", "b"], tmp_path))
    assert any(
        f"Every side is one run, so that {NO_SPREAD}: the tests speak of these trained models alone" in text
        for text in data["remarks"]
    )
    assert data["comparisons"][0]["seeds"] is None
    assert not any("Holm" in text for text in data["remarks"])
    assert "after correction" not in data["comparisons"][0]["verdict"]


def test_seeds_on_one_side_alone_are_no_seed_spread(tmp_path: Path) -> None:
    finished_seeds(tmp_path, "a", [hits(100), hits(102)])
    finished_seeds(tmp_path, "b", [hits(140)])
    data = as_data(compare(["a", "b"], tmp_path))
    assert data["comparisons"][0]["seeds"] is None
    assert any(text.startswith(f"'timm:b': each is one run, so that {NO_SPREAD}") for text in data["remarks"])


def test_seeds_that_scatter_leave_the_training_open(tmp_path: Path) -> None:
    """Sure of the images, not of the seeds: the two sources of error are named apart."""
    finished_seeds(tmp_path, "a", [hits(1000, 2000), hits(1180, 2000)])
    finished_seeds(tmp_path, "b", [hits(900, 2000), hits(1090, 2000)])
    report = compare(["a", "b"], tmp_path)
    assert (report.comparisons[0].shown, report.comparisons[0].shown_over_seeds) == (True, False)
    (said,) = sentences(report)
    assert "timm:a is better than timm:b" in said
    assert "the seed spread is too large to say it of the training, and other seeds may turn it" in said


def test_seeds_that_all_give_the_same_have_no_spread(tmp_path: Path) -> None:
    finished_seeds(tmp_path, "a", [hits(100), hits(100)])
    finished_seeds(tmp_path, "b", [hits(140), hits(140)])
    data = as_data(compare(["a", "b"], tmp_path))
    assert data["comparisons"][0]["seeds"] is None
    assert any("every seed gives the same number" in text for text in data["remarks"])


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (100, "no image tells them apart"),
        (101, "they differ on 1 image alone, too few"),
        (103, "they differ on 3 images alone, too few"),
    ],
)
def test_too_few_images_to_tell(tmp_path: Path, right: int, words: str) -> None:
    finished_seeds(tmp_path, "a", [hits(100)])
    finished_seeds(tmp_path, "b", [hits(right)])
    report = compare(["a", "b"], tmp_path)
    assert words in sentences(report)[0]


def test_no_resample_that_differs_is_no_power(tmp_path: Path) -> None:
    """Metrics that are no means, of two runs that came to the same: what could be told apart is not known."""
    cells = [(name, severity) for name in ALEXNET for severity in range(1, 6)]
    right = np.random.default_rng(0).random((75, 20)) < 0.6
    for name in "ab":
        found = Corrupted("same", cells, right)
        folder = store(
            tmp_path,
            name,
            metrics=outcomes.own(found),
            config={"task": "robustness.imagenet"},
            backbone={"spec": f"timm:{name}", "digest": name * 64},
        )
        outcomes.write(folder, {"c": found})
    (only,) = as_data(compare(["a", "b"], tmp_path, metrics=["in_c_mce"], resamples=200))["comparisons"]
    assert (only["p"], only["detectable"]) == (1.0, None)
    assert only["verdict"].endswith(
        "p = 1.00; no resample of the images gives another difference, so that its error is unknown."
    )


# ---------------------------------------------------------------- sides


def test_a_seed_that_was_run_again_counts_once(tmp_path: Path) -> None:
    finished_seeds(tmp_path, "a", [hits(100)])
    finished(
        tmp_path,
        "a/again",
        hits(120),
        finished="2026-02-01T00:00:00+00:00",
        backbone={"spec": "timm:a", "digest": f"{'a':a<64}"},
    )
    with pytest.raises(
        MaeBenchError, match=r"with 1 seed \(of a seed .* the latest counts, and not a/s0\); name"
    ):
        compare(["a"], tmp_path)
    finished_seeds(tmp_path, "b", [hits(140)])
    data = as_data(compare(["a", "b"], tmp_path))
    assert data["sides"][0]["runs"] == ["a/again"]
    assert data["comparisons"][0]["value_a"] == pytest.approx(60)
    assert "Where a seed was run again the latest run counts; not counted: a/s0." in data["remarks"]


def test_recipes_that_differ_are_compared_and_said(tmp_path: Path) -> None:
    def config(epochs: int, batch: int) -> dict[str, Any]:
        return {
            "task": "imagenet.finetune",
            "train": {"epochs": epochs, "batch": batch, "log_every_steps": epochs},
        }

    finished_seeds(tmp_path, "a", [hits(100)], config=config(100, 1024))
    finished_seeds(tmp_path, "b", [hits(120)], config=config(50, 512), recipe_hash="b" * 64)
    remarks = as_data(compare(["a", "b"], tmp_path))["remarks"]
    assert (
        "The recipes differ (100 epochs, batch 1024: 'timm:a'; 50 epochs, batch 512: 'timm:b'); a comparison of "
        "backbones is fair only where the recipes agree." in remarks
    )


def test_one_backbone_by_two_recipes_has_two_names(tmp_path: Path) -> None:
    for epochs in (100, 50):
        config = {"task": "imagenet.finetune", "train": {"epochs": epochs}}
        finished(tmp_path, f"e{epochs}", hits(epochs), config=config, recipe_hash=f"{epochs:064}")
    report = compare(["e100", "e50"], tmp_path)
    assert [side.label for side in report.sides] == [
        "timm:vit_base_patch16_224.mae, 100 epochs",
        "timm:vit_base_patch16_224.mae, 50 epochs",
    ]


def test_one_name_of_two_weights_has_two_names(tmp_path: Path) -> None:
    for name in "cd":
        finished(tmp_path, name, hits(100), backbone={"digest": name * 64})
    labels = [side.label for side in compare(["c", "d"], tmp_path).sides]
    assert labels == [f"timm:vit_base_patch16_224.mae, weights {name * 8}" for name in "cd"]


def test_other_training_data_is_said(tmp_path: Path) -> None:
    finished_seeds(tmp_path, "a", [hits(100)])
    finished_seeds(tmp_path, "b", [hits(120)], dataset={"fingerprint": "e" * 64, "train_images": 128116})
    remarks = as_data(compare(["a", "b"], tmp_path))["remarks"]
    assert (
        "The data differs, though the images judged do not (1,281,167 training images of ImageNet-1K, fingerprint "
        "ffffffff: 'timm:a'; 128,116 training images of ImageNet-1K, fingerprint eeeeeeee: 'timm:b')."
        in remarks
    )


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    finished_seeds(tmp_path, "a", [hits(100), hits(104)])
    finished_seeds(tmp_path, "shorter", [hits(100, 150, samples="0" * 64)])
    finished_seeds(tmp_path, "task", [hits(100)], task="imagenet-knn")
    store(tmp_path, "old", backbone={"digest": "e" * 64})
    store(
        tmp_path, "imported", deviations=[deviation("imported", None, "wandb")], backbone={"digest": "b" * 64}
    )
    folder = finished_seeds(tmp_path, "mixed", [hits(100)]) / "s0"
    outcomes.write(folder, {"": hits(90)})
    folder = finished_seeds(tmp_path, "half", [hits(100)]) / "s0"
    (folder / "outcomes.npz").write_bytes((folder / "outcomes.npz").read_bytes()[:100])
    (tmp_path / "going").mkdir()
    (tmp_path / "going" / "config.yaml").touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("named", "how", "message"),
    [
        ([], {}, "name the folders of two runs or more"),
        (["a"], {}, r"nothing to compare: all that is named is timm:a with 2 seeds; name runs of another"),
        (["b"], {}, r"there is no folder 'b' here or in .*"),
        (["a", "shortr"], {}, r"no folder 'shortr' .*; did you mean 'shorter'"),
        (["a", "empty"], {}, r"empty holds no finished run; name the folder of a run"),
        (["a", "going"], {}, r"going is not finished; the command that began it goes on with it"),
        (["a", "a/s0"], {}, r"the run a/s0 is named twice; name each run once"),
        (["a", "task"], {}, r"a/s0 is of the task imagenet-finetune and task/s0 of imagenet-knn; only runs of one task"),
        (["a", "old"], {}, r"old has no outcomes.npz, .*; run it again with --force"),
        (["a", "imported"], {}, r"imported was imported, with numbers and without what came of each image"),
        (["a", "mixed"], {}, r"mixed/s0: outcomes.npz gives top1 45 and result.json says 50, so they are not of one run"),
        (["a", "half"], {}, r"outcomes.npz is damaged"),
        (["a", "shorter"], {}, r"a/s0 and shorter/s0 were not judged on the same images by top1: 200 images of imagenet-1k, data ffffffff, samples same and 150 images of imagenet-1k, data ffffffff, samples 00000000; .*`mae-bench data fingerprint TASK`"),
        (["a", "shorter"], {"metrics": ["top2"]}, r"a/s0 has no metric 'top2'; did you mean 'top1'\? \(it has top1\)"),
        (["a", "shorter"], {"level": 1.0}, "between 0.5 and 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said_in_one_sentence(
    faulty: Path, named: list[str], how: dict[str, Any], message: str
) -> None:
    with pytest.raises(MaeBenchError, match=message) as caught:
        compare(named, faulty, **how)
    assert "\n" not in str(caught.value)


def test_a_baseline_of_several_sides_is_refused(benchmark: Path) -> None:
    with pytest.raises(
        MaeBenchError, match=r"the baseline holds 3 sides \(timm:better, timm:one, timm:other\); name one"
    ):
        compare(["better", "one"], benchmark, baseline=benchmark)


def test_what_an_outcome_cannot_give_is_said(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = store(tmp_path, name, metrics={"loss": 2.0, "top1": 50.0}, backbone={"digest": name * 64})
        outcomes.write(folder, {"": hits(100)})
    with pytest.raises(MaeBenchError, match="what a kept of each image does not give 'loss', only top1"):
        compare(["a", "b"], tmp_path)


# ---------------------------------------------------------------- formats


@pytest.fixture
def odd(tmp_path: Path) -> Report:
    """Names that mean something to each format."""
    for name, spec, right in (("a", "x_|<b>&\x1b[31m%$", 100), ("b", "=cmd, [bold]\\end{table}", 130)):
        finished(tmp_path, name, hits(right), backbone={"spec": spec, "digest": name * 64})
    return compare(["a", "b"], tmp_path)


def test_the_terminal_shows_it_whole(tmp_path: Path) -> None:
    finished_seeds(tmp_path, "a", [hits(100)])
    finished_seeds(tmp_path, "b", [hits(140, wrong_first=2)])
    expected = """\
Comparison of finished runs on the same images: imagenet-finetune, top-1
1  timm:a
2  timm:b

 A   B    A's    B's   A ~ B    95 % interval          p
 ───────────────────────────────────────────────────────
 1   2   50.0   70.0   ~20.0   ~26.0 to ~14.0   < 0.0001

timm:b is better than timm:a in top-1 by 20.0 points (95 % interval 14.0 to 26.0) on these 200
images; p < 0.0001.

Intervals of 95 % and p are about the sampling error: these trained models, on other images of the
same kind. p by McNemar's test (mid-p); intervals by 1000 resamples of the images (seed 0), each for
its own comparison.
Every side is one run, so that the seed spread is unknown: the tests speak of these trained models
alone, on images like these, and not of what another seed of training would give."""
    assert render(compare(["a", "b"], tmp_path), width=100, color=False) == expected.replace("~", MINUS)


def test_names_are_shown_and_never_read(odd: Report) -> None:
    terminal = render(odd, "terminal", width=120, color=False)
    assert "\x1b" not in terminal
    assert "[bold]\\end{table}" in terminal
    markdown = render(odd, "markdown")
    assert "\x1b" not in markdown
    assert "x\\_\\|&lt;b&gt;&amp;" in markdown
    latex = render(odd, "latex")
    assert latex.count(r"\end{table}") == 1
    assert r"\%\$" in latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_as_it_is(odd: Report, tmp_path: Path) -> None:
    (tmp_path / "c.tex").write_text(render(odd, "latex"), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "c.tex"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_csv_has_a_line_for_each_comparison(odd: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(render(odd, "csv"))))
    assert tuple(rows[0]) == CSV_COLUMNS
    (row,) = rows
    assert (row["value_a"], row["value_b"], row["difference"], row["images"]) == ("50", "65", "-15", "200")
    assert (row["runs_a"], row["seeds_a"], row["seeds_p"]) == ("a", "1", "")


def test_json_is_the_data(benchmark: Path) -> None:
    report = compare(["better", "one"], benchmark)
    data = json.loads(render(report, "json"))
    assert data == as_data(report)
    assert data["schema"] == 1
    (only,) = data["comparisons"]
    assert data["sides"][only["a"]]["label"] == "timm:better"
    assert data["sides"][only["a"]]["seeds"] == [0, 1, 2]
    assert only["difference"] == pytest.approx(only["value_a"] - only["value_b"])


def test_several_seeds_and_metrics_have_their_columns(tmp_path: Path) -> None:
    for name, base in (("a", 100), ("b", 130)):
        finished_seeds(tmp_path, name, [hits(base + seed, top5=170 + seed) for seed in range(2)])
    text = render(compare(["a", "b"], tmp_path, metrics=["top1", "top5"]), "markdown")
    heads = [head.strip() for head in text.splitlines()[2].strip("|").split("|")]
    assert heads == ["A", "B", "metric", "A's", "B's", f"A {MINUS} B", "95 % interval", "p", "p corrected", "seeds", "95 % over seeds", "p over seeds"]  # fmt: skip
    assert "| 50.2 ± 0.4 |" in text


def test_an_unknown_format_is_refused(odd: Report) -> None:
    with pytest.raises(MaeBenchError, match="a comparison has no format 'html'"):
        render(odd, "html")
    assert set(comparing.FORMATS) == {"terminal", "markdown", "latex", "csv", "json"}
