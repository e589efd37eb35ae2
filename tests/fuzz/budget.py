"""How many examples each target of the fuzz tests gets, and how long one may take.

One knob: ``FUZZ_EXAMPLES`` is their number over all targets; without it the profile decides (``HYPOTHESIS_PROFILE``).
A target's share goes by what an example of it costs: reading a message takes microseconds, composing a configuration
a tenth of a second.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

EXAMPLES_BY_PROFILE: Final = {"quick": 500, "dev": 2_000, "ci": 3_000, "thorough": 20_000, "soak": 100_000}
SHARES: Final = {
    "message": 0.28,
    "dead_letter": 0.08,
    "topic": 0.06,
    "commit_metadata": 0.103,
    "commit_metadata_resealed": 0.15,
    "commit_metadata_start": 0.015,
    "output_path": 0.08,
    "openmsistream_config": 0.07,
    "tabular": 0.04,
    "xrd_csv": 0.02,
    "file_info": 0.006,
    "settings": 0.003,
    "command_line": 0.002,
    "replay": 0.002,
    "upload": 0.002,
    "convert_config": 0.005,
}
"""Part of all examples that a target gets."""
DEADLINE: Final = timedelta(seconds=120)
"""An example that takes longer hangs. They take milliseconds; the first that loads Hydra, up to half a minute."""
_SECONDS_AN_EXAMPLE: Final = 0.2
"""For the time limit of a whole test; the slowest targets take half of it."""

ran: Counter[str] = Counter()
"""How many examples of each target were run in this process."""


def total() -> int:
    """Return the number of examples over all targets."""
    given = os.environ.get("FUZZ_EXAMPLES")
    profile = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
    return int(given) if given else EXAMPLES_BY_PROFILE[profile]


def fuzz(target: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a test below its ``@given``: it gets the examples, the deadline and the time limit of its target."""
    examples = max(10, round(total() * SHARES[target]))

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def counted(*arguments: Any, **keywords: Any) -> None:
            ran[target] += 1
            test(*arguments, **keywords)

        limited = settings(
            max_examples=examples,
            deadline=DEADLINE,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.large_base_example,
                HealthCheck.function_scoped_fixture,
            ],
        )(counted)
        marked: Callable[..., None] = pytest.mark.timeout(60 + examples * _SECONDS_AN_EXAMPLE)(limited)
        return marked

    return decorate
