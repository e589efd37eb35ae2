"""What a record says of its file in a header, so that the registries can be made anew from the topics alone.

Readers of results need not know of it: the record's value stays what the extractor returned.
"""

from __future__ import annotations

from typing import Final

import orjson

from ray_reproducer.core.outcome import Facts, Outcome

HEADER: Final = "ray_reproducer.file"
"""Name of the header."""
_VERSION: Final = 1
_MAX_GROUP_ID_CHARS: Final = 32_767
"""Kafka's protocol has no longer ones."""


def encode(outcome: Outcome, group_id: str) -> tuple[tuple[str, bytes], ...]:
    """Return the headers of an outcome's record; none for a message that is no chunk."""
    if not outcome.path:
        return ()
    fields = [_VERSION, group_id, outcome.path, outcome.reason, *outcome.facts]
    return ((HEADER, orjson.dumps(fields)),)


def group_of(value: object) -> str:
    """Return the id of the group that a header's value is of; "" if it is not to be understood."""
    try:
        fields = orjson.loads(value) if isinstance(value, bytes) else None
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(fields, list) or len(fields) < 2 or fields[0] != _VERSION or not isinstance(fields[1], str):
        return ""
    return fields[1] if len(fields[1]) <= _MAX_GROUP_ID_CHARS else ""


def decode(key: str, value: bytes, group_id: str) -> Outcome | None:
    """Read a header back as an outcome without its record; None if it is another group's, or not to be understood.

    Args:
        key: of the record.
        value: of the header.
        group_id: whose records are wanted.
    """
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, list) or len(fields) != 4 + len(Facts._fields) or fields[:2] != [_VERSION, group_id]:
        return None
    path, reason, *facts = fields[2:]
    if not isinstance(path, str) or not isinstance(reason, str) or not all(isinstance(fact, int) for fact in facts):
        return None
    return Outcome(path, "dead_letter" if reason else "result", key, b"", reason=reason, facts=Facts(*facts))
