"""Tables of settings: read from our recipes, every difference from what was published explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mae_bench import resources
from mae_bench.errors import MaeBenchError
from mae_bench.tables import render_table
from mae_bench.tables.cells import Row
from mae_bench.tables.hyperparameters import hyperparameter_rows, said
from mae_bench.tables.layouts import Layout, load_layout
from tests.launch import ROOT

SETTINGS = sorted(
    name for name, path in resources.tables().items() if "\nsettings:" in path.read_text(encoding="utf-8")
)


def rows(layout: Layout) -> dict[str, Row]:
    return {row.label: row for row in hyperparameter_rows(layout)}


def texts(name: str, column: str) -> dict[str, str]:
    found = rows(load_layout(name))
    return {label: str(row.cells[column].text) for label, row in found.items() if column in row.cells}


def test_there_is_one_for_each_table_of_settings() -> None:
    assert SETTINGS == ["mae-table10", "mae-table11", "mae-table8", "mae-table9", "vitdet-table11"]


# ---------------------------------------------------------------- what was published

# He et al., arXiv:2111.06377, Tables 8 to 11 (and the text beside them), word for word but for the names of rows.
PUBLISHED = {
    "mae-table8": {
        "optimiser": "AdamW", "base learning rate": "1.5e-4", "weight decay": "0.05",
        "optimiser momentum (beta 1 and 2)": "0.9, 0.95", "batch size": "4096", "learning rate schedule": "cosine decay",
        "warm-up epochs": "40", "augmentation": "RandomResizedCrop", "colour jitter": "none", "gradient clipping": "none",
    },
    "mae-table9": {
        "optimiser": "AdamW", "base learning rate": "1e-3", "weight decay": "0.05",
        "optimiser momentum (beta 1 and 2)": "0.9, 0.999", "layer-wise lr decay": "0.75", "batch size": "1024",
        "learning rate schedule": "cosine decay", "warm-up epochs": "5", "training epochs": "100 (B), 50 (L/H)",
        "augmentation": "RandAug (9, 0.5)", "label smoothing": "0.1", "mixup": "0.8", "cutmix": "1",
        "drop path": "0.1 (B/L), 0.2 (H)", "features of the classifier": "class token",
    },
    "mae-table10": {
        "optimiser": "LARS", "base learning rate": "0.1", "weight decay": "0", "optimiser momentum": "0.9",
        "batch size": "16384", "learning rate schedule": "cosine decay", "warm-up epochs": "10", "training epochs": "90",
        "augmentation": "RandomResizedCrop", "colour jitter": "none",
    },
    "mae-table11": {
        "optimiser": "AdamW", "base learning rate": "1e-4", "weight decay": "0.3",
        "optimiser momentum (beta 1 and 2)": "0.9, 0.95", "batch size": "4096", "learning rate schedule": "cosine decay",
        "warm-up epochs": "20", "training epochs": "300 (B), 200 (L/H)", "augmentation": "RandAug (9, 0.5)",
        "label smoothing": "0.1", "mixup": "0.8", "cutmix": "1", "drop path": "0.1 (B), 0.2 (L/H)",
        "average of weights": "0.9999",
    },
    # Li et al., arXiv:2203.16527, Table 11 (MAE) and its text.
    "vitdet-table11": {
        "optimiser": "AdamW", "learning rate": "1e-4", "weight decay": "0.1",
        "optimiser momentum (beta 1 and 2)": "0.9, 0.999", "layer-wise lr decay": "0.7 (B), 0.8 (L), 0.9 (H)",
        "batch size": "64", "learning rate schedule": "steps", "warm-up steps": "250",
        "training": "100 epochs (B/L), 75 (H)", "drop path": "0.1 (B), 0.4 (L), 0.5 (H)", "image size": "1024 x 1024",
        "scale jitter": "0.1, 2", "hidden convolutions of the RPN": "2", "hidden convolutions of the heads": "4",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_words(name: str) -> None:
    assert texts(name, "paper") == PUBLISHED[name]


def test_the_release_of_mae() -> None:
    """facebookresearch/mae, FINETUNE.md."""
    release = texts("mae-table9", "release")
    assert (release["base learning rate"], release["layer-wise lr decay"]) == (
        "5e-4 (B), 1e-3 (L/H)",
        "0.65 (B), 0.75 (L/H)",
    )
    assert (release["drop path"], release["random erasing"]) == ("0.1 (B), 0.2 (L), 0.3 (H)", "0.25")


# ---------------------------------------------------------------- ours beside it

# The cells of ours that are not what the paper prints, or where it prints nothing and the recipe says what it takes.
MARKED = {
    "mae-table8": {("normalised target", column) for column in ("base", "large", "huge", "long")},
    "mae-table9": {
        ("base learning rate", "base"), ("layer-wise lr decay", "base"), ("drop path", "large"), ("drop path", "huge"),
        *((row, column) for row in ("random erasing", "features of the classifier") for column in ("base", "large", "huge")),
    },
    "mae-table10": {
        ("training epochs", "large"), ("training epochs", "huge"),
        *((row, column) for row in ("augmentation", "images a BatchNorm sees") for column in ("base", "large", "huge")),
    },
    "mae-table11": {("features of the classifier", column) for column in ("base", "large", "huge")},
    "vitdet-table11": {("warm-up steps", "huge")},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_every_value_is_the_published_one_or_says_why_not(name: str) -> None:
    layout = load_layout(name)
    assert layout.settings is not None
    marked = {
        (row.label, key)
        for row in hyperparameter_rows(layout)
        for key, cell in row.cells.items()
        if cell.departures
    }
    assert marked == MARKED[name]
    for row in hyperparameter_rows(layout):
        assert set(layout.settings.recipes) <= set(row.cells), f"{row.label}: a recipe says nothing"
        for cell in row.cells.values():
            assert "does not say why" not in cell.departures, row.label


@pytest.mark.parametrize("name", SETTINGS)
def test_the_reasons_stand_below_the_table(name: str) -> None:
    text = render_table(name, ROOT / "no-runs-here", "terminal", width=1000, color=False)
    for row in hyperparameter_rows(load_layout(name)):
        for cell in row.cells.values():
            assert str(cell.text) in text
            assert cell.departures in text


def test_the_reason_is_the_recipes_own_note() -> None:
    found = rows(load_layout("mae-table9"))
    assert found["base learning rate"].cells["base"].departures == (
        "Base learning rate 5e-4 and layer decay 0.65 follow the PyTorch release, for checkpoints pretrained on normalised "
        "pixels; Table 9 has 1e-3 and 0.75."
    )
    assert (
        found["drop path"].cells["huge"].departures
        == "Drop path 0.3 follows the PyTorch release; Table 9 has 0.2."
    )


# ---------------------------------------------------------------- a recipe changes, the table changes


def _own(folder: Path, text: str, **settings: Any) -> Layout:
    """`mae-table9` with a recipe of one's own in the column for ViT-B."""
    (folder / "own.yaml").write_text(f"extends: imagenet-finetune\n{text}", encoding="utf-8")
    layout = load_layout("mae-table9")
    assert layout.settings is not None
    recipes = {**layout.settings.recipes, "base": str(folder / "own.yaml")}
    return layout.model_copy(
        update={"settings": layout.settings.model_copy(update={"recipes": recipes, **settings})}
    )


def test_a_changed_recipe_changes_the_table(tmp_path: Path) -> None:
    before = rows(load_layout("mae-table9"))
    text = "optim: {blr: 1.0e-3, layer_decay: 0.75, weight_decay: 0.1}\npooling: cls\nnotes: []\n"
    after = rows(_own(tmp_path, text))

    def cell(name: str) -> tuple[str | None, str]:
        return after[name].cells["base"].text, after[name].cells["base"].departures

    assert before["base learning rate"].cells["base"].text == "5e-4"
    assert cell("base learning rate") == ("1e-3", "")
    assert cell("layer-wise lr decay") == ("0.75", "")
    assert cell("features of the classifier") == ("class token", "")
    # A departure without a reason is said to be one.
    assert cell("weight decay") == ("0.1", "published is 0.05; own does not say why")


def test_a_section_that_is_switched_off_reads_none(tmp_path: Path) -> None:
    found = rows(_own(tmp_path, "mix: null\n"))
    assert found["mixup"].cells["base"].text == "none"
    assert found["mixup"].cells["base"].departures.startswith("published is 0.8")


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-4, "5e-4"), (1.5e-4, "1.5e-4"), (0.05, "0.05"), (1.0, "1"), (4096, "4096"), (None, "none"), ([0.9, 0.95], "0.9, 0.95"),
     (True, "on"), (0.0, "0"), ([1024, 1024], "1024 x 1024"), ("cosine", "cosine")],
)  # fmt: skip
def test_values_as_papers_write_them(value: Any, text: str) -> None:
    assert said(value) == text


# ---------------------------------------------------------------- faults

LAYOUT = """\
id: mine
title: Mine
columns: [{key: paper, label: Paper, better: null}, {key: ours, label: Ours, better: null}]
sources: {paper: A paper}
published:
- {name: batch, values: {paper: 1024}, source: [paper], verified: true}
settings:
  compared: paper
  recipes: {ours: imagenet-finetune}
  rows:
    batch: {key: train.batch, published: 1024}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "compared: paper",
            "compared: papers",
            "settings.compared: no column 'papers'; did you mean 'paper'",
        ),
        ("recipes: {ours:", "recipes: {our:", "settings.recipes: no column 'our'; did you mean 'ours'"),
        ("    batch: {", "    batches: {", "settings.rows: no published row 'batches'; did you mean 'batch'"),
        ("    batch: {", "    size: {", "settings.rows: 'batch' is missing"),
        (
            "recipes: {ours: imagenet-finetune}\n  rows:\n    batch: {key: train.batch, published: 1024}",
            "recipes: {ours: a, paper: b}\n  rows:\n    batch: {key: train.batch, published: {ours: 1}}",
            "settings.rows.batch.published: no value for column 'paper'",
        ),
        ("settings:", "setings:", "setings: "),
    ],
)
def test_a_faulty_layout_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    assert old in LAYOUT
    path.write_text(LAYOUT.replace(old, new), encoding="utf-8")
    with pytest.raises(MaeBenchError) as caught:
        load_layout(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "train.batch",
            "train.bach",
            "table mine: the recipe imagenet-finetune has no setting 'train.bach'; did you mean 'batch'",
        ),
        (
            "train.batch",
            "train.batch.size",
            "table mine: the recipe imagenet-finetune has no setting 'train.batch.size'",
        ),
        ("imagenet-finetune", "imagenet-finetun", "unknown recipe 'imagenet-finetun'"),
    ],
)
def test_a_recipe_or_setting_that_is_not_there(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LAYOUT.replace(old, new), encoding="utf-8")
    with pytest.raises(MaeBenchError) as caught:
        hyperparameter_rows(load_layout(path))
    assert message in str(caught.value)


def test_words_of_ones_own_layout_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(LAYOUT.replace("{paper: 1024}", '{paper: "<b>&"}'), encoding="utf-8")
    assert "<b>" not in render_table(path, tmp_path, "markdown")
    assert r"<b>\&" in render_table(path, tmp_path, "latex").replace(r"\textless{}", "<").replace(
        r"\textgreater{}", ">"
    )
