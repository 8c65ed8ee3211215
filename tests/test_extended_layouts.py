"""A layout file of one's own that extends a shipped one: columns, words, title, published rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_bench.errors import MaeBenchError
from mae_bench.tables import make_table
from mae_bench.tables.layouts import load_layout
from tests.sample_runs import store

OWN = """\
extends: mae-table3
title: Our table
columns: [vit_l, {key: vit_b, label: Base}, {key: speed, label: Speed, unit: images/s}]
drop: ["MoCo*", DINO]
add:
- {name: Ours before, values: {vit_b: 82.0, speed: 900}, source: [notebook], verified: true}
sources: {notebook: our notebook}
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "our-table.yaml"
    path.write_text(OWN)
    return path


def test_columns_are_chosen_changed_and_added(own: Path) -> None:
    layout = load_layout(own)
    assert [(c.key, c.label) for c in layout.columns] == [
        ("vit_l", "ViT-L"), ("vit_b", "Base"), ("speed", "Speed"),
    ]  # fmt: skip
    assert (layout.id, layout.title, layout.paper) == ("our-table", "Our table", "arXiv:2111.06377")


def test_published_rows_are_dropped_and_added(own: Path) -> None:
    layout = load_layout(own)
    names = [row.name for row in layout.published]
    assert names == ["scratch (MAE paper)", "BEiT", "MAE", "Ours before"]
    assert layout.published[2].values == {"vit_b": 83.6, "vit_l": 85.9}, "what was in other columns is gone"


def test_rules_for_columns_that_are_gone_are_gone(own: Path, tmp_path: Path) -> None:
    assert {rule.column for rule in load_layout(own).ours} == {"vit_b", "vit_l"}
    store(tmp_path / "runs", "run", 83.0)
    row = make_table(own, tmp_path / "runs").rows[-1]
    assert (row.label, row.cells["vit_b"].value) == ("ours: mae (timm)", 83.0)


def test_a_file_can_be_extended_too_but_only_one_level(own: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text("extends: our-table.yaml\n")
    with pytest.raises(MaeBenchError, match="only one level is allowed"):
        load_layout(path)
    own.write_text(own.read_text().replace("extends: mae-table3\n", "id: x\npublished: []\n"))
    own.write_text("id: base\ntitle: Base\ncolumns: [{key: a, label: A}, {key: b, label: B}]\n")
    path.write_text("extends: our-table.yaml\ncolumns: [b]\n")
    layout = load_layout(path)
    assert (layout.id, layout.title, [c.key for c in layout.columns]) == ("again", "Base", ["b"])


def test_words_can_be_chosen_as_columns_can(own: Path) -> None:
    own.write_text("extends: mae-table3\nfacts: []\n")
    layout = load_layout(own)
    assert layout.facts == []
    assert all(not row.facts for row in layout.published)


def test_rows_without_a_number_in_the_columns_left_are_gone(own: Path) -> None:
    own.write_text("extends: mae-table3\ncolumns: [vit_h]\n")
    assert [row.name for row in load_layout(own).published] == ["scratch (MAE paper)", "MAE"]


def test_published_rows_of_ones_own_replace_all(own: Path) -> None:
    own.write_text(
        "extends: mae-table3\npublished:\n- {name: X, values: {vit_b: 1.0}, source: [table3], verified: true}\n"
    )
    assert [row.name for row in load_layout(own).published] == ["X"]


def test_a_table_of_settings_can_be_cut(own: Path) -> None:
    own.write_text('extends: mae-table9\ndrop: ["w*"]\n')
    whole, cut = make_table("mae-table9", own.parent), make_table(own, own.parent)
    dropped = [row.label for row in whole.rows if row.label.startswith("w")]
    assert dropped
    assert [row.label for row in cut.rows] == [r.label for r in whole.rows if r.label not in dropped]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mae-table3", "mae-tabel3", r"no table 'mae-tabel3'; did you mean 'mae-table3'"),
        (
            "vit_l,",
            "vit_k,",
            r"columns\.0: the layout that is extended has no column 'vit_k'; did you mean 'vit_",
        ),
        ("DINO", "DNIO", r"drop: there is no published row 'DNIO'; did you mean 'DINO'.*our-table\.yaml:4"),
        ('["MoCo*", DINO]', "DINO", r"drop: should be a list of names of published rows"),
        ("add:\n-", "add:\n  more:", r"add: should be a list of published rows"),
        ("vit_b: 82.0", "vit_h: 82.0", r"no column 'vit_h'"),
        ("[notebook]", "[notebok]", r"no source 'notebok'; did you mean 'notebook'"),
        (", verified: true", "", r"published\.3\.verified: missing .*our-table\.yaml:6"),
        ("extends: mae-table3\n", "id: x\n", r"add: only a layout that extends another has it"),
        ("extends: mae-table3\n", "extends: [a]\n", r"extends: should be the name of one file"),
    ],
)
def test_faults_are_one_sentence_with_the_line(own: Path, old: str, new: str, message: str) -> None:
    assert old in OWN
    own.write_text(OWN.replace(old, new, 1))
    with pytest.raises(MaeBenchError, match=message) as caught:
        load_layout(own)
    assert "our-table.yaml" in str(caught.value)
