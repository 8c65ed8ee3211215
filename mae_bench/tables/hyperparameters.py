"""Tables of settings: what a paper and its release print, beside what our recipes say at that moment.

The rows of such a layout are settings. Its `published` rows hold the words that others printed; its
`settings` say which recipe fills which column, and where in a recipe's configuration each setting stands. A
value of ours that is not the published one carries a footnote with the reason, as the recipe's own notes give
it, or the layout.

This module imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from mae_bench import departures
from mae_bench.errors import MaeBenchError, near
from mae_bench.settings import Settings, TaskConfig, plain

if TYPE_CHECKING:
    from mae_bench.tables.cells import Row
    from mae_bench.tables.layouts import Layout, PublishedRow


class Setting(Settings):
    """Where one setting stands in a recipe, and what was published for it."""

    key: str
    """Dotted path in the resolved configuration, for example ``optim.blr``."""
    published: Any = None
    """The published value as a configuration says it, or a column -> value where it goes by the size of the
    backbone. Not looked at where the published row has no words in the column that ours are compared with."""
    words: dict[str, str] = Field(default_factory=dict)
    """Our value as a configuration says it -> as the field says it."""
    note: str | None = None
    """Words of the note in which a recipe says why it departs here."""
    why: str | None = None
    """Why our recipes depart here, where they have no note on it."""


class HyperParameters(Settings):
    """Which recipes a table of settings shows."""

    compared: str
    """Key of the column with the published values that ours are compared with."""
    recipes: Annotated[dict[str, str], Field(min_length=1)]
    """Column -> recipe."""
    rows: Annotated[dict[str, Setting], Field(min_length=1)]
    """Name of a published row -> where that setting stands in a recipe."""

    def faults(self, columns: Collection[str], names: Collection[str]) -> list[str]:
        """Names that nothing in the layout answers to, one sentence each.

        Args:
            columns: keys of the layout's columns.
            names: names of its published rows.
        """
        sought = [("settings.compared", self.compared), *(("settings.recipes", key) for key in self.recipes)]
        found = [f"{at}: no column '{key}'{near(key, columns)}" for at, key in sought if key not in columns]
        found += [
            f"settings.rows: no published row '{name}'{near(name, names)}"
            for name in self.rows
            if name not in names
        ]
        found += [f"settings.rows: '{name}' is missing" for name in names if name not in self.rows]
        for name, setting in self.rows.items():
            by_column = setting.published if isinstance(setting.published, Mapping) else {}
            if set(by_column) & set(self.recipes):
                lacking = [key for key in self.recipes if key not in by_column]
                found += [f"settings.rows.{name}.published: no value for column '{key}'" for key in lacking]
        return found


def hyperparameter_rows(layout: Layout) -> list[Row]:
    """The rows of a table of settings, in the order of the published ones, ours read from our recipes.

    Raises:
        MaeBenchError: no such recipe, or it has no such setting.
    """
    from mae_bench.tables.cells import Cell, Row

    assert layout.settings is not None
    configurations = {column: _configuration(recipe) for column, recipe in layout.settings.recipes.items()}
    rows = []
    for row in layout.published:
        source = " and ".join(layout.sources[key] for key in row.source)
        cells = {
            column: Cell(math.nan, text=said(value), verified=row.verified, source=source)
            for column, value in row.values.items()
            if value is not None
        }
        for column, config in configurations.items():
            text, footnote = _ours(layout, row, column, config)
            cells[column] = Cell(math.nan, text=text, departures=footnote)
        rows.append(Row(row.name, ours=False, cells=cells, facts=row.facts))
    return rows


def _configuration(recipe: str) -> TaskConfig:
    from mae_bench.recipe import resolve

    return resolve(recipe).config


def _ours(layout: Layout, row: PublishedRow, column: str, config: TaskConfig) -> tuple[str, str]:
    """The value of a recipe in words, and why it is not the published one; empty if it is."""
    assert layout.settings is not None
    setting = layout.settings.rows[row.name]
    value = _at(layout, setting.key, config)
    text = setting.words.get(said(value), said(value))
    reason = next((note for note in config.notes if setting.note is not None and setting.note in note), "")
    if row.values.get(layout.settings.compared) is None:
        # Nothing was printed to compare with; where a reason is known it still helps the reader.
        return text, reason or setting.why or ""
    published = _published(setting, column)
    if value == published:
        return text, ""
    printed = setting.words.get(said(published), said(published))
    return text, reason or setting.why or f"published is {printed}; {config.recipe} does not say why"


def _published(setting: Setting, column: str) -> Any:
    by_column = isinstance(setting.published, Mapping) and column in setting.published
    return setting.published[column] if by_column else setting.published


def _at(layout: Layout, key: str, config: TaskConfig) -> Any:
    """The value at a dotted path of a configuration; None below a section that is switched off.

    Raises:
        MaeBenchError: the configuration has no such setting.
    """
    value: Any = plain(config)
    for part in key.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping) or part not in value:
            hint = near(part, value) if isinstance(value, Mapping) else ""
            raise MaeBenchError(f"table {layout.id}: the recipe {config.recipe} has no setting '{key}'{hint}")
        value = value[part]
    return value


def said(value: Any) -> str:
    """A setting as papers write it: 5e-4 and not 0.0005, ``0.9, 0.95``, ``none``."""
    if isinstance(value, float) and 0 < abs(value) < 1e-2:
        digits, exponent = f"{value:.6e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return departures.show(value)
