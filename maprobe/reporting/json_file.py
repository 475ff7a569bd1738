"""The report as JSON: the versioned source from which every other format can be made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["render"]


def render(data: Mapping[str, Any]) -> str:
    """Return the report's plain data as JSON text; non-finite numbers are strings in it already."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
