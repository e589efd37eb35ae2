"""The actors of one life of the program: made together, from what Kafka has committed, and ended together."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from ray_reproducer.actors import ray_cluster
from ray_reproducer.actors.committed_place import PlacePolicy
from ray_reproducer.actors.committer import CommitterActor
from ray_reproducer.actors.committer_settings import CommitterSettings, News
from ray_reproducer.actors.consumer import ConsumerActor, ConsumerSettings
from ray_reproducer.actors.extraction import ExtractionJob, JobReference
from ray_reproducer.actors.extraction_task import warm_up
from ray_reproducer.actors.preflight import BROKER_TIMEOUT_S, look_at_topics
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.actors.stopping import StopFlag, first_line, interruptible, result, unwrapped
from ray_reproducer.actors.topic_watch import TopicWatch
from ray_reproducer.core.batching import BatchLimits
from ray_reproducer.core.errors import ConfigurationError, ExtractorError, PipelineError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.limits import MachineLimits, PatienceLimits, PoolLimits
from ray_reproducer.core.outcome import Origin
from ray_reproducer.kafka import admin

START_TIMEOUT_S: Final = 60.0
"""How long an actor may take to start and give its first answer, on a machine that may be busy."""
HEAD_INTERVAL_S: Final = 1.0
"""How often it is looked whether Ray's head is there while the actors start, which nothing can without it."""
STOP_TIMEOUT_S: Final = 5.0
"""How long consumers may take to close their connections before they are ended by force."""
MESSAGE_OVERHEAD_BYTES: Final = 2_048
"""Room in a message for key, headers and framing, beside the value."""
DEFAULT_MESSAGE_MAX_BYTES: Final = 1_000_000
"""librdkafka's default of ``message.max.bytes``."""
_ACTOR: Final[dict[str, Any]] = {
    # All processor cores are for the extractor. Actors wait most of the time.
    "num_cpus": 0,
    # A new process would know nothing: the supervisor makes all actors anew instead.
    "max_restarts": 0,
    # Threads beside the loop: deliveries, in their order; and everything else.
    "concurrency_groups": {"inbox": 1, "control": 2},
}

_T = TypeVar("_T")
FleetMaker: TypeAlias = Callable[[PipelineSettings, StopFlag, Mapping[int, int]], "Fleet"]
"""Makes the actors of one life of the program; the arguments are those of :class:`Fleet`."""


class Fleet:
    """One committer, some consumers, and what the driver does with them."""

    def __init__(self, settings: PipelineSettings, stop: StopFlag, began_at: Mapping[int, int]) -> None:
        """Make nothing yet; ``start`` does.

        Args:
            settings: what to do.
            stop: whether the run is to end.
            began_at: where a group without a place began in an earlier life of this run: partition -> offset.
        """
        self._settings = settings
        self._stop = stop
        self.began_at = dict(began_at)
        self._is_later_life = bool(began_at)
        self._started = False
        self._watch: TopicWatch | None = None
        self._asked: ray.ObjectRef[News] | None = None
        self._asked_at_s = 0.0
        self._next_look_at_head_s = 0.0
        self._want_open_files = False
        self._pings: dict[int, tuple[ray.ObjectRef[None], float]] = {}
        self._committer: Any = None
        self._consumers: list[Any] = []
        self._loops: list[ray.ObjectRef[None]] = []
        self._warming: list[ray.ObjectRef[None]] = []
        self._warmed = False
        self._partitions: frozenset[int] = frozenset()

    def start(self) -> None:
        """Look at the topics, make the actors, and let them go.

        Raises:
            ReproducerError: the broker or a topic can't be used, or the group's place can't be read.
            StoppedError: the run is to end.
        """
        settings = self._settings
        self._expect_head()
        slots = ray_cluster.slots(settings.extraction.num_cpus)
        if not ray_cluster.is_alive():
            raise PipelineError("Ray has no machine that is alive", hint="Look at it with `ray status`.")
        if slots == 0 and ray_cluster.is_local():
            raise ConfigurationError(
                f"extraction.num_cpus={settings.extraction.num_cpus:g} is more than the {ray_cluster.cpus():g} cores "
                "that there are: no file could be worked on",
                hint="Lower it, or raise ray.num_cpus.",
            )
        job = self._job()
        self._warming = warm_up(job, settings.extraction.num_cpus, slots)
        topic, lows, highs = interruptible(lambda: _look(settings), self._to_end)
        if not self.began_at:
            self.began_at = highs if settings.start == "latest" else lows
        # Partitions that have come since are read from their beginning.
        begin = {p: self.began_at.get(p, low) for p, low in lows.items()}
        committer = ray.remote(**_ACTOR)(CommitterActor)
        self._committer = committer.remote(self._committer_settings(topic, lows, begin), job)
        starts: Mapping[int, PartitionStart] = self._answer(self._committer.start.remote())
        starts = self._begin(starts, topic)
        self._partitions = frozenset(starts)
        for number, share in enumerate(self._shares(starts), start=1):
            self._consumers.append(self._consumer(number, share))
        self._loops = [
            self._committer.run.remote(self._consumers),
            *(consumer.run.remote() for consumer in self._consumers),
        ]
        self.set_slots(slots)
        self._started = True
        if not settings.embedded:
            self._watch = TopicWatch(settings, topic)
            self._watch.start()

    def _begin(
        self, starts: Mapping[int, PartitionStart], topic: admin.TopicDescription
    ) -> Mapping[int, PartitionStart]:
        """Decide what is read, after the committer has taken the group over; this reads from where the group stands."""
        return starts

    def drain(self) -> None:
        """Let the run end when all that is on the topic now has its outcome."""
        settings = self._settings
        topic = admin.describe_topic(settings.clients, settings.source_topic, BROKER_TIMEOUT_S)
        limits = admin.watermarks(settings.clients, topic.name, topic.partitions, BROKER_TIMEOUT_S)
        # A partition that is not read yet is read, and drained, by the next start.
        self._tell("drain_to", {p: high for p, (_, high) in limits.items() if p in self._partitions})

    def stop(self) -> None:
        """Let the run end as soon as what is in flight is committed."""
        self._tell("stop")

    def set_slots(self, slots: int) -> None:
        """Tell how many tasks the cluster can run at a time."""
        self._tell("set_slots", slots)

    def take_new_partitions(self) -> list[int]:
        """Let partitions be read that the source topic has got since the last call; return which.

        Raises:
            TopicReplacedError: the topic was deleted, or deleted and made anew.
        """
        added = self._watch.added() if self._watch is not None else {}
        if added:
            self._tell("add_partitions", added)
            self._partitions |= added.keys()
        return sorted(added)

    def news(self, *, want_open_files: bool = False) -> News | None:
        """Return what has happened since the last call; None if the committer has not answered yet.

        Args:
            want_open_files: let a list of the files on their way be made for a later call.

        Raises:
            ReproducerError: an actor ended with it, or has not answered for too long.
            RayActorError: an actor is lost.
        """
        self._look_at_warm_ups()
        for loop in _ended(self._loops):
            self._answer(loop)
        self._look_at_consumers()
        self._want_open_files = self._want_open_files or want_open_files
        if self._asked is None:
            self._asked, self._asked_at_s = self._committer.news.remote(self._want_open_files), time.monotonic()
            self._want_open_files = False
        if not _ended([self._asked]):
            self._expect_answer("the committer", self._asked_at_s)
            return None
        asked, self._asked = self._asked, None
        news: News = self._answer(asked)
        if news.finished:
            self._answer(self._loops[0])
        return news

    def names(self) -> dict[str, str]:
        """Return what the actors are called: id in hexadecimal digits -> name."""
        actors = {"the committer": self._committer}
        actors |= {f"consumer {number}": consumer for number, consumer in enumerate(self._consumers, start=1)}
        return {actor._actor_id.hex(): name for name, actor in actors.items() if actor is not None}  # noqa: SLF001

    def end(self) -> None:
        """End all actors; what they have not committed is as if it had not been."""
        if self._watch is not None:
            self._watch.close()
        closing = [consumer.stop.remote() for consumer in self._consumers]
        if closing and self._loops:
            ray.wait(self._loops[1:], num_returns=len(self._loops) - 1, timeout=STOP_TIMEOUT_S, fetch_local=False)
        for actor in (*self._consumers, self._committer):
            if actor is not None:
                ray.kill(actor)
        self._consumers, self._committer, self._loops = [], None, []

    def _look_at_warm_ups(self) -> None:
        """Blame the extractor if every worker that loaded it ended; a single one may have had other reasons."""
        ended = _ended(self._warming)
        for warm_up_task in ended:
            self._warming.remove(warm_up_task)
            try:
                ray.get(warm_up_task)
            except RayTaskError as error:
                raise unwrapped(error) from None
            except (WorkerCrashedError, OutOfMemoryError) as error:
                if self._warmed or self._warming:
                    continue
                raise ExtractorError(
                    f"worker processes end while they load the extractor: {first_line(error)}",
                    hint="Importing its module must not end the process, nor need more memory than there is.",
                ) from None
            except RayError:
                # Its node is gone, or the like: an extraction task there will say so, if it matters.
                continue
            self._warmed = True

    def _look_at_consumers(self) -> None:
        """Make sure that no consumer hangs: one that is stopped or stuck would only look like an idle topic."""
        for number, consumer in enumerate(self._consumers, start=1):
            asked = self._pings.get(number)
            if asked is not None and not _ended([asked[0]]):
                self._expect_answer(f"consumer {number}", asked[1])
                continue
            if asked is not None:
                self._answer(asked[0])
            self._pings[number] = (consumer.ping.remote(), time.monotonic())

    def _expect_answer(self, who: str, since_s: float) -> None:
        limit_s = self._settings.actor_timeout_s
        if time.monotonic() - since_s > limit_s:
            raise PipelineError(f"{who} has not answered for actor_timeout={limit_s:g} s")

    def _to_end(self) -> bool:
        """Whether to wait no more: a start is given up at the first request, what runs ends in an orderly way."""
        if self._started:
            return self._stop.now
        self._expect_head()
        return self._stop.graceful

    def _expect_head(self) -> None:
        """Give a start up if Ray's head is away: later ones are watched over by the supervisor."""
        if time.monotonic() >= self._next_look_at_head_s:
            self._next_look_at_head_s = time.monotonic() + HEAD_INTERVAL_S
            if not ray_cluster.head_listens():
                raise PipelineError("Ray's head does not answer")

    def _answer(self, reference: Any) -> Any:
        return result(reference, START_TIMEOUT_S, self._to_end)

    def _tell(self, method: str, *arguments: object) -> None:
        asked_at_s = time.monotonic()

        def to_end() -> bool:
            if self._started:  # it takes a moment then; a start waits for the broker
                self._expect_answer("the committer", asked_at_s)
            return self._to_end()

        timeout_s = max(START_TIMEOUT_S, 2 * self._settings.actor_timeout_s)
        result(getattr(self._committer, method).remote(*arguments), timeout_s, to_end)

    def _shares(self, starts: Mapping[int, PartitionStart]) -> list[dict[int, PartitionStart]]:
        """Deal the partitions out to the consumers."""
        wanted = self._settings.consumers or max(1, int(ray_cluster.cpus()) // 2)
        count = min(wanted, len(starts))
        shares: list[dict[int, PartitionStart]] = [{} for _ in range(count)]
        for place, partition in enumerate(sorted(starts)):
            shares[place % count][partition] = starts[partition]
        return shares

    def _consumer(self, number: int, share: Mapping[int, PartitionStart]) -> Any:
        consumer = ray.remote(scheduling_strategy="SPREAD", **_ACTOR)(ConsumerActor)
        return consumer.remote(self._consumer_settings(number), share, self._committer)

    def _consumer_settings(self, number: int) -> ConsumerSettings:
        settings = self._settings
        return ConsumerSettings(
            number=number,
            clients=settings.clients,
            group_id=settings.group_id,
            topic=settings.source_topic,
            filepath_regex=settings.filepath_regex,
        )

    def _committer_settings(
        self, topic: admin.TopicDescription, lows: Mapping[int, int], begin: Mapping[int, int]
    ) -> CommitterSettings:
        settings, extraction = self._settings, self._settings.extraction
        return CommitterSettings(
            clients=settings.clients,
            group_id=settings.group_id,
            source_topic=settings.source_topic,
            results_topic=settings.results_topic,
            dead_letters_topic=settings.dead_letters_topic,
            exactly_once=settings.delivery == "exactly_once",
            lows=lows,
            starts=begin,
            start=settings.start,
            place=PlacePolicy(
                ignore_unreadable=settings.commit_metadata == "ignore",
                start_anew=settings.topic_recreated == "start_anew",
            ),
            instance=settings.instance,
            is_later_life=self._is_later_life,
            origin=Origin(
                settings.source_topic,
                topic.topic_id,
                settings.extractor_name,
                f"ray_reproducer {version('ray_reproducer')}",
            ),
            limits=MachineLimits(
                commit_interval_s=settings.commit_interval_s,
                busy_commit_interval_s=settings.busy_commit_interval_s,
                failures=settings.failures,
                duplicates=settings.duplicates,
                patience=PatienceLimits(incomplete_after_s=settings.incomplete_after_s),
                pool=PoolLimits(
                    max_crashes=extraction.max_crashes,
                    timeout_s=extraction.timeout_s,
                    warn_after_s=extraction.warn_after_s,
                    batch=BatchLimits(target_s=extraction.batch_seconds, max_files=extraction.max_batch_files),
                ),
            ),
            task_cpus=extraction.num_cpus,
            collect_outcomes=settings.collect_outcomes,
            registries=settings.registries,
        )

    def _job(self) -> JobReference:
        settings = self._settings
        maximum = int(settings.clients.for_producer().get("message.max.bytes", DEFAULT_MESSAGE_MAX_BYTES))
        job = ExtractionJob(
            key=uuid.uuid4().hex,
            extractor=settings.extractor,
            sys_path=settings.sys_path,
            output_dir=settings.output_dir,
            datafile_mode=settings.datafile_mode,
            max_result_bytes=maximum - MESSAGE_OVERHEAD_BYTES,
        )
        return JobReference(job.key, ray.put(job))


def _ended(references: Sequence[ray.ObjectRef[_T]]) -> list[ray.ObjectRef[_T]]:
    """Return those that have ended."""
    if not references:
        return []
    ended, _ = ray.wait(list(references), num_returns=len(references), timeout=0, fetch_local=False)
    return list(ended)


def _look(settings: PipelineSettings) -> tuple[admin.TopicDescription, dict[int, int], dict[int, int]]:
    """Look at the topics; return the source topic, and where its partitions begin and end."""
    topic = look_at_topics(settings)
    limits = admin.watermarks(settings.clients, topic.name, topic.partitions, BROKER_TIMEOUT_S)
    return topic, {p: low for p, (low, _) in limits.items()}, {p: high for p, (_, high) in limits.items()}
