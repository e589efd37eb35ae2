"""Settings of Kafka clients: the user's own, merged with those that our guarantees need.

Rules:

1. The user names settings as librdkafka does, nested or dotted, for all clients or for one kind of client.
2. The user's value beats our default, except for a setting that a promise rests on (``_GUARANTEED``):
   setting that to something else is an error that says why.
3. Secrets are never logged: ``redact`` before showing settings to anybody.
4. A mistyped name is an error that suggests the nearest one that exists.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from ray_reproducer.core.errors import ConfigurationError
from ray_reproducer.kafka.properties import ALIASES, CONSUMER_ONLY, PRODUCER_ONLY, closest, is_secret

Value: TypeAlias = str | int | float | bool
"""What a client setting can be."""

CLIENT_LOG: Final = logging.getLogger("ray_reproducer.kafka.client")
"""Where the client library's log goes."""

_BY_US: Final = "set by this program"
_TOGETHER: Final = "positions are committed together with the results they belong to, never by a timer"
_GUARANTEED: Final[Mapping[str, tuple[Value, str]]] = {
    "acks": ("all", "a record counts as delivered when all replicas in sync have it"),
    "auto.offset.reset": (
        "error",
        "the setting `start` says where a group without a position begins; a lost position is reported, not skipped",
    ),
    "enable.auto.commit": (False, _TOGETHER),
    "enable.auto.offset.store": (False, _TOGETHER),
    "enable.idempotence": (True, "a retry inside the client must not write a record twice"),
    "enable.partition.eof": (True, "the end of a partition is how a drain knows that it is done"),
    "group.id": (_BY_US, "it also names the transactional id: use the setting `group_id`"),
    "isolation.level": ("read_committed", "what an aborted transaction left must not be read"),
    "transactional.id": (_BY_US, "it is made of the group id, so that a second instance fences the first"),
}
"""What a promise rests on: the only value that keeps it, and why."""

_REDACTED: Final = "***"

_DEFAULTS: Final[Mapping[str, Value]] = {
    "client.id": "ray_reproducer",
    # Connection trouble reaches us through error_cb; the library would print a line per attempt besides.
    "log_level": 2,
    # A broker that is back is found again within two seconds; the library's own limit is ten.
    "reconnect.backoff.max.ms": 2000,
}
_PRODUCER_DEFAULTS: Final[Mapping[str, Value]] = {
    # The library's own default, rebootstrap, forgets all brokers when the last connection breaks. In a transaction it
    # then waits for a coordinator that it never looks for (librdkafka issue 5511). We make a new producer instead.
    "metadata.recovery.strategy": "none",
}


def flatten(settings: Mapping[str, Any]) -> dict[str, Value]:
    """Make dotted names of nested ones: ``{"bootstrap": {"servers": x}}`` to ``{"bootstrap.servers": x}``.

    Aliases become the one name used here, a list becomes a comma-separated string, and a value of None
    takes the setting away.

    Raises:
        ConfigurationError: a value is no setting, or the same setting has two different values.
    """
    flat: dict[str, Value] = {}
    for name, value in _walk(settings, ""):
        canonical = ALIASES.get(name, name)
        if canonical in flat and not _same(flat[canonical], value):
            raise ConfigurationError(
                f"the Kafka setting {canonical} is given twice, with different values",
                hint="Remove one of them (nested and dotted spellings, and aliases, mean the same setting).",
            )
        flat[canonical] = value
    return flat


def redact(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of flat settings that may be shown: secrets replaced by ``***``."""
    return {name: _REDACTED if is_secret(name) else value for name, value in settings.items()}


@dataclass(frozen=True)
class ClientConfigs:
    """The user's settings of Kafka clients, flat, under librdkafka's names.

    Attributes:
        common: for every client.
        consumer: for consumers only; beats ``common``.
        producer: for producers only; beats ``common``.
        admin: for administration only; beats ``common``.
    """

    common: dict[str, Value]
    consumer: dict[str, Value] = field(default_factory=dict)
    producer: dict[str, Value] = field(default_factory=dict)
    admin: dict[str, Value] = field(default_factory=dict)

    @classmethod
    def from_settings(
        cls,
        kafka: Mapping[str, Any],
        consumer: Mapping[str, Any] | None = None,
        producer: Mapping[str, Any] | None = None,
    ) -> ClientConfigs:
        """Build from nested or dotted settings, as they stand in a configuration file.

        Raises:
            ConfigurationError: see ``flatten``.
        """
        return cls(common=flatten(kafka), consumer=flatten(consumer or {}), producer=flatten(producer or {}))

    @property
    def servers(self) -> str:
        """The brokers' addresses as the user gave them, "" if not at all."""
        return str(self.common.get("bootstrap.servers", ""))

    def __repr__(self) -> str:
        """Show everything but secrets."""
        kinds = ("common", "consumer", "producer", "admin")
        return f"ClientConfigs({', '.join(f'{kind}={redact(getattr(self, kind))}' for kind in kinds)})"

    def for_consumer(self, **ours: Value) -> dict[str, Value]:
        """Settings of a consumer: ``ours`` (librdkafka's names), the user's, and the guarantees.

        Raises:
            ConfigurationError: the user's settings contradict a guarantee, or name no broker.
        """
        guaranteed: dict[str, Value] = {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
        }
        return self._merge({**guaranteed, **ours}, self.consumer, leave_out=PRODUCER_ONLY)

    def for_producer(self, **ours: Value) -> dict[str, Value]:
        """Settings of a producer: ``ours`` (librdkafka's names), the user's, and the guarantees.

        Raises:
            ConfigurationError: the user's settings contradict a guarantee, or name no broker.
        """
        guaranteed: dict[str, Value] = {"enable.idempotence": True, "acks": "all"}
        return self._merge({**guaranteed, **_PRODUCER_DEFAULTS, **ours}, self.producer, leave_out=CONSUMER_ONLY)

    def for_admin(self, **ours: Value) -> dict[str, Value]:
        """Settings of a client for administration: ``ours`` (librdkafka's names) and the user's.

        Raises:
            ConfigurationError: the user's settings name no broker.
        """
        return self._merge(ours, self.admin, leave_out=CONSUMER_ONLY | PRODUCER_ONLY)

    def check(self) -> None:
        """Have the client library look at all settings; nothing is sent to a broker.

        Raises:
            ConfigurationError: a name is mistyped, a value is out of range, a guarantee is contradicted.
        """
        offline = {"bootstrap.servers": ""}
        # A transactional producer also checks its timeouts against each other.
        open_producer({**self.for_producer(**{"transactional.id": "check"}), **offline})
        open_consumer({**self.for_consumer(**{"group.id": "check"}), **offline}).close()
        open_admin({**self.for_admin(), **offline})

    def _merge(
        self, ours: Mapping[str, Value], kind: Mapping[str, Value], leave_out: frozenset[str]
    ) -> dict[str, Value]:
        common = {name: value for name, value in self.common.items() if name not in leave_out}
        users = {**common, **kind}
        if not users.get("bootstrap.servers"):
            raise _no_broker(users)
        for name, (value, reason) in _GUARANTEED.items():
            if name in users and not _same(users[name], value):
                raise ConfigurationError(
                    f"the Kafka setting {name}={users[name]} can't be used: {reason}",
                    hint=f"Remove {name} from the Kafka settings.",
                )
        # What a promise rests on is in `ours`, where it does: some of our clients need another value than a user wrote.
        theirs = {name: value for name, value in users.items() if name not in _GUARANTEED}
        return {**_DEFAULTS, **ours, **theirs}


ErrorCallback: TypeAlias = Callable[[Any], None]
"""Called by a client with a ``KafkaError`` that belongs to no single call."""


def open_consumer(config: Mapping[str, Value], on_error: ErrorCallback | None = None) -> Consumer:
    """Make a consumer.

    Raises:
        ConfigurationError: the library refuses a setting.
    """
    try:
        return Consumer(_with_callbacks(config, on_error), logger=CLIENT_LOG)
    except KafkaException as error:
        raise _refused(error) from None


class LogSink(Protocol):
    """What a client hands its log lines to, as it does to a ``logging.Logger``."""

    def log(self, level: int, msg: str, /, *details: object) -> None:
        """Take a line: a format, and what stands in it: the facility, the client's name, the text."""


def open_producer(
    config: Mapping[str, Value],
    on_error: ErrorCallback | None = None,
    log: LogSink = CLIENT_LOG,
    **callbacks: object,
) -> Producer:
    """Make a producer; ``callbacks`` are further ones of the library, such as ``on_delivery``.

    Raises:
        ConfigurationError: the library refuses a setting.
    """
    try:
        return Producer({**_with_callbacks(config, on_error), **callbacks}, logger=log)
    except KafkaException as error:
        raise _refused(error) from None


def open_admin(config: Mapping[str, Value], on_error: ErrorCallback | None = None) -> AdminClient:
    """Make a client for administration.

    Raises:
        ConfigurationError: the library refuses a setting.
    """
    try:
        return AdminClient(_with_callbacks(config, on_error), logger=CLIENT_LOG)
    except KafkaException as error:
        raise _refused(error) from None


def _with_callbacks(config: Mapping[str, Value], on_error: ErrorCallback | None) -> dict[str, Any]:
    return {**config, "error_cb": on_error} if on_error else dict(config)


def _no_broker(users: Mapping[str, Value]) -> ConfigurationError:
    typo = [name for name in users if name != "bootstrap.servers" and closest(name) == "bootstrap.servers"]
    if typo:
        return ConfigurationError(f"there is no Kafka client setting {typo[0]}", hint="Did you mean bootstrap.servers?")
    return ConfigurationError(
        "no Kafka broker is named: kafka.bootstrap.servers is empty",
        hint="Add kafka.bootstrap.servers=HOST:PORT (several: separated by commas), or kafka=embedded.",
    )


def _refused(error: KafkaException) -> ConfigurationError:
    text = str(error.args[0].str()).strip()
    unknown = re.search(r'No such configuration property: "([^"]+)"', text)
    if unknown is None:
        return ConfigurationError(
            f"the Kafka client refuses its settings: {text}",
            hint="Settings under kafka., consumer. and producer. have librdkafka's names and ranges.",
        )
    name = unknown.group(1)
    suggestion = closest(name)
    return ConfigurationError(
        f"there is no Kafka client setting {name}",
        hint=f"Did you mean {suggestion}?" if suggestion else "Settings have librdkafka's names (CONFIGURATION.md).",
    )


def _walk(settings: Mapping[str, Any], prefix: str) -> list[tuple[str, Value]]:
    found: list[tuple[str, Value]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found.extend(_walk(value, f"{name}."))
        elif isinstance(value, (str, int, float, bool)):
            found.append((name, value))
        elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
            found.append((name, ",".join(str(item) for item in value)))
        elif value is not None:
            raise ConfigurationError(
                f"the Kafka setting {name} is {type(value).__name__}; it must be text, a number or true/false"
            )
    return found


def _same(one: Value, other: Value) -> bool:
    return _plain(one) == _plain(other)


def _plain(value: Value) -> str:
    text = str(value).strip().lower()
    return {"-1": "all", "1": "true", "0": "false"}.get(text, text)
