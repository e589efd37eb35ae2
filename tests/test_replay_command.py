"""``python -m ray_reproducer.replay``: what it prints and how it ends. The rules are those at the head of replay.py.

What it does on a real broker and real Ray: ``tests/e2e/test_replay.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka import Producer

from ray_reproducer import replay
from ray_reproducer.actors.settings import PipelineSettings, RaySettings
from ray_reproducer.actors.supervisor import Summary
from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.errors import ConfigurationError, FencedError
from ray_reproducer.core.outcome import Failure, Origin, PoisonMessage, dead_letter, poison_letter
from ray_reproducer.core.progress import Progress
from ray_reproducer.core.reasons import REASONS, Reason
from ray_reproducer.kafka import admin
from ray_reproducer.kafka.client_config import ClientConfigs
from ray_reproducer.kafka.embedded import EmbeddedCluster
from ray_reproducer.launch import SpecialRun
from ray_reproducer.observability.summary import meaning

WAIT_S = 40.0
TIME = "2026-01-02T03:04:05+00:00"


@dataclass
class Ended:
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An embedded cluster with some dead letters; and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    cluster = EmbeddedCluster()
    address = cluster.start()
    clients = ClientConfigs.from_settings({"bootstrap.servers": address})
    for topic in ("raw", "metadata", "metadata.dead_letters", "empty.dead_letters"):
        admin.ensure_topic(clients, topic)
    producer = Producer(clients.for_producer())
    for _ in range(10):
        producer.produce("raw", b"x", partition=0)
    origins = {name: Origin("raw", admin.NO_TOPIC_ID, name, "test") for name in ("file_info", "tabular")}
    files = [("a/one.csv", "timeout", "file_info", 1), ("a/two.csv", "not_json", "file_info", 2)]
    files += [("b/three.csv", "timeout", "file_info", 50), ("b/four.csv", "timeout", "tabular", 4)]
    for path, reason, extractor, offset in files:
        subdir, _, name = path.rpartition("/")
        version = FileVersion(subdir, name, "", bytes(64), 1)
        failure = Failure(cast("Reason", reason), "what was wrong")
        letter = dead_letter(version, failure, {0: [offset]}, origins[extractor], TIME)
        producer.produce("metadata.dead_letters", letter.value, letter.key)
    poison = poison_letter(0, 5, PoisonMessage("tombstone", "no value", b"", 0), origins["file_info"], TIME)
    producer.produce("metadata.dead_letters", poison.value, poison.key)
    producer.produce("metadata.dead_letters", b"junk", "junk")
    assert producer.flush(WAIT_S) == 0
    yield address
    cluster.close()


@pytest.fixture
def run(servers: str, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_here(*arguments: str) -> Ended:
        common = () if "--help" in arguments else (f"kafka.bootstrap.servers={servers}",)
        code = replay.main([*arguments, *common])
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return run_here


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[PipelineSettings, SpecialRun]]:
    """What would have been launched. It ends as if nothing had been done, or fenced if the commits are rare."""
    seen: list[tuple[PipelineSettings, SpecialRun]] = []

    def launch(settings: PipelineSettings, _: RaySettings, *, special: SpecialRun) -> int:
        seen.append((settings, special))
        if settings.commit_interval_s > 1:
            raise FencedError("another instance has taken over")
        text, code = special.report(Summary(Progress(results=1), 1.0, 0, stopped=False))
        sys.stderr.write(f"{text}\n")
        return code

    monkeypatch.setattr(replay, "launch", launch)
    return seen


TOPICS = ("topics.source=raw", "topics.results=metadata")


# ---------------------------------------------------------------- lists


def test_rule_3_a_list_is_on_stdout_one_line_for_each_reason(run: Run) -> None:
    ended = run("--list", "topics.results=metadata")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["reason", "files"],
        ["timeout", "3"],
        ["not_json", "1"],
        ["tombstone", "1"],
    ]
    assert "Passed over on metadata.dead_letters: 1 record that no dead letter can have" in ended.err


@pytest.mark.parametrize(
    ("conditions", "paths"),
    [
        (["--details"], ["one", "three", "four", "two", "raw"]),
        (["replay.reason=timeout"], ["one", "three", "four"]),
        (["replay.reason=[not_json,tombstone]"], ["two", "raw"]),
        (["replay.path=b/"], ["three", "four"]),
        (["replay.extractor=tabular"], ["four"]),
        (["replay.since=2026-01-02T03:04"], ["one", "three", "four", "two", "raw"]),
    ],
)
def test_a_condition_shows_the_files(run: Run, conditions: list[str], paths: list[str]) -> None:
    ended = run("--list", "topics.dead_letters=metadata.dead_letters", *conditions)
    assert ended.code == 0, ended.err
    rows = ended.out.splitlines()[1:]
    assert len(rows) == len(paths)
    for path in paths:
        assert any(path in row for row in rows), path


def test_a_list_that_is_empty_says_why(run: Run) -> None:
    ended = run("--list", "topics.results=empty")
    assert (ended.code, ended.out) == (0, "")
    assert "No live dead letters on empty.dead_letters." in ended.err
    ended = run("--list", "topics.results=metadata", "replay.until=2026-01-01")
    assert (ended.code, ended.out) == (0, "")
    assert "None of the 5 failed files on metadata.dead_letters matches." in ended.err


# ---------------------------------------------------------------- replays


def test_what_will_be_done_is_said_and_launched(run: Run, launched: list[Any]) -> None:
    ended = run("+extractor=file_info", *TOPICS, "extraction.timeout=7", "delivery=at_least_once")
    assert ended.code == 3
    said = ended.err.splitlines()
    assert said[1] == (
        "file_info: 2 files to replay, 2 messages of raw to read; 2 files can't be replayed "
        "(1: offsets are beyond the end of raw, 1: the message is no chunk of a file)."
    )
    assert "  can't replay b/three.csv: offsets are beyond the end of raw: [0] 50" in said
    assert "  can't replay raw [0] offset 5: the message is no chunk of a file" in said
    assert "  2 files not whole on the source topic; the dead letters stay on metadata.dead_letters:" in said
    ((settings, special),) = launched
    assert special.title == "file_info: replay of metadata.dead_letters → metadata"
    assert (settings.source_topic, settings.results_topic, settings.dead_letters_topic, settings.run_mode) == (
        "raw", "metadata", "metadata.dead_letters", "drain",
    )  # fmt: skip
    assert (settings.extraction.timeout_s, settings.delivery, settings.upload) == (7.0, "at_least_once", None)


def test_rule_2_nothing_to_replay_is_well(run: Run, launched: list[Any]) -> None:
    ended = run("+extractor=file_info", "topics.source=raw", "topics.results=empty")
    assert (ended.code, ended.out) == (0, "")
    assert "No live dead letters on empty.dead_letters." in ended.err
    ended = run("+extractor=xrd_csv", *TOPICS)
    assert ended.code == 0
    assert "None of the 5 failed files on metadata.dead_letters matches." in ended.err
    assert "4 files failed in another extractor: replay.extractor=file_info" in ended.err
    assert launched == []


def test_rule_2_nothing_that_can_be_replayed_ends_in_3_without_a_start(run: Run, launched: list[Any]) -> None:
    ended = run("+extractor=file_info", *TOPICS, "replay.reason=tombstone")
    assert (ended.code, launched) == (3, [])
    assert "can't replay raw [0] offset 5" in ended.err


def test_files_of_another_extractor_are_replayed_if_that_is_asked_for(run: Run, launched: list[Any]) -> None:
    ended = run("+extractor=file_info", *TOPICS, "replay.extractor=tabular")
    assert "file_info: 1 file to replay, 1 message of raw to read." in ended.err
    assert len(launched) == 1


def test_files_of_another_topic_are_counted(run: Run, launched: list[Any]) -> None:
    ended = run(
        "+extractor=file_info",
        "topics.source=metadata",
        "topics.results=empty",
        "topics.dead_letters=metadata.dead_letters",
    )
    assert ended.code == 0
    assert "4 files of another topic left out: topics.source=raw replays them." in ended.err
    assert launched == []


def test_rule_2_a_replay_that_another_took_over_ends_in_4(run: Run, launched: list[Any]) -> None:
    ended = run("+extractor=file_info", *TOPICS, "commit_interval=2")
    assert ended.code == 4
    assert "another instance has taken over" in ended.err
    assert len(launched) == 1


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+extractor=file_info", "topics.results=metadata"], "topics.source must be given"),
        (["+extractor=file_info"], "topics.source and topics.results must be given"),
        (["--list"], "topics.results or topics.dead_letters must be given"),
        (TOPICS, "No extractor is chosen"),
        (["+extractor=file_info", *TOPICS, "replay.path='('"], "replay.path=( is no regular expression"),
        (["+extractor=file_info", *TOPICS, "replay.since=yesterday"], "replay.since=yesterday is no time"),
        (["+extractor=file_info", *TOPICS, "replay.reason={a: 1}"], "is no reason"),
        (["+extractor=file_info", *TOPICS, "replay.reason=nonsense"], "There are: extractor_raised, not_a_dict,"),
        (["+extractor=file_info", *TOPICS, "replay.reason=[timeout,not_jsn]"], "Did you mean not_json? There are: "),
        (["+extractor=file_info", TOPICS[0], "topics.results=empty", "replay.reason=nonsense"], "is no reason"),
        (["--list", *TOPICS, "replay.reason=Timeout"], "replay.reason=Timeout is no reason"),
        (["--list", "topics.results=empty", "replay.reason=nonsense"], "no dead letter on empty.dead_letters has it"),
        (["+extractor=file_info", *TOPICS, "replay.reasn=timeout"], "Did you mean replay.reason?"),
        (["+extractor=file_info", *TOPICS, "replay.since=2026-02-01", "replay.until=2026-01-01"], "is not before"),
        (["+extractor=file_info", *TOPICS, "extraction.timeout=0"], "extraction.timeout=0.0 is too small"),
        (["+extractor=file_info", *TOPICS, "topics.dead_letters=raw"], "three different topics"),
        (["--list", *TOPICS, "kafka.sasl.password=literal"], "kafka.sasl.password is a secret"),
        (["--list", *TOPICS, "kafka.embedded=true"], "forgets everything"),
        (["+extractor=file_info", *TOPICS, "kafka.embedded=true"], "forgets everything"),
        (["+extractor=file_info", *TOPICS, "kafka=embedded"], "forgets everything"),
        (["+extractor=file_info", *TOPICS, "run=drain"], "A replay always drains"),
        (["+extractor=file_info", *TOPICS, "+run=stream"], "A replay always drains"),
        (["+extractor=file_info", *TOPICS, "run.mode=drain"], "A replay always drains"),
    ],
)
def test_rule_2_wrong_settings_end_in_2(run: Run, arguments: list[str], said: str) -> None:
    ended = run(*arguments)
    assert (ended.code, "Traceback" in ended.err) == (2, False), ended.err
    assert said in ended.err


def test_rule_2_a_topic_that_is_not_there_ends_in_1(run: Run) -> None:
    ended = run("--list", "topics.results=metadat")
    assert (ended.code, "Traceback" in ended.err) == (1, False)
    assert "metadat.dead_letters does not exist" in ended.err
    assert "Did you mean metadata.dead_letters" in ended.err


def test_help(run: Run) -> None:
    ended = run("--help")
    assert ended.code == 0
    assert "--list" in ended.out
    assert "extractor: file_info, tabular, xrd_csv" in ended.out


def test_the_help_has_each_reason_with_its_meaning(run: Run) -> None:
    _, _, reasons = run("--help").out.partition("Reasons, for replay.reason\n")
    lines = [line.split(None, 1) for line in reasons.partition("\n\n")[0].splitlines()]
    assert lines == [[reason, meaning(reason)] for reason in REASONS]


def test_rule_4_a_reason_that_a_letter_of_a_later_version_has_can_be_chosen(run: Run, servers: str) -> None:
    letter = dead_letter(
        FileVersion("", "new.csv", "", bytes(64), 1),
        Failure(cast("Reason", "of_a_later_version"), "what was wrong"),
        {0: [3]},
        Origin("raw", admin.NO_TOPIC_ID, "file_info", "test"),
        TIME,
    )
    producer = Producer({"bootstrap.servers": servers})
    producer.produce("metadata.dead_letters", letter.value, letter.key)
    assert producer.flush(WAIT_S) == 0
    ended = run("--list", *TOPICS, "replay.reason=of_a_later_version")
    assert ended.code == 0, ended.err
    assert "new.csv" in ended.out
    ended = run("--list", *TOPICS, "replay.reason=of_a_later_versoin")
    assert ended.code == 2
    assert "Did you mean of_a_later_version?" in ended.err


def test_rule_6_of_hydra_command_the_help_has_the_groups_that_a_replay_has(run: Run, tmp_path: Path) -> None:
    (tmp_path / "conf" / "extractor").mkdir(parents=True)
    (tmp_path / "conf" / "extractor" / "mine$.yaml").write_text("_target_: my_lab.lines\n")
    _, _, after = run("--help").out.partition("Choices: ")
    groups, _, _ = after.partition("Keys: ")
    assert groups.splitlines()[1:] == [
        "extractor: file_info, mine$, tabular, xrd_csv",
        "kafka: default",
        "ray: cluster, local",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=timezone.utc)),
        ("2026-03-01T14:30", datetime(2026, 3, 1, 14, 30, tzinfo=timezone.utc)),
        ("2026-03-01T14:30:05Z", datetime(2026, 3, 1, 14, 30, 5, tzinfo=timezone.utc)),
        ("2026-03-01 14:30+02:00", datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)),
    ],
)
def test_times(text: str, time: datetime) -> None:
    conditions = {"path": None, "reason": None, "since": text, "until": None}
    assert replay.selection(conditions, None).since == time


@pytest.mark.parametrize("text", ["", "2026", "14:30", "0001-01-01T00:00+10:00", "9999-99-99"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no time"):
        replay.selection({"path": None, "reason": None, "since": None, "until": text}, None)
