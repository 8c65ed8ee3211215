"""The page: text, look, program and content put into one file that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources as packaged
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_bench.errors import MaeBenchError
from mae_bench.files import write_atomic
from mae_bench.report import content, curves, pictures, unfinished
from mae_bench.report.drawings import Drawings, draw_all
from mae_bench.report.pictures import Pictures
from mae_bench.results import collection_paused, scan
from mae_bench.tables.sizes import SIZES

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "page.html.j2"
STYLE = "page.css"
# Nothing may be loaded from elsewhere nor sent there, and no script runs but the one of this digest: not even
# one that a name smuggled in. Figures carry their colours in attributes, hence the styles.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
# In this order: a part uses what the parts before it define.
PROGRAM = ("elements", "values", "provenance", "tables", "runs", "chart", "curves", "pictures", "start")


@dataclass(frozen=True)
class Limits:
    """How much of the pictures goes into the page."""

    pictures: int = 60
    megabytes: float = 20.0

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise MaeBenchError(f"--pictures {self.pictures}: give 0 (none) or more")
        if not 0 <= self.megabytes < float("inf"):
            raise MaeBenchError(f"--max-mb {self.megabytes:g}: give 0 or a larger number of megabytes")


def write(
    runs_root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    limits: Limits | None = None,
    *,
    intervals: bool = False,
) -> Path:
    """Write the report of all runs below `runs_root`, completely or not at all.

    Damaged run folders, logs and pictures are named in the page and in warnings, and left out.

    Args:
        intervals: whether the sampling error of our numbers is worked out, from the outcomes that runs saved.

    Raises:
        MaeBenchError: the file cannot be written.
    """
    from mae_bench import screen

    path = Path(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise MaeBenchError(f"{path}: a report is a web page, so give a name that ends in .html")
    with collection_paused():
        report = gather(runs_root, limits or Limits(), intervals)
        text = render(report)
    for problem in report.problems:
        screen.warn(problem)
    return write_atomic(path, text)


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    overview: dict[str, Any]
    data: dict[str, Any]
    """What the program shows: runs and the pools they point into, tables, and what curves there are."""
    curves: list[dict[str, Any]]
    """Per task; read by the program when they are asked for."""
    drawings: Drawings
    pictures: Pictures
    limits: Limits
    problems: list[str]
    """What could not be read, a sentence each."""


def gather(runs_root: str | os.PathLike[str], limits: Limits, intervals: bool = False) -> Report:
    """Read the tree of runs once, and everything that is shown of it."""
    tree = scan(runs_root)
    tables = content.all_tables(tree.runs, intervals)
    going, broken_configs = unfinished.gather(tree)
    tasks, points, broken_logs = curves.gather(tree.runs, going)
    drawings = draw_all(tables)
    found = pictures.gather(tree.runs, limits.pictures, limits.megabytes)
    told = [
        {"task": task["task"], "metrics": task["metrics"], "places": [one["run"] for one in task["runs"]]}
        for task in tasks
    ]
    data = content.runs_as_data(tree.runs, going)
    data |= {"tables": content.tables_as_data(tables, tree.runs), "curves": told, "points": points}
    problems = [*tree.problems, *broken_configs, *broken_logs, *drawings.problems, *found.problems]
    return Report(content.overview(tree), data, tasks, drawings, found, limits, problems)


def render(report: Report) -> str:
    """The page as text."""
    import jinja2
    from markupsafe import Markup

    from mae_bench import __version__

    program = f"(() => {{\n{''.join(_text(f'program/{part}.js') for part in PROGRAM)}}})();"
    digest = base64.b64encode(hashlib.sha256(program.encode("utf-8")).digest()).decode("ascii")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        report=report,
        sizes=SIZES,
        version=__version__,
        written=datetime.now(UTC),
        policy=_POLICY.format(digest=digest),
        style=Markup(_text(STYLE)),
        program=Markup(program),
        data=as_script(report.data),
        curves=[as_script(task) for task in report.curves],
    )


def as_script(values: Any) -> Markup:
    """Values as JSON that can stand in a script element, whatever names they hold."""
    from markupsafe import Markup

    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Neither the end of the element nor a comment can be written without "<".
    return Markup(text.replace("<", "\\u003c"))


def _text(name: str) -> str:
    return packaged.files("mae_bench.report").joinpath(name).read_text(encoding="utf-8")
