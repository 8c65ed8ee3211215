"""A `Report` as text: for the terminal, as Markdown, as LaTeX, as CSV, as JSON.

Names come from recipes and folders, so every format escapes what is special to it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mae_bench.comparing import wording
from mae_bench.comparing.judging import Comparison, Report
from mae_bench.comparing.sides import Side
from mae_bench.errors import MaeBenchError, near

SCHEMA = 1
_TITLE = "Comparison of finished runs on the same images"


@dataclass(frozen=True)
class _Grid:
    """What the formats that people read show alike."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    left: int
    """How many columns are of words."""
    verdicts: list[str]
    remarks: list[str]


def render(
    report: Report, format: str = "terminal", *, width: int | None = None, color: bool | None = None
) -> str:
    """The report as text, without a line break at its end.

    Args:
        format: one of `FORMATS`.
        width: characters a terminal line may have; None: as many as the terminal has.
        color: whether terminal text may hold escape sequences; None: if standard output is a terminal.

    Raises:
        MaeBenchError: no such format.
    """
    if format not in FORMATS:
        raise MaeBenchError(
            f"a comparison has no format '{format}'{near(format, FORMATS)} (known: {', '.join(FORMATS)})"
        )
    text = FORMATS[format](report, width, sys.stdout.isatty() if color is None else color)
    return text.rstrip("\n")


def _grid(report: Report) -> _Grid:
    several = len(report.metrics) > 1
    seeds = any(comparison.seeds is not None for comparison in report.comparisons)
    corrected = len(report.comparisons) > 1
    level = wording.percent(report.level)
    heads = ["A", "B", *(["metric"] if several else [])]
    left = len(heads)
    heads += [
        "A's",
        "B's",
        "A \N{MINUS SIGN} B",
        f"{level} interval",
        "p",
        *(["p corrected"] if corrected else []),
    ]
    heads += ["seeds", f"{level} over seeds", "p over seeds"] if seeds else []
    rows = []
    for one in report.comparisons:
        row = [one.a.label, one.b.label, *([wording.label(one)] if several else [])]
        row += [_mean(one, one.a, 0), _mean(one, one.b, 1)]
        digits, found = wording.decimals(one), one.difference
        row += [wording.signed(found.value, digits, plus=True), _ends(found.low, found.high, digits)]
        row += [wording.p_number(found.p), *([wording.p_number(one.p)] if corrected else [])]
        if seeds:
            row.append(f"{len(one.a.runs)}, {len(one.b.runs)}")
            row += (
                ["", ""]
                if one.seeds is None
                else [_ends(one.seeds.low, one.seeds.high, digits), _seeds_p(one)]
            )
        rows.append([_printable(text) for text in row])
    title = f"{_TITLE}: {report.task}" + ("" if several else f", {wording.label(report.comparisons[0])}")
    count = len(report.comparisons)
    return _Grid(
        _printable(title),
        heads,
        rows,
        left,
        [_printable(wording.verdict(one, count)) for one in report.comparisons],
        [_printable(text) for text in wording.remarks(report)],
    )


def _mean(comparison: Comparison, side: Side, at: int) -> str:
    """``83.6``, or ``83.6 ± 0.1`` with the standard deviation over seeds."""
    import statistics

    digits, values = wording.decimals(comparison), side.values(comparison.metric)
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{comparison.values[at]:.{digits}f}{spread}"


def _ends(low: float, high: float, digits: int) -> str:
    return f"{wording.signed(low, digits)} to {wording.signed(high, digits)}"


def _seeds_p(comparison: Comparison) -> str:
    return "" if comparison.seeds_p is None else wording.p_number(comparison.seeds_p)


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )


# ---------------------------------------------------------------- for people


def _terminal(report: Report, width: int | None, color: bool) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = _grid(report)
    console = Console(
        file=io.StringIO(),
        width=width or shutil.get_terminal_size((120, 24)).columns,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
        highlight=False,
        emoji=False,
    )
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for at, head in enumerate(grid.heads):
        shown.add_column(Text(head), justify="left" if at < grid.left else "right", overflow="fold")
    for comparison, row in zip(report.comparisons, grid.rows, strict=True):
        # Names are long; a line has room for their numbers.
        ends = [str(report.sides.index(side) + 1) for side in (comparison.a, comparison.b)]
        shown.add_row(*map(Text, [*ends, *row[2:]]))
    console.print(Text(grid.title, style="bold"))
    for number, side in enumerate(report.sides, start=1):
        seeds = f" ({len(side.runs)} seeds)" if len(side.runs) > 1 else ""
        console.print(Text(_printable(f"{number}  {side.label}{seeds}")))
    console.print(shown)
    for comparison, verdict in zip(report.comparisons, grid.verdicts, strict=True):
        console.print(Text(verdict, style="bold" if comparison.shown else ""))
    console.print()
    for remark in grid.remarks:
        console.print(Text(remark))
    output = console.file
    assert isinstance(output, io.StringIO)
    return re.sub(r"[ \t]+\n", "\n", output.getvalue())


def _markdown(report: Report, width: int | None, color: bool) -> str:
    from mae_bench.render.markdown import escape

    grid = _grid(report)
    rule = [":---" if at < grid.left else "---:" for at in range(len(grid.heads))]
    lines = [grid.heads, rule, *grid.rows]
    table = ["| " + " | ".join(line if line is rule else map(escape, line)) + " |" for line in lines]
    verdicts = [f"- {escape(verdict)}" for verdict in grid.verdicts]
    parts = [f"**{escape(grid.title)}**", "\n".join(table), "\n".join(verdicts)]
    return "\n\n".join([*parts, *map(escape, grid.remarks)]) + "\n"


def _latex(report: Report, width: int | None, color: bool) -> str:
    from mae_bench.render.latex import document, escape

    grid = _grid(report)
    columns = "l" * grid.left + "r" * (len(grid.heads) - grid.left)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(grid.title)}.}}"]
    lines += [rf"\maebenchfit{{\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(escape, grid.heads)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in grid.rows]
    lines += [r"\bottomrule", r"\end{tabular}}", r"\par\medskip", r"\begin{minipage}{\linewidth}"]
    lines += [
        r"\footnotesize\emergencystretch=3em",
        "\\par\n".join(map(escape, [*grid.verdicts, *grid.remarks])),
    ]
    return document("\n".join([*lines, r"\end{minipage}", r"\end{table}"]) + "\n")


# ---------------------------------------------------------------- for programs


def as_data(report: Report) -> dict[str, Any]:
    """The report as plain values; numbers as they are, in the metric's unit.

    `p` is of the comparison alone and `p_corrected` by Holm over all of the report; `seeds` is the seed
    spread, null where it is unknown.
    """
    count = len(report.comparisons)
    return {
        "schema": SCHEMA,
        "task": report.task,
        "level": report.level,
        "resamples": report.resamples,
        "seed": report.seed,
        "sides": [
            {
                "label": side.label,
                "runs": [run.name for run in side.runs],
                "seeds": [run.result.seed for run in side.runs],
                "recipe": side.result.recipe,
                "recipe_hash": side.result.recipe_hash,
                "not_counted": [run.name for run in side.superseded],
            }
            for side in report.sides
        ],
        "comparisons": [_comparison_data(report, one, count) for one in report.comparisons],
        "remarks": list(wording.remarks(report)),
    }


def _comparison_data(report: Report, one: Comparison, count: int) -> dict[str, Any]:
    found, seeds = one.difference, one.seeds
    return {
        "a": report.sides.index(one.a),
        "b": report.sides.index(one.b),
        "metric": one.metric,
        "unit": one.record.unit,
        "better": "higher" if one.record.higher_is_better else "lower",
        "value_a": one.values[0],
        "value_b": one.values[1],
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "standard_error": found.error,
        "images": found.n,
        "differing": found.differing,
        "method": found.method,
        "p": found.p,
        "p_corrected": one.p,
        "shown": one.shown,
        "detectable": None if one.too_few else one.detectable,
        "seeds": None
        if seeds is None
        else {"low": seeds.low, "high": seeds.high, "p": seeds.p, "p_corrected": one.seeds_p},
        "shown_over_seeds": one.shown_over_seeds,
        "verdict": wording.verdict(one, count),
    }


def _json(report: Report, width: int | None, color: bool) -> str:
    return json.dumps(as_data(report), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


CSV_COLUMNS = (
    "task", "metric", "a", "b", "value_a", "value_b", "difference", "low", "high", "level", "p",
    "p_corrected", "images", "method", "seeds_a", "seeds_b", "seeds_low", "seeds_high", "seeds_p",
    "seeds_p_corrected", "runs_a", "runs_b", "verdict",
)  # fmt: skip
"""One line a comparison; what is unknown is empty, and run folders are joined by spaces."""


def _csv(report: Report, width: int | None, color: bool) -> str:
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    count = len(report.comparisons)
    for one in report.comparisons:
        found, seeds = one.difference, one.seeds
        over_seeds = (None,) * 4 if seeds is None else (seeds.low, seeds.high, seeds.p, one.seeds_p)
        numbers = [*one.values, found.value, found.low, found.high, report.level, found.p, one.p]
        writer.writerow(
            [
                report.task,
                one.metric,
                one.a.label,
                one.b.label,
                *(f"{value:.10g}" for value in numbers),
                found.n,
                found.method,
                len(one.a.runs),
                len(one.b.runs),
                *("" if value is None else f"{value:.10g}" for value in over_seeds),
                " ".join(run.name for run in one.a.runs),
                " ".join(run.name for run in one.b.runs),
                wording.verdict(one, count),
            ]
        )
    return output.getvalue()


FORMATS: dict[str, Callable[[Report, int | None, bool], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
