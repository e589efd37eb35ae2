"""The summary: what was done, and what to do about what is not fine."""

from __future__ import annotations

from dataclasses import replace

from ray_reproducer.core.progress import Progress
from ray_reproducer.core.reasons import REASONS
from ray_reproducer.observability.summary import _REASONS, RunNames, meaning, summary

NAMES = RunNames(
    extractor="xrd_csv",
    source_topic="raw",
    results_topic="metadata",
    dead_letters_topic="metadata.dead_letters",
    group_id="lab",
    servers="host:9092,other:9092",
    drain=True,
)
FINE = Progress(messages_read=40, bytes_read=4_000_000, results=20, lag_messages=0, drained=True)


def test_all_well_is_one_line() -> None:
    assert summary(FINE, 2.0, NAMES, stopped=False) == (
        "xrd_csv: drained after 2.0 s. 20 results on metadata, 0 dead letters; 4 MB read (10.0 files/s, 2 MB/s)."
    )


def test_dead_letters_come_with_their_reasons_and_the_way_to_see_them() -> None:
    progress = replace(FINE, dead_letters=3, dead_letters_by_reason={"hash_mismatch": 1, "extractor_raised": 2})
    text = summary(progress, 2.0, NAMES, stopped=False)
    assert "3 dead letters on metadata.dead_letters:" in text
    assert text.index("2  extractor_raised: the extractor raised") < text.index("1  hash_mismatch: ")
    assert (
        "python -m ray_reproducer.replay --list topics.dead_letters=metadata.dead_letters "
        "kafka.bootstrap.servers=host:9092" in text
    )


def test_the_embedded_broker_keeps_no_dead_letters() -> None:
    progress = replace(FINE, dead_letters=1, dead_letters_by_reason={"a_new_reason": 1})
    text = summary(progress, 2.0, replace(NAMES, servers=""), stopped=False)
    assert "run.print_results=true" in text
    assert "--list" not in text
    assert "1  a_new_reason\n" in text


def test_what_is_not_finished_is_said_with_what_becomes_of_it() -> None:
    progress = replace(FINE, files_incomplete=2, files_in_flight=1, files_waiting=3, outcomes_pending=1, drained=False)
    text = summary(progress, 2.0, NAMES, stopped=True)
    assert "stopped after" in text
    assert "2 files incomplete: chunks are missing on raw" in text
    assert "5 files read but not finished: the next run with group_id=lab does them" in text


def test_an_empty_drain_wonders_about_the_topic() -> None:
    text = summary(Progress(drained=True), 1.0, NAMES, stopped=False)
    assert "Nothing new on raw for group lab" in text
    assert "Nothing new" not in summary(Progress(), 1.0, replace(NAMES, drain=False), stopped=True)


def test_files_that_could_not_be_uploaded_are_counted() -> None:
    text = summary(FINE, 1.0, NAMES, stopped=False, upload_failures=2)
    assert "2 files of upload.path not on raw: the reasons are above." in text


def test_every_reason_that_the_program_gives_is_explained_in_a_line_and_no_other() -> None:
    assert tuple(_REASONS) == REASONS
    assert all(meaning(reason) and "\n" not in meaning(reason) for reason in REASONS)
    assert meaning("a_new_reason") == ""


def test_asides_and_trouble() -> None:
    text = summary(replace(FINE, filtered=2, duplicates=1, broker_trouble="refused"), 1.0, NAMES, stopped=False)
    assert "Besides: 2 messages left out by filepath_regex, 1 chunk of files that were done already." in text
    assert "The broker was in trouble at the end: refused." in text
