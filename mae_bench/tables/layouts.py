"""Table layouts: the files under `tables/`, one per table of a paper.

A layout holds the columns, the published rows with the source of each, and rules that say which of our runs
fill which column. A path to a layout file of the user's own works wherever the name of a table does; such a
file may extend a layout that comes with mae-bench (`mae_bench.tables.extended_layouts`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mae_bench import resources, yamlfile
from mae_bench.errors import MaeBenchError, near
from mae_bench.settings import Settings
from mae_bench.tables import extended_layouts
from mae_bench.tables.hyperparameters import HyperParameters
from mae_bench.validation import validate


class Column(Settings):
    """A column of numbers."""

    key: str
    label: str
    unit: str = "%"
    better: Literal["higher", "lower"] | None = "higher"
    """Null: neither, so that nothing is marked as best."""
    decimals: Annotated[int, Field(ge=0, le=6)] = 1
    """Digits behind the point of our numbers; published ones keep the digits they were printed with."""
    x: float | None = None
    """Where the column stands on the axis of a figure, and which value of a rule's `axis` fills it."""
    group: str | None = None
    """A heading over this and its neighbours of the same group; in a figure, a panel of their own."""


class FactColumn(Settings):
    """A column of words beside the row's name."""

    key: str
    label: str
    ours: str | None = None
    """Dotted path in `result.json` that fills it for our rows: ``backbone.pretraining.dataset``."""


class RowProtocol(Settings):
    """In which a published row departs from the published protocol of its table; what is null does not."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    image_size: (
        Annotated[int, Field(ge=1)] | Annotated[list[int], Field(min_length=2, max_length=2)] | None
    ) = None
    """Pixels of a side, or height and width."""
    data: str | None = None
    """What it was trained and judged on."""
    engine: str | None = None
    selection: str | None = None
    """How the number was chosen."""
    other: str | None = None
    """Any other difference, in words."""


class PublishedRow(Settings):
    """A row of numbers that others printed."""

    name: str
    facts: dict[str, str] = Field(default_factory=dict)
    values: dict[str, float | str | None]
    """Column key -> number; words only in a table of settings."""
    source: Annotated[list[str], Field(min_length=1)]
    """Keys of the layout's `sources`."""
    verified: bool
    """Whether the numbers stand in a source that was read; others are marked and never ranked."""
    note: str | None = None
    """Becomes a footnote of the row."""
    protocol: RowProtocol | None = None
    """Only for a row with a protocol of its own: its numbers carry a footnote and are not compared."""


class Rule(Settings):
    """Which of our runs fill a column, and by which metric.

    Of the rules for one metric the first that fits a run takes it; rules for different metrics put one run
    into several columns.
    """

    task: str
    """The task of the run, for example ``imagenet-finetune``."""
    metric: str | None = None
    """Name of the metric; null: the task's headline."""
    column: str | None = None
    """The column; or give `axis`."""
    axis: str | None = None
    """Dotted path below `config` whose value is the `x` of the column, for example ``blocks``."""
    group: str | None = None
    """With `axis`: only columns of this group."""
    protocol: str | None = None
    """Recipe that holds the column's published protocol; runs that follow another carry a footnote."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Dotted path in `result.json` -> what it must be: a value, a pattern with ``*``, or a list of either.
    A list in the result is matched as its items joined by commas."""
    caveat: str | None = None
    """Why the numbers of these runs are not comparable, whatever their settings; becomes their footnote."""


class RowName(Settings):
    """How the rows of some runs are called."""

    where: dict[str, Any] = Field(default_factory=dict)
    """As in `Rule`; the first entry that fits a run names its row."""
    name: str
    """Text with ``{backbone}``, ``{tag}`` (the end of a timm name) or ``{dotted.path}`` of `result.json`."""


class FigureSettings(Settings):
    """How the table is drawn: over the columns' `x`, a curve per row, a panel per group of columns."""

    kind: Literal["curves", "scatter"] = "curves"
    """`scatter` leaves the lines between the points out."""
    x_label: str
    y_label: str
    ticks: Literal["x", "label"] = "x"
    """What stands at the axis: each column's `x`, or its label where `x` only gives the place."""
    x_scale: Literal["linear", "sqrt", "log"] = "linear"
    """`sqrt` spreads the small values without hiding zero."""


class Layout(Settings):
    """A table: what stands in it, and what is said around it."""

    id: str
    title: str
    paper: str | None = None
    caption: str = ""
    row_label: str = "Method"
    columns: Annotated[list[Column], Field(min_length=1)]
    facts: list[FactColumn] = Field(default_factory=list)
    sources: dict[str, str] = Field(default_factory=dict)
    published: list[PublishedRow] = Field(default_factory=list)
    runs: dict[str, Any] = Field(default_factory=dict)
    """What every run of this table must be, as in `Rule.where`; other runs are not this table's business."""
    ours: list[Rule] = Field(default_factory=list)
    rows: Literal["weights", "name"] = "weights"
    """What makes a row of ours: one set of weights, or one name (the sizes of a model then share a row)."""
    names: list[RowName] = Field(default_factory=list)
    comparison: Literal["protocol", "recipe"] = "protocol"
    """`protocol`: our number is comparable if its recipe departs nowhere from the published one; footnotes
    say where it does. `recipe`: there is no one published protocol; footnotes name the recipe, and only runs
    of one recipe are compared."""
    selection: str | None = None
    """How the published numbers were chosen, as `selection` of `result.json` says it, or a pattern with
    ``*``; a run of ours that chose otherwise carries a footnote."""
    settings: HyperParameters | None = None
    """For a table whose rows are settings, and whose columns of ours are recipes."""
    notes: list[str] = Field(default_factory=list)
    figure: FigureSettings | None = None


def list_tables() -> dict[str, str]:
    """Name -> title of the tables that come with mae-bench, without parsing them."""
    return {name: resources.root_text(path, "title") or "" for name, path in resources.tables().items()}


def find_layout(id_or_path: str | os.PathLike[str]) -> Path:
    """The layout file of a table's name, or of a path.

    Raises:
        MaeBenchError: no table has this name, or the file does not exist.
    """
    text = os.fspath(id_or_path)
    if yamlfile.is_yaml_name(text):
        path = Path(text)
        if not path.is_file():
            raise MaeBenchError(f"{path}: there is no such table layout")
        return path
    known = resources.tables()
    if text not in known:
        raise MaeBenchError(
            f"there is no table '{text}'{near(text, known)} (known: {', '.join(known)}; or give a .yaml file)"
        )
    return known[text]


def load_layout(id_or_path: str | os.PathLike[str]) -> Layout:
    """Read and check a layout.

    Raises:
        MaeBenchError: no such layout, or one sentence per fault with the file and the dotted path.
    """
    path = find_layout(id_or_path)
    try:
        document = extended_layouts.load(path, find_layout)
        layout = validate(Layout, document.values, document.origins)
    except MaeBenchError as error:
        raise MaeBenchError(f"{path} is not a valid table layout:\n{error}") from None
    faults = _faults(layout)
    if faults:
        raise MaeBenchError("\n".join([f"{path} is not a valid table layout:", *faults]))
    return layout


def _faults(layout: Layout) -> list[str]:
    """What single fields cannot show: names that stand twice, or that nothing answers to."""
    columns, facts = [c.key for c in layout.columns], [f.key for f in layout.facts]
    faults = [f"columns: the key '{key}' stands twice" for key in _repeated([*columns, *facts])]
    for i, row in enumerate(layout.published):
        at = f"published.{i} ({row.name})"
        faults += [f"{at}: no column '{key}'{near(key, columns)}" for key in row.values if key not in columns]
        faults += [f"{at}: no fact '{key}'{near(key, facts)}" for key in row.facts if key not in facts]
        if layout.settings is None:
            faults += [
                f"{at}: '{value}' in '{key}' is no number; words stand only in a table of settings"
                for key, value in row.values.items()
                if isinstance(value, str)
            ]
        faults += [
            f"{at}: no source '{key}'{near(key, layout.sources)}"
            for key in row.source
            if key not in layout.sources
        ]
    for i, rule in enumerate(layout.ours):
        if (rule.column is None) == (rule.axis is None):
            faults.append(f"ours.{i}: give exactly one of column and axis")
        if rule.column is not None and rule.column not in columns:
            faults.append(f"ours.{i}: no column '{rule.column}'{near(rule.column, columns)}")
    if layout.settings is not None:
        faults += layout.settings.faults(columns, [row.name for row in layout.published])
    drawn = layout.figure is not None or any(rule.axis is not None for rule in layout.ours)
    if drawn:
        faults += [f"columns: '{c.key}' needs an x for the axis" for c in layout.columns if c.x is None]
    return faults


def _repeated(keys: list[str]) -> list[str]:
    return sorted({key for key in keys if keys.count(key) > 1})
