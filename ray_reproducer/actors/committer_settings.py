"""What the committer actor is told when it is made, and what it tells the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_reproducer.actors.committed_place import PlacePolicy
from ray_reproducer.actors.settings import Start
from ray_reproducer.actors.transactions import Clears
from ray_reproducer.actors.worker_log import Said
from ray_reproducer.core.limits import MachineLimits
from ray_reproducer.core.open_files import OpenFile
from ray_reproducer.core.outcome import Origin, Outcome
from ray_reproducer.core.progress import Progress
from ray_reproducer.kafka.client_config import ClientConfigs


@dataclass(frozen=True, slots=True)
class CommitterSettings:
    """What the committer actor is told.

    Attributes:
        clients: settings of the Kafka clients.
        group_id: whose offsets are committed.
        source_topic: the topic that they are of.
        results_topic: where metadata goes.
        dead_letters_topic: where failures go.
        exactly_once: with transactions, or without.
        lows: partition -> oldest offset that is left; where partitions begin that the group does not know yet.
        starts: partition -> where to begin if the group has no place at all.
        start: whether the group must have a place, and whether results that are there already count.
        place: what to do about a place that can't be used as it is.
        instance: what this instance of the program is called; "" on the embedded broker, which has no other.
        is_later_life: whether this run has had the group before, with other actors.
        origin: what all dead letters have in common.
        limits: what the machine keeps to.
        task_cpus: processor cores that a task reserves.
        collect_outcomes: whether every outcome is kept until it is fetched.
        registries: whether outcomes without metadata, and the files on their way, are kept until they are fetched.
        transactional_id: who fences whom; "": made of the group id.
    """

    clients: ClientConfigs
    group_id: str
    source_topic: str
    results_topic: str
    dead_letters_topic: str
    exactly_once: bool
    lows: Mapping[int, int]
    starts: Mapping[int, int]
    start: Start
    place: PlacePolicy
    instance: str
    is_later_life: bool
    origin: Origin
    limits: MachineLimits
    task_cpus: float
    collect_outcomes: bool
    registries: bool = False
    transactional_id: str = ""


@dataclass(frozen=True, slots=True)
class ReplayOrders:
    """What a replay works on.

    Attributes:
        starts: partition -> the first offset that is read; the others are not read.
        attempts_before: id of a file version -> how often the extractor was started on it before.
        clears: which dead letters a file's outcome clears.
        owners: id of a file version -> the tag of the group whose file it is, if that is known.
        groups: id of a file version -> the id of the group in whose registries it is, if it is in any.
    """

    starts: Mapping[int, int]
    attempts_before: Mapping[bytes, int]
    clears: Clears
    owners: Mapping[bytes, bytes]
    groups: Mapping[bytes, str]


@dataclass(frozen=True, slots=True)
class News:
    """What the driver fetches a few times a second.

    Attributes:
        progress: counters of this moment.
        outcomes: those committed since the last time, and files held; results among them only if they are wanted.
        open_files: files on their way, if they were asked for and listed since.
        messages: things that are worth a line in the log.
        said: what was logged in workers; of a flood, the latest.
        finished: everything is done, ``run`` is about to return.
        left_out_since_ms: when the oldest file was done whose outcome there was no room to keep for the registries, in
            milliseconds since the epoch; None: all are told.
    """

    progress: Progress = field(default_factory=Progress)
    outcomes: tuple[Outcome, ...] = ()
    open_files: tuple[OpenFile, ...] | None = None
    messages: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()
    finished: bool = False
    left_out_since_ms: int | None = None
