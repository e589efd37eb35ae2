"""A user's directory, topics and program on the private broker."""

from __future__ import annotations

import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType

from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.faults import Health
from ray_reproducer.kafka.group_offsets import CommittedOffset, GroupOffsets
from tests.faults.broker import PrivateBroker
from tests.kafka.reading import ignore
from tests.program import Program, start_program
from tests.topics import read_committed
from tests.workload import Topic, cut, messages_of

PARTITIONS = 2
MY_LAB = 'def size(datafile):\n    return {"path": datafile.filename, "size": datafile.size_bytes}\n'


class Lab:
    """See the module's head.

    Args:
        broker: the private one.
        directory: the user's.
        partitions: of the source topic.
    """

    def __init__(self, broker: PrivateBroker, directory: Path, partitions: int = PARTITIONS) -> None:
        self.broker, self.directory = broker, directory
        name = f"test.{uuid.uuid4().hex[:12]}"
        self.source, self.results, self.group = f"{name}.source", f"{name}.results", f"{name}.group"
        self.dead_letters = f"{self.results}.dead_letters"
        self.make_source(partitions)
        self.files = 0
        self.programs: list[Program] = []
        (directory / "conf" / "extractor").mkdir(parents=True)
        (directory / "my_lab.py").write_text(MY_LAB)
        (directory / "conf" / "extractor" / "mine.yaml").write_text("_target_: my_lab.size\n")

    def make_source(self, partitions: int) -> None:
        """Make the source topic, or look at it again after it has got more partitions."""
        if self.source not in self.broker.topics():
            self.broker.make_topic(self.source, partitions)
        # A producer believes what it knows of a topic for minutes.
        self.topic = Topic(self.broker.direct_servers, self.source, partitions)

    def let_user_in(self) -> None:
        """Make the other topics, and a user who may do what the program needs, and nothing else."""
        broker, identity = self.broker, f"ray_reproducer.{self.group}"
        broker.let_in()
        for topic in (self.results, self.dead_letters):
            broker.make_topic(topic)
        broker.grant(ResourceType.TOPIC, self.source, AclOperation.READ, AclOperation.DESCRIBE)
        for topic in (self.results, self.dead_letters):
            # READ: a start looks which files were finished lately.
            broker.grant(ResourceType.TOPIC, topic, AclOperation.WRITE, AclOperation.READ, AclOperation.DESCRIBE)
        broker.grant(ResourceType.GROUP, self.group, AclOperation.READ, AclOperation.DESCRIBE)
        broker.grant(ResourceType.TRANSACTIONAL_ID, identity, AclOperation.WRITE, AclOperation.DESCRIBE)

    def start_as_user(self, *more: str) -> Program:
        """Start the program as the user, whose password is in the environment."""
        settings = self.broker.secured_settings
        password = settings.pop("sasl.password")
        named = [f"kafka.{name}={value}" for name, value in settings.items()]
        named.append("kafka.sasl.password=${oc.env:LAB_PASSWORD}")
        return self._start("topics.create=false", *named, *more, LAB_PASSWORD=password)

    def start(self, *more: str) -> Program:
        """Start the program, through the proxy."""
        return self._start(f"kafka.bootstrap.servers={self.broker.servers}", *more)

    def drain(self, *more: str) -> tuple[int, str]:
        """Run it until the topic is empty; return its exit code and what it said."""
        code, _, err = self.start("run=drain", *more).wait()
        return code, err

    def close(self) -> None:
        """End what still runs."""
        for program in self.programs:
            program.kill()

    def _start(self, *arguments: str, **environment: str) -> Program:
        ours = ["+extractor=mine", f"topics.source={self.source}", f"topics.results={self.results}"]
        ours += [f"group_id={self.group}", "ray.num_cpus=1"]
        log = self.directory / f"stderr{len(self.programs)}.txt"
        self.programs.append(start_program(self.directory, log, *ours, *arguments, environment=environment))
        return self.programs[-1]

    def put(self, count: int) -> None:
        """Put files of one chunk on the topic."""
        numbers = range(self.files, self.files + count)
        self.topic.put(message for n in numbers for message in messages_of(cut(f"f{n}.txt", b"x" * n + b"y")))
        self.files += count

    def commit_position(self, partition: int, offset: int, metadata: str) -> None:
        """Commit a position, as another program might."""
        with closing(self._offsets()) as offsets:
            offsets.commit({partition: CommittedOffset(offset, metadata)})

    def committed_positions(self) -> dict[int, CommittedOffset]:
        """What the group has committed of the source topic."""
        with closing(self._offsets()) as offsets:
            return offsets.read(range(PARTITIONS))

    def _offsets(self) -> GroupOffsets:
        clients = ClientConfigs.from_settings({"bootstrap.servers": self.broker.direct_servers})
        return GroupOffsets(clients, self.group, self.source, Health(ignore), time.sleep)

    def results_seen(self) -> list[str]:
        """The paths of all results; each must be there once."""
        seen = [record.value["path"] for record in read_committed(self.broker.direct_servers, self.results)]
        assert len(seen) == len(set(seen)), "something is there twice"
        return sorted(seen)

    def has_results(self) -> bool:
        """Whether each file has its one result."""
        return len(self.results_seen()) == self.files

    def letters_seen(self) -> list[dict[str, Any]]:
        """All dead letters."""
        return [record.value for record in read_committed(self.broker.direct_servers, self.dead_letters)]
