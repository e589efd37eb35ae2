"""Everything that talks to a Kafka broker.

Clients: ``client_config`` their settings, ``properties`` the names of these, ``faults`` what an error means for us,
``admin`` looks at topics and groups, and makes them. Reading: ``source``, ``ranged_source`` for replays. Writing:
``delivery`` results together with positions, ``outbox`` its producer, ``group_offsets`` the positions,
``failpoints`` for its tests. What the topics tell: ``finished_lately``, ``instance``, ``dead_letters``, ``replaying``.
Files onto a topic: ``upload``, ``file_tree``. ``embedded`` is a broker inside this process for trials and tests.
"""
