"""What waiting can't heal when results are written in transactions, as errors for the person who reads them."""

from __future__ import annotations

from confluent_kafka import KafkaError

from ray_reproducer.core.errors import BrokerError, ConfigurationError, FencedError
from ray_reproducer.kafka import faults


def refuse(error: KafkaError, group_id: str, transactional_id: str) -> None:
    """Raise an error in our words if it can't heal; the order is rule 3 of ``delivery``.

    Args:
        error: what a call has said.
        group_id: whose positions are committed.
        transactional_id: of the producer.

    Raises:
        BrokerError: we may not do this, or the broker can't.
        ConfigurationError: the broker refuses a setting.
        FencedError: another instance has taken over.
    """
    name = faults.text(error)
    if faults.is_forbidden(error):
        raise BrokerError(
            f"not allowed to write results in transactions: {name}",
            hint=f"Grant WRITE and DESCRIBE on the transactional id {transactional_id}, WRITE on the topics of results "
            f"and dead letters, and READ on the group {group_id}.",
        )
    if error.code() == KafkaError.INVALID_TRANSACTION_TIMEOUT:
        raise ConfigurationError(
            f"the broker refuses producer.transaction.timeout.ms: {name}",
            hint="Set it lower than the broker's transaction.max.timeout.ms (15 minutes by default).",
        )
    if faults.is_unsupported(error):
        raise BrokerError(f"the broker has no transactions: {name}", hint="Use delivery=at_least_once.")
    if faults.is_fenced(error):
        raise fenced(group_id, name)


def fenced(group_id: str, detail: str) -> FencedError:
    """Make the error that says that another instance is at work, and why we think so."""
    return FencedError(
        f"another instance with group_id={group_id} has taken over: {detail}",
        hint="One group runs in one instance, which grows by adding Ray nodes. Nothing is lost: the other goes on. "
        "If there is none, this one was suspended in the middle of a transaction: start it again.",
    )
