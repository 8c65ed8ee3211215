"""A table as plain values, for JSON, for the report and for other programs."""

from __future__ import annotations

import math
from typing import Any

from mae_bench.render.parts import number
from mae_bench.tables.cells import Cell, Table

SCHEMA = 1


def as_data(table: Table) -> dict[str, Any]:
    """The table as nested plain values, all of which JSON has words for.

    A key may be added without a new `SCHEMA`; one that changes its meaning or goes away makes a new one.
    Marks are numbers of footnotes, the first of which is 1. `text` of a cell is the number as shown, with its
    standard deviation over seeds and a ``?`` if it was not found in a source.
    """
    return {
        "schema": SCHEMA,
        "id": table.id,
        "title": table.title,
        "caption": table.caption,
        "paper": table.paper,
        "row_label": table.row_label,
        "facts": [{"key": fact.key, "label": fact.label} for fact in table.facts],
        "columns": [
            {
                "key": column.key,
                "label": column.label,
                "group": column.group,
                "unit": column.unit,
                "better": column.better,
                "decimals": column.decimals,
                "x": column.x,
                "marks": list(table.column_marks.get(column.key, ())),
            }
            for column in table.columns
        ],
        "rows": [
            {
                "label": row.label,
                "ours": row.ours,
                "group": row.group,
                "facts": dict(row.facts),
                "marks": list(row.marks),
                "cells": {
                    column.key: _cell(row.cells[column.key])
                    for column in table.columns
                    if column.key in row.cells
                },
            }
            for row in table.rows
        ],
        "footnotes": list(table.footnotes),
        "spread": table.spread,
        "sampling": table.sampling,
        "ranking": table.ranking,
        "remarks": list(table.remarks),
        "problems": list(table.problems),
        "figure": table.figure.model_dump(mode="json") if table.figure is not None else None,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "value": None if math.isnan(cell.value) else cell.value,
        "text": number(cell),
        "std": cell.std,
        "n": cell.n,
        "decimals": cell.decimals,
        "rank": cell.rank,
        "marks": list(cell.marks),
        "departures": cell.departures,
        "verified": cell.verified,
        "source": cell.source,
        "runs": list(cell.runs),
        "recipe_hash": cell.recipe_hash,
        "interval": None if cell.interval is None else list(cell.interval),
        "delta": cell.delta,
    }
