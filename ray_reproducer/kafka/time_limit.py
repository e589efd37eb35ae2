"""A time limit for calls of the client library that may ignore the one they were given (librdkafka issue 5456)."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException

from ray_reproducer.kafka import faults


def no_longer_than(call: Callable[[], None], deadline_s: float, look_s: float, meanwhile: Callable[[], None]) -> None:
    """Make a call in a thread of its own, and leave it there if it has not come back in time.

    Args:
        call: what to do.
        deadline_s: when to leave it (``time.monotonic()``).
        look_s: how long to wait between two looks at the clock, in seconds.
        meanwhile: called at each look; may raise to leave the call at once.

    Raises:
        KafkaException: what the call raises; or that it was left. Then its client must not be used any more.
    """
    ended: queue.SimpleQueue[KafkaError | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: ended.put(faults.attempt(call)), name="in a transaction", daemon=True).start()
    while True:
        try:
            error = ended.get(timeout=look_s)
            break
        except queue.Empty:
            meanwhile()
            if time.monotonic() >= deadline_s:
                raise KafkaException(KafkaError(faults.TIMED_OUT, "the client library does not answer")) from None
    if error is not None:
        raise KafkaException(error)
