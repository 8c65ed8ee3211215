"""Options and arguments of more than one command."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shelf(StrEnum):
    """What `list` can show alone."""

    adapters = "adapters"
    recipes = "recipes"
    backbones = "backbones"
    tables = "tables"
    suites = "suites"


class Format(StrEnum):
    """How a table is written."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    html = "html"
    json = "json"


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY.PATH=VALUE", help="Values laid over the recipe's, in YAML.", show_default=False
    ),
]
DataRoot = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Folder that holds the datasets; default: that of the user's config file, else ./data.",
        show_default=False,
    ),
]
Runs = Annotated[
    str | None,
    typer.Option(
        "--runs",
        metavar="DIR",
        help="Folder that holds the runs; default: that of the user's config file, else ./runs.",
        show_default=False,
    ),
]
TableFormat = Annotated[Format, typer.Option("--format", help="How the table is written.")]
