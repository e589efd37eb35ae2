# ruff: noqa: SLF001 - the library's own error codes begin with an underscore; only this module touches them
"""What an error of a Kafka client means for us, and keeping track of trouble that may heal.

The order in which errors are tested matters (see ``delivery``); this module only says what a single
``KafkaError`` is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from confluent_kafka import KafkaError, KafkaException

END_OF_PARTITION: Final = KafkaError._PARTITION_EOF
"""Not an error: all that a partition held has been read."""
OFFSET_GONE: Final = KafkaError._AUTO_OFFSET_RESET
"""The next offset can't be read."""
FATAL: Final = KafkaError._FATAL
"""The client can't be used any more, for a reason that another error has."""
BROKEN: Final = KafkaError._TRANSPORT
"""A connection broke."""
TIMED_OUT: Final = KafkaError._TIMED_OUT
"""Something was not answered in time."""

_FENCED: Final = frozenset((KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH))
_FORBIDDEN: Final = frozenset(
    (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )
)
_TOO_LARGE: Final = frozenset(
    (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)
)
_AUTHENTICATION: Final = frozenset((KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED))
_PURGED: Final = frozenset((KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT))
_VAGUE: Final = frozenset((KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN))
_TIMING: Final = re.compile(r" \(after \d+ms.*\)$")
_UNSUPPORTED: Final = frozenset((KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE))
_CONNECTION: Final = frozenset(
    (
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._SSL,
        KafkaError._AUTHENTICATION,
        KafkaError._TIMED_OUT,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.NETWORK_EXCEPTION,
    )
)
_MOVING: Final = frozenset(
    (
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
    )
)


def of(exception: KafkaException) -> KafkaError:
    """Return the ``KafkaError`` that an exception of the library carries."""
    error: KafkaError = exception.args[0]
    return error


def attempt(call: Callable[[], object]) -> KafkaError | None:
    """Make a call and return the error that it raises, or None."""
    try:
        call()
    except KafkaException as exception:
        return of(exception)
    return None


def text(error: KafkaError) -> str:
    """One line that says what the client library says, with the code's name, without how long it took."""
    said = _TIMING.sub("", " ".join(error.str().split()))
    return f"{said} [{error.name()}]"


def is_vague(error: KafkaError) -> bool:
    """Whether the error only says that something took too long or that no broker is there, not why."""
    return error.code() in _VAGUE


def is_fenced(error: KafkaError) -> bool:
    """Whether another producer with the same transactional id has taken over, or the producer is dead for good."""
    return error.fatal() or error.code() in _FENCED


def is_nothing_to_abort(error: KafkaError) -> bool:
    """Whether an abort failed because the broker knows of no open transaction; the client library calls that fatal.

    It is so if no partition could be added to the transaction. Who is fenced is told something else.
    """
    return error.code() == KafkaError.INVALID_TXN_STATE


def is_forbidden(error: KafkaError) -> bool:
    """Whether the broker denies us the right; waiting does not help."""
    return error.code() in _FORBIDDEN


def is_of_group(error: KafkaError) -> bool:
    """Whether the broker denies us the right on a group.

    The client library asks for the group's coordinator though nobody needs it to read partitions that are assigned.
    """
    return error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED


def is_too_large(error: KafkaError) -> bool:
    """Whether a record, or a batch of them, is larger than client or broker allow."""
    return error.code() in _TOO_LARGE


def is_purged(error: KafkaError) -> bool:
    """Whether a record was thrown away by the client, because of something else."""
    return error.code() in _PURGED


def is_unsupported(error: KafkaError) -> bool:
    """Whether the broker lacks what was asked for."""
    return error.code() in _UNSUPPORTED


def is_connection(error: KafkaError) -> bool:
    """Whether the error is about reaching a broker."""
    return error.code() in _CONNECTION


def is_moving(error: KafkaError) -> bool:
    """Whether a leader or a coordinator is being found: always so for what is new on a cluster."""
    return error.code() in _MOVING


def is_authentication(error: KafkaError) -> bool:
    """Whether the broker does not accept who we say we are; waiting does not help."""
    return error.code() in _AUTHENTICATION


def same_call_again(error: KafkaError) -> bool:
    """Whether the very same call is to be repeated.

    A producer with a fatal error answers ``_CONFLICT`` and claims that it is retriable: repeating that
    never ends.
    """
    return (
        not is_fenced(error)
        and not error.txn_requires_abort()
        and error.retriable()
        and error.code() != KafkaError._CONFLICT
    )


def as_lines(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Make a listener of :class:`Health` that tells trouble as lines for a person, and not that it is over."""
    return lambda text: tell(f"broker: {text}") if text else None


_BEFORE_REQUESTS: Final = re.compile(
    r"in state (INIT|DOWN|TRY_CONNECT|CONNECT|SSL_HANDSHAKE|APIVERSION_QUERY|AUTH_\w+)\b"
)


def is_of_request(said: str) -> bool:
    """Whether what the library says of a connection may be of one with a request: not if it was still being made."""
    return not _BEFORE_REQUESTS.search(said)


class Health:
    """Tells a listener of trouble with the broker, once for each change.

    Args:
        on_trouble: called with one line of text, or "" when all is well again; from the thread that uses the client.
    """

    def __init__(self, on_trouble: Callable[[str], None]) -> None:
        self._on_trouble = on_trouble
        self.trouble = ""
        self.disturbed_at_s = 0.0
        self._is_listening = True

    def disturbed(self) -> None:
        """Take note that a connection broke; nothing is said of that."""
        self.disturbed_at_s = time.monotonic()

    def on_error(self, error: KafkaError) -> None:
        """Take an error that belongs to no single call (the library's ``error_cb``)."""
        if is_of_request(error.str()):
            self.disturbed()
        if not self._is_listening:
            return
        self.report(text(error), vague=is_vague(error))

    @contextmanager
    def old_news(self) -> Iterator[None]:
        """Say nothing of errors that come within: they are about connections that idled, hours ago perhaps."""
        self._is_listening = False
        try:
            yield
        finally:
            self._is_listening = True

    def report(self, trouble: str, *, vague: bool = False) -> None:
        """Say what is wrong, as long as it lasts; something vague does not replace what is known already."""
        if trouble != self.trouble and not (vague and self.trouble):
            self.trouble = trouble
            self._on_trouble(trouble)

    def well(self) -> None:
        """Say that the broker does what is asked of it."""
        if self.trouble:
            self.report("")
