"""What the outbox makes of errors that the client library itself has lost."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.kafka import faults
from ray_reproducer.kafka.outbox import _served


class Crashed:
    """A producer whose flush ends as the library's does after a fatal error."""

    def __init__(self, reason: KafkaException | None) -> None:
        self._reason = reason

    def flush(self, _timeout_s: float) -> int:
        raise SystemError("flush returned NULL without setting an exception") from self._reason


def flushed(producer: Any) -> KafkaError:
    with pytest.raises(KafkaException) as raised:
        _served(lambda: int(producer.flush(1.0)))
    return faults.of(raised.value)


def test_a_fatal_error_that_the_library_wrapped_is_unwrapped() -> None:
    fenced = KafkaError(KafkaError._FENCED, fatal=True)
    assert flushed(Crashed(KafkaException(fenced))) is fenced


def test_a_fatal_error_that_the_library_lost_is_fatal_all_the_same() -> None:
    lost = flushed(Crashed(None))
    assert faults.is_fenced(lost)
    assert not faults.same_call_again(lost)
    assert "lost its reason" in faults.text(lost)
