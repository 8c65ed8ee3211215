"""An audit as text: for a terminal, as Markdown, as JSON.

Names of runs, rows and folders are strangers' text: control characters are shown as such, and Markdown gets
them as code. This module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Literal

from mae_bench.errors import MaeBenchError
from mae_bench.tracing.findings import Audit, RunAudit, TableAudit

Format = Literal["terminal", "markdown", "json"]


def tell(audit: Audit, format: str) -> str:
    """The audit in a format.

    Raises:
        MaeBenchError: a format that an audit does not have.
    """
    if format == "json":
        return _as_json(audit)
    if format == "terminal":
        return "\n".join(_clean(line) for line in _lines(audit))
    if format == "markdown":
        return "\n".join(_markdown(audit))
    raise MaeBenchError(f"an audit is written as terminal, markdown or json, not as {format}")


def _as_json(audit: Audit) -> str:
    entries = [entry.model_dump(exclude_defaults=True) for entry in audit.entries()]
    tables = []
    for table in audit.tables:
        gaps = [{key: value for key, value in asdict(gap).items() if key != "entries"} for gap in table.gaps]
        tables.append({**asdict(table), "gaps": gaps})
    values = {
        "schema": 1,
        "ok": audit.ok,
        "runs_root": audit.runs_root,
        "code": audit.code,
        "tables": tables,
        "runs": {name: {**asdict(run), "stale": run.stale} for name, run in audit.runs.items()},
        "problems": list(audit.problems),
        "list": entries,
    }
    return json.dumps(values, indent=2)


# ---------------------------------------------------------------- for a person


def _lines(audit: Audit) -> Iterator[str]:
    for table in audit.tables:
        yield f"{table.id}: {table.title}"
        yield from (f"  {line}" for line in _of_table(audit, table))
        yield ""
    if audit.runs:
        yield "the runs, what they stand on, and what changed since (! stale, - to note)"
    for run in audit.runs.values():
        yield from (f"  {line}" for line in _of_run(run))
    for problem in audit.problems:
        yield f"cannot be read: {problem}"
    yield _summary(audit)


def _of_table(audit: Audit, table: TableAudit) -> Iterator[str]:
    if not table.cells:
        yield "no cells of yours"
    for cell in table.cells:
        runs = [audit.runs[name] for name in cell.runs]
        yield f"{_word(runs)}  {cell.row} | {cell.column}: {', '.join(cell.runs)}"
        if cell.superseded:
            yield f"       run again since, not counted: {', '.join(cell.superseded)}"
    for gap in table.gaps:
        yield f"empty  {gap.row} | {gap.column}: {gap.command or gap.why}"
    for hint in table.hints:
        yield f"hint   {hint}"
    for line in table.unfinished:
        yield f"unfinished  {line}"


def _word(runs: list[RunAudit]) -> str:
    return "STALE" if any(run.stale for run in runs) else "ok   "


def _of_run(run: RunAudit) -> Iterator[str]:
    yield run.name
    width = max(len(word) for word in run.stands_on)
    yield from (f"  {word:<{width}}  {value}" for word, value in run.stands_on.items())
    for finding in run.findings:
        yield f"  {'!' if finding.stale else '-'} {finding.text}"
    for reason in run.unchecked:
        yield f"  - not checked, {reason}"


def _summary(audit: Audit) -> str:
    stale = sum(run.stale for run in audit.runs.values())
    cells = sum(len(table.cells) for table in audit.tables)
    gaps = [gap for table in audit.tables for gap in table.gaps]
    named = sum(bool(gap.command) for gap in gaps)
    runs = f"{_count(len(audit.runs), 'run')} in {_count(cells, 'cell')}"
    state = f"{stale} stale" if stale else "none stale"
    return f"{runs}, {state}; {_count(len(gaps), 'empty cell')}, for {named} of them a command is named"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _clean(text: str) -> str:
    """Text without what would steer a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


# ---------------------------------------------------------------- Markdown


def _markdown(audit: Audit) -> Iterator[str]:
    for table in audit.tables:
        yield f"## {_code(table.id)} {_code(table.title)}"
        yield ""
        if table.cells:
            yield "| row | column | state | runs | what changed |"
            yield "| --- | --- | --- | --- | --- |"
        for cell in table.cells:
            runs = [audit.runs[name] for name in cell.runs]
            changed = [
                *(finding.text for run in runs for finding in run.findings),
                *(f"not checked, {reason}" for run in runs for reason in run.unchecked),
            ]
            names = "<br>".join(_code(name) for name in cell.runs)
            told = "<br>".join(_code(text) for text in dict.fromkeys(changed))
            yield f"| {_code(cell.row)} | {_code(cell.column)} | {_word(runs).strip()} | {names} | {told} |"
        yield ""
        for gap in table.gaps:
            yield f"- empty: {_code(gap.row)}, {_code(gap.column)}: {_code(gap.command or gap.why)}"
        for hint in table.hints:
            yield f"- hint: {_code(hint)}"
        for line in table.unfinished:
            yield f"- unfinished: {_code(line)}"
        yield ""
    for problem in audit.problems:
        yield f"- cannot be read: {_code(problem)}"
    yield _summary(audit)


def _code(text: str) -> str:
    """Text as code in a cell of a table, whatever it holds."""
    clean = _clean(text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in _backticks(clean)), default=0) + 1)
    pad = " " if clean[:1] == "`" or clean[-1:] == "`" else ""
    return f"{fence}{pad}{clean}{pad}{fence}" if clean else ""


def _backticks(text: str) -> list[str]:
    import re

    return re.findall("`+", text)
