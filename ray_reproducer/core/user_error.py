"""What an exception of user code says, in one line, whatever it does when it is asked.

Such an exception may fail to say what it is (``__str__`` raises, or returns no text), may say megabytes, and may say
what UTF-8 can't carry. None of that may cost more than its own file.
"""

from __future__ import annotations

from typing import Final

MAX_CHARS: Final = 10_000
"""Longest text that is looked at; a dead letter keeps less of it."""
_NOTHING: Final = "(its text can't be made)"


def one_line(error: BaseException) -> str:
    """Return the exception's type and its text, on one line."""
    try:
        text = " ".join(str(error)[:MAX_CHARS].split())
    # Whatever it raises, it is still the user's exception that is to be told, not this one.
    except BaseException:  # noqa: BLE001
        text = _NOTHING
    kind = type_name(error)
    return f"{kind}: {text}" if text else kind


def type_name(value: object) -> str:
    """Return the name of a value's type, as it was written, whatever a metaclass makes of it."""
    kind = type(value)
    return str(type.__dict__["__name__"].__get__(kind, type(kind)))
