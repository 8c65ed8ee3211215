"""The answer to a call of what only a compiled mmcv does."""

from __future__ import annotations

from mae_bench.errors import MaeBenchError


class MissingOperatorError(MaeBenchError, NotImplementedError):
    """An operator of mmcv was called that only a compiled `mmcv` has.

    Args:
        operator: what was called.
    """

    def __init__(self, operator: str) -> None:
        super().__init__(
            f"mmcv's operator {operator} needs a compiled mmcv, which is not installed here: in the place of "
            "mmcv-lite put mmcv>=2.1,<2.2, built for this torch"
        )
