"""Tables as JSON: what `mae_bench.render.as_data` gives."""

from __future__ import annotations

import json
from typing import Any


def write(data: Any) -> str:
    """Plain values as indented JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
