"""Whether backbones differ: finished runs compared on the images that all of them were judged on.

`sides` finds the runs that are named and puts the seeds of one training together; `judging` computes
differences, intervals and tests (`mae_bench.resampling`, `mae_bench.significance`); `wording` says in plain
words what follows; `rendering` writes it down. docs/statistics.md explains the numbers. No torch.
"""

from mae_bench.comparing.judging import Comparison, Report, compare
from mae_bench.comparing.rendering import FORMATS, render
from mae_bench.comparing.sides import Side

__all__ = ["FORMATS", "Comparison", "Report", "Side", "compare", "render"]
