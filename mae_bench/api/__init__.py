"""The verbs as functions, for notebooks and other programs; the command line calls these and nothing else.

`data_root` and `runs_root` are those of the user's configuration file where they are not given, else
``./data`` and ``./runs``; a `data_root` that is given puts what that file says of data out of force
(`mae_bench.roots`).
"""

from mae_bench.api.data import (
    data_check,
    data_corrupt,
    data_fingerprint,
    data_where,
)
from mae_bench.api.results import (
    all_tables,
    audit,
    compare,
    draw_classes,
    draw_curves,
    export_results,
    figure,
    import_wandb,
    load_results,
    push_table,
    report,
    table,
)
from mae_bench.api.running import (
    check,
    demo,
    judge,
    load_backbone,
    pretrain,
    pretrain_seeds,
    run,
    run_seeds,
    suite,
    visualize,
)

__all__ = [
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
