"""Says what was run, for `scripts/fuzz`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.fuzz.budget import ran


def pytest_sessionfinish() -> None:
    """Write how many examples of each target were run to where ``FUZZ_REPORT`` says."""
    path = os.environ.get("FUZZ_REPORT")
    if path:
        Path(path).write_text(json.dumps(ran), encoding="utf-8")
