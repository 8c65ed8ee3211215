"""The report: everything that a tree of runs holds, as one HTML page that needs nothing else.

    content.py     runs and tables as plain values
    curves.py      what the runs logged, thinned out
    unfinished.py  what is known of runs that still go on
    drawings.py    figures, as SVG that can stand inside a page
    pictures.py    what the runs drew, scaled down and embedded
    page.py        the page: template, style and program put together
    page.html.j2   its text; page.css its look; program/ what makes it answer

`write` is all that the verb `report` calls. Whatever comes from runs, folders or layouts is untrusted text:
the template escapes it, or it travels as JSON that the program only ever shows as text.
"""

from mae_bench.report.page import Limits, write

__all__ = ["Limits", "write"]
