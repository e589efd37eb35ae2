"""Everything that runs on Ray: consumers, extraction tasks, the committer, and the supervisor that watches them.

The decisions are in ``core``; what is here carries them out.
"""
