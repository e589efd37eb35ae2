"""Everything that talks to a Kafka broker.

``client_config`` settings of clients; ``properties`` their names; ``faults`` what an error means for us;
``admin`` looks and makes topics; ``source`` reads; ``delivery`` writes results together with positions;
``upload`` sends files as chunks; ``embedded`` is a broker inside this process for trials and tests.
"""
