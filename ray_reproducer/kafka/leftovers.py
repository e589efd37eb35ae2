"""What a broker has left open of transactions of ours that are over, and how it is ended.

A broker of Kafka 4 that has to end a transaction writes no marker to a partition without a leader: it takes the
partition for deleted (``KRaftMetadataCache.getPartitionLeaderEndpoint``, as of 4.3.1, tells no difference). All
partitions of a broker that starts again after a crash are without one for a moment, and that is when it ends what its
clients had open. The transaction counts as ended then, but stays open on the partition: readers of committed records
get no further, positions can't be read, and the marker of the *next* transaction of the same producer ends both. So
with it, what was aborted would become visible.

Rules:

1. It is looked for after the transactional id was taken over. Then, as the broker counts, nothing of ours is open.
2. The signs are positions that can be read only if open transactions are overlooked, and a partition that goes on
   behind what readers of committed records see. Another program's open transaction has the second sign, too; to it
   nothing is done by this.
3. A transaction of one empty record for each such partition, and of the positions, is aborted: its markers end all that
   is open there of our producer. Nobody sees the records but readers of uncommitted ones.
4. It is ended only if its positions are not committed. (They are looked at after every disturbance, before another
   transaction is committed: so none can be committed of which a part is left open, but by a broker that loses the
   markers of some partitions only.)
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_reproducer.core.errors import BrokerAwayError, BrokerError
from ray_reproducer.kafka import admin, faults
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.outbox import Record


def touching_records(clients: ClientConfigs, topics: Sequence[str], health: faults.Health) -> list[Record] | None:
    """Make a record for each partition that has the sign of an open transaction (rule 3).

    Args:
        clients: the user's client settings.
        topics: that our transactions write to.
        health: is told if a topic can't be looked at.

    Returns:
        The records; none for a topic that we may not look at. None if the broker does not tell at present: then nothing
        is known.
    """
    try:
        places = [(topic, partition) for topic in topics for partition in _open_partitions(clients, topic, health)]
    except BrokerAwayError as error:
        health.report(f"can't see yet whether a transaction is open: {error.message}")
        return None
    return [Record(topic, "", b"", partition=partition) for topic, partition in places]


def _open_partitions(clients: ClientConfigs, topic: str, health: faults.Health) -> list[int]:
    try:
        found = admin.find_topic(clients, topic)
        partitions = () if found is None else found.partitions
        visible = admin.watermarks(clients, topic, partitions)
        ends = admin.watermarks(clients, topic, partitions, committed=False)
    except BrokerAwayError:
        raise
    except BrokerError as error:
        health.report(f"can't see whether a transaction is open on {topic}: {error.message}")
        return []
    # Looked at in this order, a topic that grows meanwhile has the sign, too: to be touched harms nothing.
    return [partition for partition in partitions if visible[partition][1] < ends[partition][1]]
