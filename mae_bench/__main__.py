"""``python -m mae_bench`` is the console script ``mae-bench``."""

from __future__ import annotations

from mae_bench.cli import main

main()
