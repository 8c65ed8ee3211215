"""What an audit finds: of a run, of a cell, of a table.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mae_bench.runlist import Entry

Kind = Literal["recipe", "weights", "data", "code", "outcomes", "other"]


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed about a run.

    Attributes:
        stale: whether the number no longer is what the same command would measure today; else it is a note.
    """

    kind: Kind
    text: str
    stale: bool = False


@dataclass(frozen=True)
class RunAudit:
    """What a run stands on, and what changed since.

    Attributes:
        name: its folder, relative to the runs root.
        stands_on: word -> value, in order: recipe, code, weights, data, seed.
        findings: what changed, stale ones first.
        unchecked: what could not be checked, and why.
    """

    name: str
    stands_on: dict[str, str]
    findings: tuple[Finding, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def stale(self) -> bool:
        return any(finding.stale for finding in self.findings)


@dataclass(frozen=True)
class CellAudit:
    """A cell of ours, with the runs behind it, ordered by seed."""

    row: str
    column: str
    runs: tuple[str, ...]
    superseded: tuple[str, ...] = ()
    """Earlier runs of a seed that was run again; they are not counted."""


@dataclass(frozen=True)
class Gap:
    """An empty cell of a row of ours.

    Attributes:
        command: what would fill it; "" if none can be named.
        why: then, why not.
        entries: the runs of `command`, for a list that `suite` takes.
    """

    row: str
    column: str
    command: str = ""
    why: str = ""
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class TableAudit:
    """A table's cells of ours, and what is missing in it."""

    id: str
    title: str
    cells: tuple[CellAudit, ...] = ()
    gaps: tuple[Gap, ...] = ()
    hints: tuple[str, ...] = ()
    """Sentences on what would make the table better: seeds that some cells have and others have not."""
    unfinished: tuple[str, ...] = ()
    """Run folders without a result that would stand in this table, with the command that goes on."""


@dataclass(frozen=True)
class Audit:
    """What became of tables since their numbers were made.

    Attributes:
        runs: name -> the audit of each run that stands in a cell.
        redo: runs that would bring stale cells up to date.
        problems: run folders that cannot be read, a sentence each.
        code: what this code is today.
    """

    runs_root: str
    tables: tuple[TableAudit, ...]
    runs: dict[str, RunAudit]
    redo: tuple[Entry, ...] = ()
    problems: tuple[str, ...] = ()
    code: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is stale."""
        return not any(run.stale for run in self.runs.values())

    def entries(self) -> list[Entry]:
        """The runs that redo what is stale, then those that fill empty cells, each once."""
        filling = [entry for table in self.tables for gap in table.gaps for entry in gap.entries]
        return _each_once([*self.redo, *filling])


def _each_once(entries: Sequence[Entry]) -> list[Entry]:
    """Of entries that ask for the same run, whatever their reasons, the first."""
    kept: dict[str, Entry] = {}
    for entry in entries:
        kept.setdefault(entry.model_copy(update={"reason": ""}).model_dump_json(), entry)
    return list(kept.values())
