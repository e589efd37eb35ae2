"""How often an actor that holds much lets Python look for garbage that refers to itself."""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (50_000, 20, 20)
"""Objects more than before a look at the newest; such looks before one at the middle-aged; and such before one at all.

Python's own (700, 10, 10) are for programs that hold little. A committer that catches up holds 20,000 files that wait,
half a million objects. Looking at them took a fourth of its time (20 of 75 microseconds a file, `scripts/bench core`),
and none of them is garbage of that kind: the core makes no cycles. A consumer makes thousands between two flushes. What
libraries make is still found, later.
"""


def relax() -> None:
    """Look less often from now on, and never again at what is there already: modules and what they made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
