"""Tables: published rows and our runs beside them, each cell traceable to its source or its run folders."""

from mae_bench.tables.cells import Cell, Row, Table
from mae_bench.tables.layouts import list_tables
from mae_bench.tables.making import all_tables, build, make_table, render_table

__all__ = ["Cell", "Row", "Table", "all_tables", "build", "list_tables", "make_table", "render_table"]
