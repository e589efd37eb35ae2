"""A broker for fault tests alone: it is stopped, killed, frozen and starved, and reached through proxies.

Rules:

1. Programs under test come in through ``servers`` (a proxy), or as a user with a password through a second proxy
   (``secured_settings``); tests look at the truth through ``direct_servers``.
2. After a restart it is the same broker: data, ports and settings stay.
3. Who comes in without a password may do everything; a user may do what ``grant`` says, and nothing else.
"""

from __future__ import annotations

import resource
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewTopic

from tests.faults.broker_process import ANSWER_S, BrokerProcess, free_ports
from tests.faults.proxy import Conditions, Proxy
from tests.waiting import wait_until

USER: Final = "lab"
PASSWORD: Final = "only-for-tests"  # noqa: S105
_MECHANISM: Final = "SCRAM-SHA-256"
_PROTOCOLS: Final = {
    "PLAINTEXT": "PLAINTEXT",
    "CONTROLLER": "PLAINTEXT",
    "PROXIED": "PLAINTEXT",
    "SECURED": "SASL_PLAINTEXT",
}
_OF_USER: Final = (ResourcePatternType.LITERAL, f"User:{USER}", "*")
_QUICK: Final = (
    # A topic that a test deletes stays away.
    "auto.create.topics.enable=false",
    # What a busy cluster looks at every ten seconds and more, this one looks at twice a second: tests wait for it.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=500",
    "log.cleaner.backoff.ms=500",
    "log.retention.check.interval.ms=1000",
    # A broker that is frozen longer than this (9 s by default) is also fenced by its controller for a moment.
    "broker.session.timeout.ms=6000",
    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users=User:ANONYMOUS",
    f"sasl.enabled.mechanisms={_MECHANISM}",
    (
        f"listener.name.secured.{_MECHANISM.lower()}.sasl.jaas.config="
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
)


class PrivateBroker(BrokerProcess):
    """See the module's head; a context manager that starts and ends it.

    Args:
        directory: where its data are.
        settings: further ones, NAME=VALUE.
    """

    def __init__(self, directory: Path, *settings: str) -> None:
        self.proxy, self.secured_proxy = Proxy(kafka=True), Proxy(kafka=True)
        port, self.proxy.upstream_port, self.secured_proxy.upstream_port = free_ports(3)
        super().__init__(directory, port, [*self._listeners(port), *_QUICK, *settings])

    def __enter__(self) -> PrivateBroker:
        self.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.proxy.close()
        self.secured_proxy.close()
        self.end()

    @property
    def direct_servers(self) -> str:
        """Where tests look at the truth."""
        return f"127.0.0.1:{self.port}"

    @property
    def servers(self) -> str:
        """Where programs under test come in."""
        return self.proxy.address

    @property
    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return AdminClient({"bootstrap.servers": self.direct_servers})

    def recover(self) -> None:
        """Make all well again: running, thawed, with room, and with nothing in the way."""
        if self.is_running():
            self.thaw()
        else:
            self.start()
        for proxy in (self.proxy, self.secured_proxy):
            proxy.set(Conditions())

    def make_topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """Make a topic; returns its name when clients know it. Underscores in the settings' names become dots."""
        admin = self.admin
        wanted = NewTopic(name, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
        admin.create_topics([wanted])[name].result(ANSWER_S)

        def ready() -> bool:
            found = admin.list_topics(timeout=ANSWER_S).topics.get(name)
            return found is not None and len(found.partitions) == partitions

        wait_until(ready, ANSWER_S, f"the topic {name}")
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic; returns when clients know it no longer."""
        admin = self.admin
        admin.delete_topics([name])[name].result(ANSWER_S)
        wait_until(lambda: name not in self.topics(), ANSWER_S, f"the end of {name}")

    def topics(self) -> set[str]:
        """The names of all topics."""
        return set(self.admin.list_topics(timeout=ANSWER_S).topics)

    def configure_topic(self, name: str, **config: str | None) -> None:
        """Change settings of a topic (dotted names); None takes one away."""
        admin = self.admin
        set_, delete = AlterConfigOpType.SET, AlterConfigOpType.DELETE
        entries = [
            ConfigEntry(key, value or "", incremental_operation=delete if value is None else set_)
            for key, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        admin.incremental_alter_configs([resource])[resource].result(ANSWER_S)

    def fill_disk(self) -> None:
        """Let it extend no file any more: what it writes fails, as on a disk that is full."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    # ------------------------------------------------------------ who may do what

    def let_in(self) -> None:
        """Give the user a password."""
        iterations = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        self._alter_user(UserScramCredentialUpsertion(USER, iterations, PASSWORD.encode()))

    def keep_out(self) -> None:
        """Take the password away; connections that are there stay."""
        self._alter_user(UserScramCredentialDeletion(USER, ScramMechanism.SCRAM_SHA_256))

    @property
    def secured_settings(self) -> dict[str, str]:
        """How a client comes in as the user (librdkafka's names)."""
        return {
            "bootstrap.servers": self.secured_proxy.address,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": _MECHANISM,
            "sasl.username": USER,
            "sasl.password": PASSWORD,
        }

    def _alter_user(self, alteration: Any) -> None:
        admin = self.admin  # its futures end only while it lives
        admin.alter_user_scram_credentials([alteration])[USER].result(ANSWER_S)

    def grant(self, kind: ResourceType, name: str, *operations: AclOperation) -> None:
        """Allow the user something."""
        admin = self.admin
        rules = [AclBinding(kind, name, *_OF_USER, operation, AclPermissionType.ALLOW) for operation in operations]
        for future in admin.create_acls(rules).values():
            future.result(ANSWER_S)

    def revoke(self, kind: ResourceType, name: str, operation: AclOperation) -> None:
        """Take it away again."""
        admin = self.admin
        rule = AclBindingFilter(kind, name, *_OF_USER, operation, AclPermissionType.ALLOW)
        (future,) = admin.delete_acls([rule]).values()
        assert len(future.result(ANSWER_S)) == 1, "there was no such grant"

    def limit_rate(self, client_id: str, **bytes_per_s: float | None) -> None:
        """Set quotas of a client: ``producer_byte_rate``, ``consumer_byte_rate``; None takes one away."""
        entity = struct.pack(">i", 1) + _string("client-id") + _string(client_id)
        changes = struct.pack(">i", len(bytes_per_s)) + b"".join(
            _string(name) + struct.pack(">d?", rate or 0.0, rate is None) for name, rate in bytes_per_s.items()
        )
        body = struct.pack(">i", 1) + entity + changes + struct.pack(">?", False)
        # AlterClientQuotas, version 0: the client library has no call for it.
        request = struct.pack(">hhi", 49, 0, 1) + _string("test") + body
        with socket.create_connection(("127.0.0.1", self.port), ANSWER_S) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb").read(4 + 4 + 4 + 4 + 2)
        _size, _correlation, _throttled, _entries, error = struct.unpack(">iiiih", answer)
        assert error == 0, f"the broker refuses a quota: error {error}"

    def _listeners(self, port: int) -> list[str]:
        """Settings: each way in has a port of the broker, and the address that clients are sent to."""
        ports = {
            "PLAINTEXT": port,
            "PROXIED": self.proxy.upstream_port,
            "SECURED": self.secured_proxy.upstream_port,
        }
        told = {**ports, "PROXIED": self.proxy.port, "SECURED": self.secured_proxy.port}
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
        return [
            f"listeners={','.join(listeners)},CONTROLLER://127.0.0.1:{{controller_port}}",
            f"advertised.listeners={','.join(f'{name}://127.0.0.1:{port}' for name, port in told.items())}",
            f"listener.security.protocol.map={','.join(f'{name}:{kind}' for name, kind in _PROTOCOLS.items())}",
            "inter.broker.listener.name=PLAINTEXT",
        ]


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()
