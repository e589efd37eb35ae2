"""Everything that runs on Ray: consumers, extraction tasks, the committer, and the supervisor that watches them.

The decisions are in ``core``; what is here carries them out.
"""

import os

# Ray would hold back what its daemons say, and print it to stdout when the process ends. It reads this when imported.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
