"""Who runs a group: the instance that started last signs, and the one that is fenced can say by whom.

The signature is a committed offset of the group on the *results* topic, with the instance's name as metadata: nobody
reads that topic with this group, so it disturbs nothing, and it goes when the group goes. It needs the right to read
the results topic; without it nobody is named, and nothing else is different.
"""

from __future__ import annotations

import os
import socket
from datetime import datetime, timezone
from typing import Final

from confluent_kafka import KafkaException, TopicPartition

from ray_reproducer.core.errors import FencedError
from ray_reproducer.kafka import faults
from ray_reproducer.kafka.client_config import ClientConfigs, open_consumer

_ASK_S: Final = 5.0
"""How long the broker may take: it is asked while the program starts, or ends."""
_PARTITION: Final = 0
_SINCE: Final = ", since "


def own_name(epoch_s: float) -> str:
    """Name this process: host, number, and since when it runs the group."""
    since = datetime.fromtimestamp(epoch_s, timezone.utc).isoformat(timespec="milliseconds")
    return f"process {os.getpid()} on {socket.gethostname()}{_SINCE}{since}"


def is_newer(other: str, own: str) -> bool:
    """Whether a signature is that of an instance that has come after ours.

    An older one may stand there because ours could not be written. What is no signature of this program is no instance.
    """
    since = other.rpartition(_SINCE)[2]
    return _SINCE in other and since > own.rpartition(_SINCE)[2]


def sign(clients: ClientConfigs, group_id: str, results_topic: str, name: str) -> bool:
    """Sign as the instance that runs the group; return whether the broker took it."""
    consumer = open_consumer(clients.for_consumer(**{"group.id": group_id}), _ignore)
    try:
        answers = consumer.commit(offsets=[TopicPartition(results_topic, _PARTITION, 0, name)], asynchronous=False)
    except KafkaException:
        return False
    finally:
        consumer.close()
    return not any(answer.error for answer in answers)


def who(clients: ClientConfigs, group_id: str, results_topic: str) -> str | None:
    """Return who signed last; "" if nobody did, or we may not know; None if the broker does not answer."""
    consumer = open_consumer(clients.for_consumer(**{"group.id": group_id}), _ignore)
    try:
        (found,) = consumer.committed([TopicPartition(results_topic, _PARTITION)], _ASK_S)
    except KafkaException as exception:
        return "" if faults.is_forbidden(faults.of(exception)) else None
    finally:
        consumer.close()
    if found.error and not faults.is_forbidden(found.error):
        return None
    return found.metadata or ""


def refuse_newer(clients: ClientConfigs, group_id: str, results_topic: str, own: str) -> bool:
    """Leave the group to another instance that has come since: a run that was suspended may wake to find that.

    Args:
        clients: the user's client settings.
        group_id: which group.
        results_topic: of the group.
        own: our signature.

    Returns:
        whether the broker has told.

    Raises:
        FencedError: there is one.
    """
    other = who(clients, group_id, results_topic)
    if other is None:
        return False
    if is_newer(other, own):
        raise FencedError(
            f"another instance with group_id={group_id} has taken over (it is {other})",
            hint="One group runs in one instance, which grows by adding Ray nodes. Nothing is lost: the other goes on.",
        )
    return True


def _ignore(_error: object) -> None:
    """Errors of the connection: the call itself says whether it worked."""
