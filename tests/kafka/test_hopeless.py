"""What waiting can't heal, in our words; rule 3 of ``kafka/delivery.py`` says in which order it is tested."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from ray_reproducer.core.errors import BrokerError, ConfigurationError, FencedError, ReproducerError
from ray_reproducer.kafka import hopeless

FORBIDDEN = "Grant WRITE and DESCRIBE on the transactional id our.id, WRITE on the topics"
UNSUPPORTED = "Use delivery=at_least_once."
TIMEOUT = "transaction.max.timeout.ms"
FENCED = "Nothing is lost: the other goes on."
KNOWN: dict[int, tuple[type[ReproducerError], str]] = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: (BrokerError, FORBIDDEN),
    KafkaError.GROUP_AUTHORIZATION_FAILED: (BrokerError, FORBIDDEN),
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (BrokerError, FORBIDDEN),
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (BrokerError, FORBIDDEN),
    KafkaError.UNSUPPORTED_VERSION: (BrokerError, UNSUPPORTED),
    KafkaError._UNSUPPORTED_FEATURE: (BrokerError, UNSUPPORTED),
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (ConfigurationError, TIMEOUT),
    KafkaError._FENCED: (FencedError, FENCED),
    KafkaError.PRODUCER_FENCED: (FencedError, FENCED),
    KafkaError.INVALID_PRODUCER_EPOCH: (FencedError, FENCED),
}
"""Code -> kind of the error, and what its hint says."""
OTHERS = (
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._CONFLICT,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.OFFSET_METADATA_TOO_LARGE,
)
"""Codes of what may heal."""


def refused(code: int, *, fatal: bool) -> ReproducerError:
    with pytest.raises(ReproducerError) as raised:
        hopeless.refuse(KafkaError(code, "why", fatal=fatal), "our group", "our.id")
    return raised.value


@pytest.mark.parametrize("fatal", [False, True])
@pytest.mark.parametrize("code", KNOWN, ids=lambda code: KafkaError(code).name())
def test_rule_3_what_is_known_is_told_for_what_it_is_also_if_the_library_calls_it_fatal(
    code: int, *, fatal: bool
) -> None:
    error = refused(code, fatal=fatal)
    kind, hint = KNOWN[code]
    assert type(error) is kind
    assert hint in error.hint
    assert f"why [{KafkaError(code).name()}]" in error.message


def test_who_was_replaced_is_told_in_which_group() -> None:
    message = refused(KafkaError.PRODUCER_FENCED, fatal=True).message
    assert message.startswith("another instance with group_id=our group has taken over: ")


@pytest.mark.parametrize("code", OTHERS, ids=lambda code: KafkaError(code).name())
def test_rule_3_anything_else_may_heal_unless_it_is_fatal(code: int) -> None:
    hopeless.refuse(KafkaError(code, "why", retriable=True), "our group", "our.id")
    hopeless.refuse(KafkaError(code, "why", txn_requires_abort=True), "our group", "our.id")
    assert type(refused(code, fatal=True)) is FencedError
