"""Names of the client library's settings: which exist, whom they concern, which name the same thing.

The tables list what librdkafka 2.16 says of itself (``rd_kafka_conf_properties_show``), without callbacks
and settings that only C programs can use. They decide nothing about validity, the library does that: they
sort out settings that concern only one kind of client, and suggest a name for a mistyped one.
"""

from __future__ import annotations

import difflib
import re
from typing import Final


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONSUMER_ONLY: Final = _names(
    """
    auto.commit.interval.ms auto.offset.reset check.crcs consume.callback.max.messages
    coordinator.query.interval.ms enable.auto.commit enable.auto.offset.store enable.partition.eof
    fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms
    fetch.wait.max.ms group.id group.instance.id group.protocol group.protocol.type group.remote.assignor
    heartbeat.interval.ms isolation.level max.poll.interval.ms max.poll.records offset.store.method
    offset.store.path offset.store.sync.interval.ms partition.assignment.strategy
    queued.max.messages.kbytes queued.min.messages session.timeout.ms share.acknowledgement.mode
    """
)
"""Settings that a producer would ignore with a warning."""

PRODUCER_ONLY: Final = _names(
    """
    acks batch.num.messages batch.size compression.codec compression.level delivery.report.only.error
    enable.gapless.guarantee enable.idempotence linger.ms message.timeout.ms partitioner
    produce.offset.report queue.buffering.backpressure.threshold queue.buffering.max.kbytes
    queue.buffering.max.messages queuing.strategy request.timeout.ms retries sticky.partitioning.linger.ms
    transaction.timeout.ms transactional.id
    """
)
"""Settings that a consumer would ignore with a warning."""

_COMMON: Final = _names(
    """
    allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
    bootstrap.servers broker.address.family broker.address.ttl broker.version.fallback builtin.features
    client.dns.lookup client.id client.rack connections.max.idle.ms debug enable.metrics.push
    enable.random.seed enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification
    https.ca.location https.ca.pem log.connection.close log.queue log.thread.name log_level
    max.in.flight message.copy.max.bytes message.max.bytes metadata.max.age.ms
    metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy plugin.library.paths
    receive.message.max.bytes reconnect.backoff.jitter.ms reconnect.backoff.max.ms reconnect.backoff.ms
    retry.backoff.max.ms retry.backoff.ms sasl.kerberos.keytab sasl.kerberos.kinit.cmd
    sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism
    sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.claim.aud
    sasl.oauthbearer.assertion.claim.exp.seconds sasl.oauthbearer.assertion.claim.iss
    sasl.oauthbearer.assertion.claim.jti.include sasl.oauthbearer.assertion.claim.nbf.seconds
    sasl.oauthbearer.assertion.claim.sub sasl.oauthbearer.assertion.file
    sasl.oauthbearer.assertion.jwt.template.file sasl.oauthbearer.assertion.private.key.file
    sasl.oauthbearer.assertion.private.key.passphrase sasl.oauthbearer.assertion.private.key.pem
    sasl.oauthbearer.client.credentials.client.id sasl.oauthbearer.client.credentials.client.secret
    sasl.oauthbearer.client.id sasl.oauthbearer.client.secret sasl.oauthbearer.config
    sasl.oauthbearer.extensions sasl.oauthbearer.grant.type sasl.oauthbearer.metadata.authentication.type
    sasl.oauthbearer.method sasl.oauthbearer.scope sasl.oauthbearer.sub.claim.name
    sasl.oauthbearer.token.endpoint.url sasl.password sasl.username security.protocol
    socket.blocking.max.ms socket.connection.setup.timeout.ms socket.keepalive.enable socket.max.fails
    socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms
    ssl.ca.certificate.stores ssl.ca.location ssl.ca.pem ssl.certificate.location ssl.certificate.pem
    ssl.cipher.suites ssl.crl.location ssl.curves.list ssl.endpoint.identification.algorithm ssl.engine.id
    ssl.engine.location ssl.key.location ssl.key.password ssl.key.pem ssl.keystore.location
    ssl.keystore.password ssl.providers ssl.sigalgs.list statistics.interval.ms test.mock.broker.rtt
    test.mock.num.brokers topic.blacklist topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt
    topic.metadata.refresh.fast.interval.ms topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse
    """
)

ALIASES: Final = {
    "auto.commit.enable": "enable.auto.commit",
    "compression.type": "compression.codec",
    "delivery.timeout.ms": "message.timeout.ms",
    "max.in.flight.requests.per.connection": "max.in.flight",
    "max.partition.fetch.bytes": "fetch.message.max.bytes",
    "message.send.max.retries": "retries",
    "metadata.broker.list": "bootstrap.servers",
    "queue.buffering.max.ms": "linger.ms",
    "request.required.acks": "acks",
    "sasl.mechanisms": "sasl.mechanism",
}
"""Other names of a setting. One name is used here, so that a user's setting always meets ours."""

_SECRET: Final = re.compile(
    r"(password|passphrase|secret|\.pem|sasl\.oauthbearer\.config|sasl\.jaas\.config|sasl\.oauthbearer\.extensions)$"
)
_PUBLIC_PEM: Final = frozenset(("ssl.ca.pem", "https.ca.pem", "ssl.certificate.pem"))


def is_secret(name: str) -> bool:
    """Whether the value of the setting ``name`` must never be logged or written to disk."""
    canonical = name.lower().replace("_", ".")
    return bool(_SECRET.search(canonical)) and canonical not in _PUBLIC_PEM


def closest(name: str) -> str:
    """Return the existing setting whose name is most like ``name``, or "" if none is near."""
    known = CONSUMER_ONLY | PRODUCER_ONLY | _COMMON | ALIASES.keys()
    match = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return match[0] if match else ""
