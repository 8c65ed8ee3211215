"""The LaTeX of every table, compiled in one document, with names in it that LaTeX would choke on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mae_bench.render import render, render_all
from mae_bench.render.latex import escape
from mae_bench.tables import build, make_table
from mae_bench.tables.cells import Table
from mae_bench.tables.layouts import list_tables, load_layout
from mae_bench.tables.views import View
from tests import rich_table
from tests.nasty_runs import NASTY, runs_of

# Points by which a line may be wider than the page.
SLACK = 3.0
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX is installed")


def compiled(folder: Path, file: str) -> str:
    """The log of pdflatex."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    return (folder / file).with_suffix(".log").read_text(errors="replace")


def overfull(log: str) -> list[str]:
    """What is wider than its line by more than `SLACK`, and floats taller than the page."""
    wide = [
        line
        for line in log.splitlines()
        if (found := re.match(r"Overfull \\hbox \(([\d.]+)pt", line)) and float(found[1]) > SLACK
    ]
    return [*wide, *(line for line in log.splitlines() if "Float too large" in line)]


def with_runs(name: str) -> Table:
    layout = load_layout(name)
    return build(layout, list(runs_of(layout)))


@needs_tex
def test_all_tables_compile_and_none_runs_off_the_page(tmp_path: Path) -> None:
    tables = [with_runs(name) for name in list_tables()]
    ours = [table.id for table in tables if any(row.ours for row in table.rows)]
    assert {"mae-table3", "mae-table4", "mae-table6", "mae-table13", "vitdet-table"} <= set(ours)
    (tmp_path / "all.tex").write_text(render_all(tables, "latex") + "\n")
    assert overfull(compiled(tmp_path, "all.tex")) == []


@needs_tex
@pytest.mark.parametrize("packages", ["booktabs,graphicx", "booktabs,graphicx,colortbl"])
def test_a_table_is_part_of_a_narrow_paper(tmp_path: Path, packages: str) -> None:
    runs = rich_table.filled(tmp_path / "runs")
    (tmp_path / "rich.yaml").write_text(rich_table.LAYOUT)
    view = View(sort="ft", group="size", delta="MAE, ViT-B")
    table = make_table(tmp_path / "rich.yaml", runs, view)
    (tmp_path / "table.tex").write_text(render(table, "latex") + "\n")
    (tmp_path / "paper.tex").write_text(
        f"\\documentclass[twocolumn]{{article}}\\usepackage[T1]{{fontenc}}\\usepackage{{{packages}}}"
        "\\begin{document}before\\input{table}Table \\ref{tab:rich}\\input{table}after\\end{document}\n"
    )
    assert overfull(compiled(tmp_path, "paper.tex")) == []


@needs_tex
def test_every_sign_of_the_latin_fonts_is_set(tmp_path: Path) -> None:
    signs = [chr(code) for code in range(0x20, 0x250) if chr(code).isprintable()]
    text = "\n\n".join(escape(f"{sign} x") for sign in [*signs, *NASTY])
    (tmp_path / "signs.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\begin{document}\n" + text + "\n\\end{document}\n"
    )
    assert "Missing character" not in compiled(tmp_path, "signs.tex")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 50 %", r"a\_b \& 50 \%"),
        ("漢", "U+6F22"),
        ("84.6 (\N{MINUS SIGN}1)", "84.6 ($-$1)"),
        ("x\ny", "x y"),
        ("--where a,,b", "-{}-where a,{},b"),
        ("10\N{EN DASH}20", r"10\textendash{}20"),
    ],
)
def test_what_is_special_is_escaped(text: str, latex: str) -> None:
    assert escape(text) == latex


def test_long_words_may_break_where_lines_do(tmp_path: Path) -> None:
    assert escape("runs/abcdefghijkl/s0.pth", breaks=True) == (
        r"runs/\allowbreak{}abcdefghijkl/\allowbreak{}s0.\allowbreak{}pth"
    )
    assert escape("runs/abcdefghijkl/s0.pth") == "runs/abcdefghijkl/s0.pth"
    assert escape("short/path", breaks=True) == "short/path"


def test_a_long_table_goes_on_under_the_same_number(tmp_path: Path) -> None:
    layout = load_layout("mae-table4")
    row = layout.published[0]
    many = layout.model_copy(
        update={"published": [row.model_copy(update={"name": f"row {i}"}) for i in range(90)]}
    )
    text = render(build(many, []), "latex")
    assert text.count(r"\begin{table}") == text.count("(continued)") + 1 == 3
    assert text.count(r"\addtocounter{table}{-1}") == 2
    assert text.count(r"\label{") == 1
    assert all(f"row {i} " in text for i in range(90))
