"""Figures as PNG, SVG or PDF: of tables, of the course of runs, of classes.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which people with any common form of colour
blindness tell apart; markers or line styles repeat the distinction. Text stays text in SVG and PDF. Equal
numbers give equal files.
"""

from mae_bench.figures.of_classes import draw_classes
from mae_bench.figures.of_runs import draw_curves
from mae_bench.figures.of_tables import draw, draw_table
from mae_bench.figures.style import FORMATS

__all__ = ["FORMATS", "draw", "draw_classes", "draw_curves", "draw_table"]
