"""What all tests share: the broker, topics of their own, Hypothesis's profiles, and an orderly end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from tests.waiting import wait_until

ADMIN_TIMEOUT_S = 30.0
MARKER_OF_FIXTURE = {"bootstrap_servers": "broker", "openmsistream_python": "peer"}

# No deadline: machines that run tests are busy. "ci" is the same each time; "thorough" is for looking on purpose.
settings.register_profile("quick", deadline=None, max_examples=20)  # scripts/test unit
settings.register_profile("dev", deadline=None, max_examples=60)
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=2000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("soak", parent=settings.get_profile("thorough"))  # tests/fuzz/budget.py has its numbers
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_configure() -> None:
    """Let SIGTERM end the tests as Ctrl-C does: with fixtures torn down, so that nothing stays running."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test that uses a broker, or the peer, as one that does: it can't be forgotten. Put the slow ones first.

    Processes that share the tests then end at about the same time, with short ones that fill what is left. Of the slow
    ones the files of faults are the longest.
    """
    for item in items:
        for fixture, marker in MARKER_OF_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, "faults" not in item.path.parts))


@pytest.fixture(autouse=True)
def process_as_before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test does to the process, running the program in it, does not reach the next test."""
    path, modules = sys.path.copy(), set(sys.modules)
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)  # it may write to a stream that ends with the test
    root.setLevel(level)
    sys.path[:] = path
    for name in sys.modules.keys() - modules:
        # Modules that a test wrote: the next one writes another of that name.
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path_factory.getbasetemp()):
            del sys.modules[name]
    OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


@pytest.fixture(scope="session")
def bootstrap_servers() -> str:
    """A real broker. It is never skipped: without one the test fails."""
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    if not servers:
        pytest.fail("KAFKA_BOOTSTRAP_SERVERS is not set: run scripts/test, or `scripts/kafka start`", pytrace=False)
    try:
        AdminClient({"bootstrap.servers": servers}).list_topics(timeout=ADMIN_TIMEOUT_S)
    except KafkaException as error:
        pytest.fail(f"the broker at KAFKA_BOOTSTRAP_SERVERS={servers} does not answer: {error}", pytrace=False)
    return servers


@pytest.fixture
def unique_topic(bootstrap_servers: str) -> Iterator[Callable[..., str]]:
    """Make topics that no other test sees: ``unique_topic("source", partitions=4)`` returns the name.

    With ``partitions=0`` the topic is not made, only named (for programs that make it themselves). ``config`` are the
    topic's settings. All are deleted after the test.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    names: list[str] = []

    def make(purpose: str = "topic", partitions: int = 1, config: dict[str, str] | None = None) -> str:
        name = f"test.{purpose}.{uuid.uuid4().hex[:12]}"
        names.append(name)
        if partitions:
            wanted = [NewTopic(name, num_partitions=partitions, replication_factor=1, config=config or {})]
            for future in admin.create_topics(wanted, operation_timeout=ADMIN_TIMEOUT_S).values():
                future.result(ADMIN_TIMEOUT_S)
            # Made by the controller; the broker that clients ask hears of it a little later.
            wait_until(lambda: ready(name, partitions), ADMIN_TIMEOUT_S, f"the topic {name}")
        return name

    def ready(name: str, partitions: int) -> bool:
        found = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics.get(name)
        return found is not None and sum(known.leader >= 0 for known in found.partitions.values()) == partitions

    yield make
    existing = admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics
    # A program under test adds topics whose names begin like ours (dead letters).
    ours = [topic for topic in existing if any(topic == name or topic.startswith(f"{name}.") for name in names)]
    if ours:
        for future in admin.delete_topics(ours, operation_timeout=ADMIN_TIMEOUT_S).values():
            future.result(ADMIN_TIMEOUT_S)


@pytest.fixture(scope="session")
def openmsistream_python() -> Path:
    """The interpreter of the environment that has OpenMSIStream. It is never skipped: without it the test fails."""
    interpreter = os.environ.get("OPENMSISTREAM_PYTHON", "")
    if not interpreter or not Path(interpreter).exists():
        pytest.fail(
            "OPENMSISTREAM_PYTHON is not set: run scripts/test, or set it to $(scripts/peer_env)", pytrace=False
        )
    return Path(interpreter)
