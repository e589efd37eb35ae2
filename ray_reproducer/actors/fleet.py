"""The actors of one life of the program: made together, from what Kafka has committed, and ended together."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from ray_reproducer.actors import ray_cluster
from ray_reproducer.actors.committer import CommitterActor, CommitterSettings, News
from ray_reproducer.actors.consumer import ConsumerActor, ConsumerSettings
from ray_reproducer.actors.extraction import ExtractionJob, JobReference
from ray_reproducer.actors.extraction_task import warm_up
from ray_reproducer.actors.preflight import BROKER_TIMEOUT_S, look_at_topics
from ray_reproducer.actors.settings import PipelineSettings
from ray_reproducer.core.batching import BatchLimits
from ray_reproducer.core.errors import ConfigurationError, ExtractorError, PipelineError, ReproducerError
from ray_reproducer.core.ledger import PartitionStart
from ray_reproducer.core.limits import MachineLimits, PoolLimits
from ray_reproducer.core.outcome import Origin
from ray_reproducer.kafka import admin

ANSWER_TIMEOUT_S: Final = 60.0
"""How long an actor may take to answer: Ray starts it first, on a machine that may be busy."""
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


class Fleet:
    """One committer, some consumers, and what the driver does with them."""

    def __init__(self, settings: PipelineSettings) -> None:
        """Make nothing yet; ``start`` does."""
        self._settings = settings
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
        """
        settings = self._settings
        slots = ray_cluster.slots(settings.extraction.num_cpus)
        if slots == 0 and ray_cluster.is_local():
            raise ConfigurationError(
                f"extraction.num_cpus={settings.extraction.num_cpus:g} is more than the {ray_cluster.cpus():g} cores "
                "that there are: no file could be worked on",
                hint="Lower it, or raise ray.num_cpus.",
            )
        job = self._job()
        self._warming = warm_up(job, settings.extraction.num_cpus, slots)
        topic = look_at_topics(settings)
        limits = admin.watermarks(settings.clients, topic.name, topic.partitions, BROKER_TIMEOUT_S)
        begin = {p: low if settings.start == "earliest" else high for p, (low, high) in limits.items()}
        committer = ray.remote(**_ACTOR)(CommitterActor)
        self._committer = committer.remote(self._committer_settings(topic, begin), job)
        starts: Mapping[int, PartitionStart] = _result(self._committer.start.remote())
        self._partitions = frozenset(starts)
        for number, share in enumerate(self._shares(starts), start=1):
            self._consumers.append(self._consumer(number, share))
        self._loops = [
            self._committer.run.remote(self._consumers),
            *(consumer.run.remote() for consumer in self._consumers),
        ]
        self.set_slots(slots)

    def drain(self) -> None:
        """Let the run end when all that is on the topic now has its outcome."""
        settings = self._settings
        topic = admin.describe_topic(settings.clients, settings.source_topic, BROKER_TIMEOUT_S)
        limits = admin.watermarks(settings.clients, topic.name, topic.partitions, BROKER_TIMEOUT_S)
        # Partitions that were added since the start are read, and drained, by the next start.
        self._tell("drain_to", {p: high for p, (_, high) in limits.items() if p in self._partitions})

    def stop(self) -> None:
        """Let the run end as soon as what is in flight is committed."""
        self._tell("stop")

    def set_slots(self, slots: int) -> None:
        """Tell how many tasks the cluster can run at a time."""
        self._tell("set_slots", slots)

    def news(self, *, want_open_files: bool = False) -> News:
        """Return what has happened since the last call.

        Args:
            want_open_files: let a list of the files on their way be made for a later call.

        Raises:
            ReproducerError: an actor ended with it.
            RayActorError: an actor is lost.
        """
        self._look_at_warm_ups()
        for loop in _ended(self._loops):
            _result(loop)
        news: News = _result(self._committer.news.remote(want_open_files))
        if news.finished:
            _result(self._loops[0])
        return news

    def end(self) -> None:
        """End all actors; what they have not committed is as if it had not been."""
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
                raise _unwrapped(error) from None
            except (WorkerCrashedError, OutOfMemoryError) as error:
                if self._warmed or self._warming:
                    continue
                raise ExtractorError(
                    f"worker processes end while they load the extractor: {str(error).splitlines()[0]}",
                    hint="Importing its module must not end the process, nor need more memory than there is.",
                ) from None
            except RayError:
                # Its node is gone, or the like: an extraction task there will say so, if it matters.
                continue
            self._warmed = True

    def _tell(self, method: str, *arguments: object) -> None:
        _result(getattr(self._committer, method).remote(*arguments))

    def _shares(self, starts: Mapping[int, PartitionStart]) -> list[dict[int, PartitionStart]]:
        """Deal the partitions out to the consumers."""
        wanted = self._settings.consumers or max(1, int(ray_cluster.cpus()) // 2)
        count = min(wanted, len(starts))
        shares: list[dict[int, PartitionStart]] = [{} for _ in range(count)]
        for place, partition in enumerate(sorted(starts)):
            shares[place % count][partition] = starts[partition]
        return shares

    def _consumer(self, number: int, share: Mapping[int, PartitionStart]) -> Any:
        settings = self._settings
        told = ConsumerSettings(
            number=number,
            clients=settings.clients,
            group_id=settings.group_id,
            topic=settings.source_topic,
            filepath_regex=settings.filepath_regex,
        )
        consumer = ray.remote(scheduling_strategy="SPREAD", **_ACTOR)(ConsumerActor)
        return consumer.remote(told, share, self._committer)

    def _committer_settings(self, topic: admin.TopicDescription, begin: Mapping[int, int]) -> CommitterSettings:
        settings, extraction = self._settings, self._settings.extraction
        return CommitterSettings(
            clients=settings.clients,
            group_id=settings.group_id,
            source_topic=settings.source_topic,
            results_topic=settings.results_topic,
            dead_letters_topic=settings.dead_letters_topic,
            exactly_once=settings.delivery == "exactly_once",
            starts=begin,
            origin=Origin(
                settings.source_topic,
                topic.topic_id,
                settings.extractor_name,
                f"ray_reproducer {version('ray_reproducer')}",
            ),
            limits=MachineLimits(
                commit_interval_s=settings.commit_interval_s,
                pool=PoolLimits(
                    max_crashes=extraction.max_crashes,
                    timeout_s=extraction.timeout_s,
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


def _ended(references: list[ray.ObjectRef[None]]) -> list[ray.ObjectRef[None]]:
    """Return those that have ended."""
    if not references:
        return []
    ended, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
    return list(ended)


def _result(reference: Any) -> Any:
    """Get an actor's answer; errors of ours come out as themselves, without Ray's wrapping.

    Raises:
        ReproducerError: what the actor raised.
        ConfigurationError: Ray's runtime environment can't be set up.
        PipelineError: a part of the program, or of Ray, is lost.
    """
    try:
        return ray.get(reference, timeout=ANSWER_TIMEOUT_S)
    except GetTimeoutError:
        raise PipelineError(
            f"an actor has not answered for {ANSWER_TIMEOUT_S:g} s",
            hint="Has the Ray cluster room for it (`ray status`), and does the broker answer?",
        ) from None
    except RayActorError:
        raise
    except RayTaskError as error:
        raise _unwrapped(error) from error
    except RuntimeEnvSetupError as error:
        raise ConfigurationError(f"ray.runtime_env can't be set up: {_first_line(error)}") from error
    except RayError as error:
        raise PipelineError(f"{type(error).__name__}: {_first_line(error)}") from error


def _unwrapped(error: RayTaskError) -> Exception:
    cause = error.cause
    if isinstance(cause, (OutOfDiskError, ObjectStoreFullError)):
        return PipelineError(
            f"Ray has no room left for files on their way: {_first_line(cause)}",
            hint="Raise ray.object_store_memory, or make room where Ray spills to (/tmp).",
        )
    return cause if isinstance(cause, ReproducerError) else error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
