"""Makes pytester and the helper modules of the unit tests available."""

from __future__ import annotations

import sys
from pathlib import Path

pytest_plugins = ["pytester"]

sys.path.insert(0, str(Path(__file__).parent / "tests" / "unit"))
