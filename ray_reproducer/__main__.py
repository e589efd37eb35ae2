"""``python -m ray_reproducer``."""

from __future__ import annotations

import sys

from ray_reproducer.app import main

if __name__ == "__main__":
    sys.exit(main())
