"""The last words of a run: what was done, and what to do about anything that is not fine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ray_reproducer.core.progress import Progress
from ray_reproducer.observability.quantities import count, data_size, done, duration, rate

_REASONS: Final[dict[str, str]] = {
    "extractor_raised": "the extractor raised an exception; its traceback is in the dead letter",
    "not_a_dict": "the extractor returned something that is no dictionary",
    "not_json": "the extractor returned something that JSON can't say",
    "result_too_large": "the metadata is larger than a message may be: max.message.bytes of the topic, or say less",
    "hash_mismatch": "the content is not what was sent: upload the file again",
    "worker_crashed": "the extractor ended its process (crash, out of memory): try the file alone",
    "out_of_memory": "the extractor took more memory than there is: fewer at a time (extraction.num_cpus=2)",
    "node_died": "the machine that ran the extractor went away each time: can the file bring a machine down?",
    "not_writable": "something is in the way below output_dir: a file where a directory is needed, or a link",
    "timeout": "the extractor took longer than extraction.timeout",
    "tombstone": "a message without content",
    "not_a_chunk": "a message that is no chunk of a file: does another program write to this topic?",
    "bad_chunk_field": "a chunk that contradicts itself: which program sent it?",
    "unsafe_path": "a chunk that names a file outside of the directory: which program sent it?",
    "incomplete": "chunks did not come within incomplete_after; the dead letter lists them: upload the file again",
    "superseded": "chunks did not come, and a newer version of the file did: nothing to do, most likely",
    "inconsistent_chunks": "chunks of one file contradict each other: upload the file again",
}


def meaning(reason: str) -> str:
    """Say in a line what a reason code means, and what to do; "" if it is not known."""
    return _REASONS.get(reason, "")


@dataclass(frozen=True, slots=True)
class RunNames:
    """The names that the summary mentions.

    Attributes:
        extractor: name of the extractor.
        source_topic: topic with the chunks.
        results_topic: topic with the metadata.
        dead_letters_topic: topic with the failures.
        group_id: the group.
        servers: ``bootstrap.servers``; "" for the embedded broker.
        drain: whether the run was to end by itself.
    """

    extractor: str
    source_topic: str
    results_topic: str
    dead_letters_topic: str
    group_id: str
    servers: str
    drain: bool


def summary(progress: Progress, seconds: float, names: RunNames, *, stopped: bool, upload_failures: int = 0) -> str:
    """Write the summary of a run.

    Args:
        progress: the last snapshot.
        seconds: how long the run took.
        names: what to call things.
        stopped: whether a person or a signal ended it.
        upload_failures: files of upload.path that could not be put on the source topic.
    """
    lines = [_headline(progress, seconds, names, stopped=stopped)]
    if upload_failures:
        lines.append(
            f"  {count(upload_failures, 'file')} of upload.path not on {names.source_topic}: the reasons are above."
        )
    lines.extend(_advice(progress, names, stopped=stopped))
    return "\n".join(lines)


def _headline(progress: Progress, seconds: float, names: RunNames, *, stopped: bool) -> str:
    per_s = max(seconds, 0.001)
    end = "stopped" if stopped else "drained" if progress.drained else "ended"
    speed = f"{rate(done(progress) / per_s)} files/s, {data_size(progress.bytes_read / per_s)}/s"
    line = (
        f"{names.extractor}: {end} after {duration(seconds)}. "
        f"{count(progress.results, 'result')} on {names.results_topic}, "
        f"{count(progress.dead_letters, 'dead letter')}; {data_size(progress.bytes_read)} read ({speed})."
    )
    aside = []
    if progress.filtered:
        aside.append(f"{count(progress.filtered, 'message')} left out by filepath_regex")
    if progress.duplicates:
        aside.append(f"{count(progress.duplicates, 'chunk')} of files that were done already")
    return f"{line}\n  Besides: {', '.join(aside)}." if aside else line


def _advice(progress: Progress, names: RunNames, *, stopped: bool) -> Iterator[str]:
    if progress.offsets_lost:
        yield (
            f"  {count(progress.offsets_lost, 'message')} of {names.source_topic} gone before they were read "
            "(retention, deleted records): what they held is lost. Keep messages longer than this program may be away."
        )
    if progress.held:
        yield (
            f"  {count(progress.held, 'file')} failed and held (failures=hold): the next start with "
            f"group_id={names.group_id} tries them again."
        )
    if progress.dead_letters:
        yield from _dead_letters(progress, names)
    if progress.files_incomplete:
        yield (
            f"  {count(progress.files_incomplete, 'file')} incomplete: chunks are missing on {names.source_topic}. "
            "Finished when the rest arrives; upload again what never does."
        )
    unfinished = progress.files_in_flight + progress.files_waiting + progress.outcomes_pending
    if unfinished:
        yield (
            f"  {count(unfinished, 'file')} read but not finished: the next run with group_id={names.group_id} "
            "does them, and none twice."
        )
    if progress.broker_trouble:
        yield f"  The broker was in trouble at the end: {progress.broker_trouble}. Start again when it answers."
    if names.drain and not stopped and not progress.messages_read:
        yield (
            f"  Nothing new on {names.source_topic} for group {names.group_id}. "
            "Is it the right topic? Another group_id=NAME begins from the start."
        )


def _dead_letters(progress: Progress, names: RunNames) -> Iterator[str]:
    yield f"  {count(progress.dead_letters, 'dead letter')} on {names.dead_letters_topic}:"
    reasons = sorted(progress.dead_letters_by_reason.items(), key=lambda item: (-item[1], item[0]))
    for reason, number in reasons:
        said = meaning(reason)
        yield f"    {number:>7,}  {reason}: {said}" if said else f"    {number:>7,}  {reason}"
    if not names.servers:
        yield "  The embedded broker is gone with them: run.print_results=true shows each with its error."
        return
    topic, servers = shlex.quote(names.dead_letters_topic), shlex.quote(names.servers)
    yield (
        f"  Look at them: python -m ray_reproducer.replay --list topics.dead_letters={topic} "
        f"kafka.bootstrap.servers={servers}"
    )
    yield "  Its --help says how to run them again, when the reason is gone."
