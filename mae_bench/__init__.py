"""Pretrain masked autoencoders and measure how vision backbones transfer.

The verbs of the command line are functions here: `pretrain`, `run`, `check`, `visualize`, `judge`, `table`,
`figure`, `compare`, `demo`; `run_seeds` and `pretrain_seeds` do several seeds; `data_check`, `data_where`,
`data_fingerprint` and `data_corrupt` are about data; `load_backbone` and `load_results` give
what runs are made of and what they left. They are imported when first used, so that ``import mae_bench``
costs nothing and imports no torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_bench.api import (
        all_tables,
        audit,
        check,
        compare,
        data_check,
        data_corrupt,
        data_fingerprint,
        data_where,
        demo,
        draw_classes,
        draw_curves,
        export_results,
        figure,
        import_wandb,
        judge,
        load_backbone,
        load_results,
        pretrain,
        pretrain_seeds,
        push_table,
        report,
        run,
        run_seeds,
        suite,
        table,
        visualize,
    )
    from mae_bench.errors import MaeBenchError
    from mae_bench.tables.views import View

    __version__: str

__all__ = [
    "MaeBenchError",
    "View",
    "__version__",
    "all_tables",
    "audit",
    "check",
    "compare",
    "data_check",
    "data_corrupt",
    "data_fingerprint",
    "data_where",
    "demo",
    "draw_classes",
    "draw_curves",
    "export_results",
    "figure",
    "import_wandb",
    "judge",
    "load_backbone",
    "load_results",
    "pretrain",
    "pretrain_seeds",
    "push_table",
    "report",
    "run",
    "run_seeds",
    "suite",
    "table",
    "visualize",
]


class _Package(ModuleType):
    """This package, with its functions kept apart from its modules of the same name.

    Importing `mae_bench.run` makes Python set the attribute `run` of the package to that module; the
    function must win, in whatever order things are imported. ``from mae_bench.run import Run`` works all
    the same, since modules are found by their full name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mae-bench")
    if name == "MaeBenchError":
        from mae_bench.errors import MaeBenchError

        return MaeBenchError
    if name == "View":
        from mae_bench.tables.views import View

        return View
    if name in __all__:
        from mae_bench import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
