"""The reason codes of dead letters, all in one place.

Rule: what this version gives is here, and nothing else. What is read may have others: a later version may have more.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

Reason: TypeAlias = Literal[
    "extractor_raised",
    "not_a_dict",
    "not_json",
    "result_too_large",
    "hash_mismatch",
    "worker_crashed",
    "out_of_memory",
    "node_died",
    "not_writable",
    "timeout",
    "tombstone",
    "not_a_chunk",
    "bad_chunk_field",
    "unsafe_path",
    "incomplete",
    "superseded",
    "inconsistent_chunks",
]
"""Why a file, or a message, has no metadata. What to do about each: ``observability.summary``."""

REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""All of them, in the order in which people are told of them."""
