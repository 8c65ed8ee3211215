"""How tables look in every format, compared whole with the files in tests/golden/.

After a change on purpose ``UPDATE_GOLDEN=1 pytest tests/test_render.py`` writes the files anew; look at what
changed before you commit it.
"""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mae_bench.render import FORMATS, as_data, format_of, render, render_all
from mae_bench.tables import build, make_table
from mae_bench.tables.cells import Table
from mae_bench.tables.layouts import load_layout
from tests import rich_table
from tests.nasty_runs import NASTY
from tests.sample_runs import store

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def rich(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Groups, columns under headings, differences, intervals and footnotes."""
    rich_table.fixed_intervals(monkeypatch)
    return make_table(*made_in(tmp_path / "rich"), rich_table.VIEW)


@pytest.fixture
def plain(tmp_path: Path) -> Table:
    """As the layout has it."""
    return make_table(*made_in(tmp_path / "plain"))


def made_in(folder: Path) -> tuple[Path, Path]:
    """The layout and the runs of `rich_table`."""
    folder.mkdir()
    (folder / "rich.yaml").write_text(rich_table.LAYOUT)
    return folder / "rich.yaml", rich_table.filled(folder / "runs")


def same_as_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text(), f"{path} holds something else; see the head of this file"


@pytest.mark.parametrize("format", FORMATS)
def test_a_rich_table_whole(rich: Table, format: str) -> None:
    same_as_golden(f"rich{FORMATS[format].ending}", render(rich, format, width=120, color=False))


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex"])
def test_a_table_as_the_layout_has_it_whole(plain: Table, format: str) -> None:
    same_as_golden(f"plain{FORMATS[format].ending}", render(plain, format, width=120, color=False))


def test_a_table_with_colours_whole(plain: Table) -> None:
    same_as_golden("colours.txt", render(plain, "terminal", width=120, color=True))


def test_a_table_of_settings_whole() -> None:
    same_as_golden("mae-table9.md", render(make_table("mae-table9", "/nowhere"), "markdown"))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_loses_no_number_and_no_name(rich: Table, width: int) -> None:
    text = render(rich, "terminal", width=width, color=False)
    assert max(map(len, text.splitlines())) <= width
    for number in ("83.6", "85.9", "80.0", "51.7", "99.9?", "Fine-", "Linear", "dino"):
        assert number in text


def test_columns_without_room_stand_below_with_the_names_again(plain: Table) -> None:
    text = render(plain, "terminal", width=44, color=False)
    heads = [line for line in text.splitlines() if line.strip().startswith("Method")]
    assert len(heads) > 1


def test_several_tables_are_one_document(rich: Table, plain: Table) -> None:
    both = [plain, rich]
    assert render_all(both, "latex").count(r"\begin{document}") == 1
    assert render_all(both, "latex").count(r"\begin{tabular}") == 2
    assert render_all(both, "html").count("<html") == 1
    assert len(json.loads(render_all(both, "json"))) == 2
    assert render_all(both, "csv").count("table,row,origin") == 1
    assert render_all(both, "markdown") == render(plain, "markdown") + "\n\n\n" + render(rich, "markdown")


def test_json_is_the_table_as_data(rich: Table) -> None:
    data = json.loads(render(rich, "json"))
    assert data == as_data(rich)
    row = next(row for row in data["rows"] if row["label"] == "ours: mae, recipe aaaaaaaa")
    assert (row["ours"], row["group"]) == (True, "Base")
    cell = row["cells"]["ft"]
    assert cell["text"] == "83.6 ± 0.3"
    assert cell["interval"] == pytest.approx([83.1, 83.65])
    assert cell["delta"] == pytest.approx(0.0333333, abs=1e-6)
    assert cell["runs"] == ["base-0", "base-1", "base-2"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_ending_of_a_file_says_its_format(name: str) -> None:
    assert format_of(f"a/table{FORMATS[name].ending.upper()}") == name
    assert format_of("table.docx") is None


# ---------------------------------------------------------------- names that nobody vouches for


class Reader(HTMLParser):
    """The text of a page, its tags, and whether they close."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def nasty(tmp_path: Path) -> Table:
    """A table whose names, words, notes and titles are made to break a format."""
    layout = tmp_path / "nasty.yaml"
    quoted = json.dumps(NASTY, ensure_ascii=True)
    text = rich_table.LAYOUT.replace("name: MAE\n", f"name: {quoted}\n")
    text = text.replace("A rich table", quoted).replace("label: Linear", f"label: {quoted}")
    text = text.replace("ViT-B, data", f"{quoted}, data").replace('note: "1600 epochs."', f"note: {quoted}")
    layout.write_text(text)
    store(tmp_path / "runs", "run", 83.0, backbone={"spec": f"other:{NASTY}<script>alert(1)</script>"})
    return make_table(layout, tmp_path / "runs")


def test_html_shows_names_and_obeys_none(nasty: Table) -> None:
    text = render(nasty, "html")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert reader.tags.isdisjoint({"script", "k", "pictures", "img"})
    assert f"ours: other:{NASTY}<script>alert(1)</script>" in reader.text
    assert NASTY in reader.text


def test_html_needs_nothing_from_elsewhere(rich: Table) -> None:
    text = render(rich, "html")
    assert re.findall(r'(?:src|href)="(?!#)', text) == []
    assert "url(" not in text
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text


def test_html_marks_lead_to_their_notes(rich: Table) -> None:
    text = render(rich, "html")
    targets = set(re.findall(r'href="#([^"]+)"', text))
    assert targets
    assert targets <= set(re.findall(r'id="([^"]+)"', text))


def test_a_terminal_is_given_nothing_to_obey(nasty: Table) -> None:
    for color in (False, True):
        text = render(nasty, "terminal", width=200, color=color)
        assert "\x1b[31m" not in text
        assert "é \N{REPLACEMENT CHARACTER}[31m" in text


def test_markdown_keeps_a_name_in_its_cell(nasty: Table) -> None:
    lines = [line for line in render(nasty, "markdown").splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(cells) == 1
    assert not any("<script>" in line or "<k>" in line for line in lines)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"csv"}))
def test_an_empty_table_is_still_a_table(format: str) -> None:
    built = build(load_layout("demo-transfer"), [])
    assert built.rows == []
    assert "No finished run fits this table yet" in render(built, format, color=False)
