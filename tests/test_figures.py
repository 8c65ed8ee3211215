"""Figures of tables: what is drawn, how curves are told apart, and what the files hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from mae_bench import api
from mae_bench.errors import MaeBenchError
from mae_bench.figures import draw, draw_table, of_tables
from mae_bench.tables import Table, make_table
from mae_bench.tables.views import View
from tests.sample_runs import deviation, store


def runs(root: Path) -> Path:
    """Two seeds of a ViT-L at three numbers of blocks, and a short run of another backbone."""
    for blocks in (0, 0.5, 4.0):
        common = {
            "task": "imagenet-partial",
            "recipe": "imagenet-partial-large",
            "protocol": "imagenet-partial-large",
            "recipe_hash": str(blocks),
            "config": {"blocks": blocks},
        }
        own = [] if blocks == 4.0 else [deviation("blocks", 4.0, blocks)]
        for seed in (0, 1):
            store(root, f"large-{blocks}-{seed}", 70 + blocks + seed, seed=seed, deviations=own, **common)
        backbone = {"spec": "timm:vit_$1$_patch16_224.dino", "digest": "9" * 64}
        short = [*own, deviation("train.epochs", 50, 5)]
        store(root, f"short-{blocks}", 60 + blocks, deviations=short, backbone=backbone, **common)
    return root


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return make_table("mae-fig9", runs(tmp_path / "runs"))


def drawn(table: Table) -> Figure:
    assert table.figure is not None
    return of_tables._figure(table, table.figure)


def test_the_number_of_blocks_chooses_the_column_and_is_no_departure(table: Table) -> None:
    rows = {row.label: row for row in table.rows if row.ours}
    assert list(rows) == [
        "ours: timm:vit_base_patch16_224.mae",
        "ours: timm:vit_$1$_patch16_224.dino, 5 epochs",
    ]
    large = rows["ours: timm:vit_base_patch16_224.mae"].cells
    assert {key: (cell.value, cell.n, cell.departures) for key, cell in large.items()} == {
        "b0": (70.5, 2, ""),
        "b05": (71.0, 2, ""),
        "b4": (74.5, 2, ""),
    }
    assert {
        cell.departures for cell in rows["ours: timm:vit_$1$_patch16_224.dino, 5 epochs"].cells.values()
    } == {"5 of 50 epochs"}


def test_a_curve_per_row_with_its_numbers(table: Table) -> None:
    axes = drawn(table).axes[0]
    curves = {container.get_label(): container[0] for container in axes.containers}
    assert list(curves) == [
        "MAE [1]",
        "MoCo v3 [2]",
        "ours: timm:vit_base_patch16_224.mae",
        r"ours: timm:vit_\$1\$_patch16_224.dino, 5 epochs [3]",
    ]
    assert list(curves["MAE [1]"].get_xdata()) == [0, 0.5, 1, 2, 4, 6, 12, 18, 24]
    assert list(curves["MAE [1]"].get_ydata()) == [73.5, 79.1, 81.0, 83.1, 84.2, 84.4, 84.6, 84.7, 84.9]
    assert list(curves["MoCo v3 [2]"].get_xdata()) == [0, 1, 2, 4, 6, 12, 18, 24], "none is published at 0.5"


def test_curves_are_told_apart_by_more_than_colour(table: Table) -> None:
    lines = [container[0] for container in drawn(table).axes[0].containers]
    looks = [(line.get_marker(), to_hex(line.get_color())) for line in lines]
    assert len({marker for marker, _ in looks}) == len({color for _, color in looks}) == len(lines)
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    hollow = [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in lines]
    assert hollow == [False, False, False, True], "hollow: not comparable"


def test_seeds_make_bars(table: Table) -> None:
    containers = drawn(table).axes[0].containers
    assert [container.has_yerr for container in containers] == [False, False, True, False]


def test_the_axis_shows_the_numbers_of_blocks(table: Table) -> None:
    axes = drawn(table).axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["0", "0.5", "1", "2", "4", "6", "12", "18", "24"]
    assert axes.get_xlim()[0] < 0, "the points at zero are not cut"


def test_columns_without_a_scale_stand_at_the_axis_by_name(tmp_path: Path) -> None:
    store(tmp_path, "run", 50.0, task="imagenet-knn", recipe="demo/imagenet-knn")
    store(tmp_path, "other", 60.0, task="imagenet-finetune", recipe="demo/imagenet-finetune")
    axes = drawn(make_table("demo-transfer", tmp_path)).axes[0]
    named = [label.get_text() for label in axes.get_xticklabels()]
    assert named == ["kNN", "Linear", "Partial", "Fine-tune", "From scratch"]
    (curve,) = axes.containers
    assert list(curve[0].get_xdata()) == [1, 4]
    assert list(curve[0].get_ydata()) == [50.0, 60.0]


def test_png_holds_a_picture(table: Table, tmp_path: Path) -> None:
    path = draw(table, tmp_path / "out" / "figure.png")
    with Image.open(path) as picture:
        width, height = picture.size
        colors = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert width > 1000
    assert height > 700
    assert colors is not None
    present = {color for _, color in colors}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7)} <= present


def test_svg_holds_text_as_text_and_is_the_same_every_time(table: Table, tmp_path: Path) -> None:
    first = draw(table, tmp_path / "a.svg").read_text()
    assert "Fine-tuned blocks" in first
    assert "ours: timm:vit_$1$_patch16_224.dino, 5 epochs [3]" in first
    assert "[3] 5 of 50 epochs." in first
    assert draw(table, tmp_path / "b.svg").read_text() == first


def test_pdf_embeds_its_fonts_as_text(table: Table, tmp_path: Path) -> None:
    content = draw(table, tmp_path / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content


def test_without_runs_the_published_curves_are_drawn(tmp_path: Path) -> None:
    path = draw_table("mae-fig9", tmp_path / "none", tmp_path / "figure.svg")
    text = path.read_text()
    assert "MoCo v3 [2]" in text
    assert "Hollow" not in text


def test_an_empty_table_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(
        MaeBenchError, match="'demo-transfer' has nothing to draw yet: no finished run fits it"
    ):
        draw_table("demo-transfer", tmp_path, tmp_path / "empty.png")
    assert not (tmp_path / "empty.png").exists()


def test_panels_are_headed_and_every_axis_tells_its_unit(tmp_path: Path) -> None:
    axes = drawn(make_table("mae-fig7", tmp_path / "none")).axes
    assert [one.get_title(loc="left") for one in axes] == ["Fine-tuning", "Linear probing"]
    assert [one.get_ylabel() for one in axes] == ["Top-1 accuracy (%)"] * 2
    ticks = [[label.get_text() for label in one.get_xticklabels()] for one in axes]
    assert ticks == [["100", "200", "400", "800", "1600"]] * 2


def test_numbers_that_no_source_confirms_have_a_question_mark(tmp_path: Path) -> None:
    table = make_table("mae-fig8", tmp_path / "none")
    unsure = {
        (column.x, row.cells[column.key].value)
        for row in table.rows
        for column in table.columns
        if column.key in row.cells and not row.cells[column.key].verified
    }
    assert unsure
    (axes,) = drawn(table).axes
    assert {text.xy for text in axes.texts if text.get_text() == "?"} == unsure


def test_a_name_has_the_footnotes_of_its_own_columns_alone(tmp_path: Path) -> None:
    for name, task, digest in (("a", "knn", "1"), ("b", "finetune", "2")):
        store(tmp_path, name, 50.0, task=f"imagenet-{task}", recipe=f"demo/imagenet-{task}",
              backbone={"spec": f"timm:{name}", "digest": digest * 64},
              deviations=[deviation("train.epochs", 100, 5 + len(task))])  # fmt: skip
    table = make_table("demo-transfer", tmp_path)
    assert len(table.column_marks) == 2
    (legend,) = drawn(table).legends
    assert sorted(text.get_text()[-4:] for text in legend.get_texts()) == [" [1]", " [2]"]


def test_many_long_names_leave_the_axes_their_room(tmp_path: Path) -> None:
    for i in range(24):
        spec = f"timm:{'a_name_that_is_far_too_long_' * 4}{i}"
        store(tmp_path, f"run-{i}", 60.0 + i, task="imagenet-knn", recipe="demo/imagenet-knn",
              backbone={"spec": spec, "digest": f"{i:064x}"})  # fmt: skip
    figure = drawn(make_table("demo-transfer", tmp_path))
    figure.draw_without_rendering()  # matplotlib warns where the layout fails
    (axes,), (legend,) = figure.axes, figure.legends
    width, height = figure.get_size_inches()
    assert axes.get_position().height * height > 2.0
    assert axes.get_position().width * width > 5.0
    assert legend.get_window_extent().width <= figure.bbox.width
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1


def test_characters_without_a_glyph_are_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, "run", 50.0, task="imagenet-knn", recipe="demo/imagenet-knn",
          backbone={"spec": "timm:\N{HIRAGANA LETTER A}", "digest": "1" * 64})  # fmt: skip
    table = make_table("demo-transfer", tmp_path)
    draw(table, tmp_path / "a.svg")
    assert "warning" not in capsys.readouterr().err, "an SVG holds the text"
    draw(table, tmp_path / "a.png")
    assert "names hold characters that the font of figures lacks" in " ".join(capsys.readouterr().err.split())


def test_control_characters_do_not_make_a_broken_file(tmp_path: Path) -> None:
    store(tmp_path, "run", 50.0, task="imagenet-knn", recipe="demo/imagenet-knn",
          backbone={"spec": "timm:\x1b[31m\x00\ufffe", "digest": "1" * 64})  # fmt: skip
    text = draw(make_table("demo-transfer", tmp_path), tmp_path / "a.svg").read_text()
    assert "timm:\ufffd[31m\ufffd\ufffd" in text
    ElementTree.fromstring(text)


def test_what_a_figure_does_not_show_is_refused(tmp_path: Path) -> None:
    for name, view in (("--intervals", View(intervals=True)), ("--delta", View(delta="MAE"))):
        with pytest.raises(MaeBenchError, match=f"no sampling errors and no differences: leave {name} away"):
            api.figure("mae-fig9", tmp_path / "a.png", runs_root=tmp_path, view=view)


def test_a_logarithmic_axis_loses_no_column(table: Table, tmp_path: Path) -> None:
    assert table.figure is not None
    logarithmic = replace(table, figure=table.figure.model_copy(update={"x_scale": "log"}))
    with pytest.raises(MaeBenchError, match="x of 0 is not above 0; use x_scale sqrt or linear"):
        draw(logarithmic, tmp_path / "a.png")


def test_what_cannot_be_drawn_is_said(table: Table, tmp_path: Path) -> None:
    with pytest.raises(MaeBenchError, match=r"ends in \.png, \.svg, \.pdf"):
        draw(table, tmp_path / "figure.jpeg")
    with pytest.raises(MaeBenchError, match="the table 'mae-table3' has no figure"):
        draw_table("mae-table3", tmp_path, tmp_path / "figure.png")
