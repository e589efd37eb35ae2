"""What the topics tell of files that are done, against what the registries have: exactly the missing rows are added."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ray_reproducer.core import result_header
from ray_reproducer.core.errors import BrokerError, PipelineError
from ray_reproducer.core.outcome import Facts, Outcome
from ray_reproducer.kafka.client_config import ClientConfigs, open_producer
from ray_reproducer.observability import files, registry_catch_up, registry_source
from ray_reproducer.observability.registries import CATCH_UP_MARGIN_S, Registries, RegistryNames
from ray_reproducer.observability.registry_catch_up import CatchUp
from ray_reproducer.observability.registry_format import RESULTS_COLUMNS, header, result_row
from tests.observability.test_registries import in_progress, registered

pytestmark = pytest.mark.timeout(180)
DEADLINE_S = 60.0
HOUR_S = 3600.0


def done(path: str, *, reason: str = "", ago_s: float = 0.0) -> Outcome:
    now_ms = int((time.time() - ago_s) * 1000)
    facts = Facts(n_messages=2, size_bytes=10, first_ms=now_ms - 5000, newest_ms=now_ms, done_ms=now_ms)
    return Outcome(path, "dead_letter" if reason else "result", "k", b"{}", reason=reason, facts=facts)


@pytest.fixture
def names(bootstrap_servers: str, unique_topic: Callable[..., str]) -> RegistryNames:
    clients = ClientConfigs.from_settings({"bootstrap.servers": bootstrap_servers})
    return RegistryNames("raw", unique_topic("metadata", 2), unique_topic("dead_letters", 2), "group", clients)


@pytest.fixture
def produce(names: RegistryNames) -> Callable[..., None]:
    """Put outcomes where the program puts them, some time ago."""

    def send(*outcomes: Outcome, ago_s: float = 0.0, group_id: str = "group") -> None:
        assert names.clients is not None
        producer = open_producer(names.clients.for_producer())
        for outcome in outcomes:
            topic = names.dead_letters_topic if outcome.reason else names.results_topic
            producer.produce(
                topic,
                outcome.value,
                outcome.key,
                headers=list(result_header.encode(outcome, group_id)),
                timestamp=int((time.time() - ago_s) * 1000),
            )
        assert producer.flush(DEADLINE_S) == 0

    return send


def run(registry: Registries, told: Sequence[Outcome] = ()) -> Registries:
    """One run, from its first turn to its last, that catches up."""
    registry.open_files([])
    registry.outcomes(told)
    deadline_s = time.monotonic() + DEADLINE_S
    registry.update(last=False)
    while registry._catch_up and not registry._catch_up.ended:
        assert time.monotonic() < deadline_s
        registry.update(last=False)
    registry.update(last=True)
    return registry


def test_files_that_were_deleted_are_made_anew(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    hostile = "sub/a;'\"\n.csv"
    produce(done("a"), done(hostile), done("bad", reason="hash_mismatch"), done("healed", reason="timeout", ago_s=9))
    produce(done("healed"), done("a"))
    produce(done("of another group"), group_id="other")
    registry = run(Registries(tmp_path, names))
    assert sorted(map(str, registered(registry))) == sorted(["a", "a", hostile, "healed"])
    assert in_progress(registry) == {"bad": "mismatched_hash"}
    assert abs(registry.in_progress_path.stat().st_mtime - time.time()) < DEADLINE_S


def test_only_what_is_missing_is_added(names: RegistryNames, produce: Callable[..., None], tmp_path: Path) -> None:
    told, not_told, twice = done("told"), done("not told"), done("twice")
    long_ago = done("long ago", ago_s=7 * 86_400)
    produce(long_ago, ago_s=7 * 86_400)
    produce(told, not_told, twice, twice)
    first = Registries(tmp_path, replace(names, clients=None))
    first.outcomes([told, twice])
    first.update(last=True)
    assert registered(run(Registries(tmp_path, names))) == ["told", "twice", "not told", "twice"]
    assert registered(run(Registries(tmp_path, names))) == ["told", "twice", "not told", "twice"]


def test_rule_4_who_is_set_back_in_the_middle_of_a_turn_looks_from_the_beginning(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(done("long ago", ago_s=7 * 86_400), ago_s=7 * 86_400)
    registry = run(Registries(tmp_path, names))
    follow = registry._follow_topics

    def set_back_meanwhile(*, last: bool) -> None:
        follow(last=last)
        registry.results_path.unlink()  # somebody has; another group makes it anew, and sets us back
        registry.results_path.write_text(header(RESULTS_COLUMNS))
        os.utime(registry.in_progress_path, (0, 0))

    monkeypatch.setattr(registry, "_follow_topics", set_back_meanwhile)
    registry.update(last=False)
    assert registry.in_progress_path.stat().st_mtime == 0
    monkeypatch.undo()
    assert registered(run(registry)) == ["long ago"]
    assert registry.in_progress_path.stat().st_mtime > 0


def test_what_the_run_itself_tells_is_not_written_twice(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    before, meanwhile, late = done("before"), done("meanwhile"), done("late")
    produce(before, meanwhile, late)
    registry = run(Registries(tmp_path, names), told=[meanwhile])
    registry.outcomes([late])
    registry.update(last=True)
    assert sorted(map(str, registered(registry))) == ["before", "late", "meanwhile"]


def test_files_deleted_while_running_are_made_anew(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    outcomes = [done(str(number)) for number in range(5)]
    registry = Registries(tmp_path, names)
    produce(*outcomes[:3])
    run(registry, told=outcomes[:3])
    registry.results_path.unlink()
    produce(*outcomes[3:])
    run(registry, told=outcomes[3:])
    assert sorted(map(str, registered(registry))) == ["0", "1", "2", "3", "4"]


def test_a_lost_part_of_the_program_is_looked_for(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    told, never_told = done("told"), done("never told")
    registry = run(Registries(tmp_path, names))
    produce(told, never_told)
    registry.outcomes([told])
    registry.update(last=False)
    registry.restarted()
    assert registered(run(registry)) == ["told", "never told"]


def test_rule_4_what_the_committer_had_no_room_for_is_read_from_where_it_was_lost(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    run(Registries(tmp_path, names))
    lost, told = done("left out", ago_s=HOUR_S), done("told")
    produce(lost, ago_s=HOUR_S)
    produce(told)
    killed = Registries(tmp_path, names)
    killed.outcomes([told])
    killed.left_out(lost.facts.done_ms)
    killed.update(last=False)
    assert registered(run(Registries(tmp_path, names))) == ["told", "left out"]


def test_what_the_committer_had_no_room_for_comes_while_running(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    registry = run(Registries(tmp_path, names))
    lost = done("left out", ago_s=HOUR_S)
    produce(lost, ago_s=HOUR_S)
    registry.left_out(lost.facts.done_ms)
    assert registered(run(registry)) == ["left out"]


def test_rule_4_what_was_not_looked_for_to_the_end_the_next_start_looks_for(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(*(done(str(number), ago_s=1000) for number in range(9)), ago_s=1000)
    monkeypatch.setattr(registry_catch_up, "MAX_TURN", 2)
    killed = Registries(tmp_path, names)
    killed.open_files([])
    killed.update(last=False)  # the first turn; then nothing more, as after a kill
    assert killed.in_progress_path.stat().st_mtime < time.time() - CATCH_UP_MARGIN_S
    assert sorted(map(str, registered(run(Registries(tmp_path, names))))) == [str(number) for number in range(9)]


def test_rule_4_another_group_in_the_same_files_hides_nothing_that_one_has_missed(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    killed = run(Registries(tmp_path, names))
    produce(done("missed", ago_s=HOUR_S), ago_s=HOUR_S)
    for path in (killed.results_path, killed.in_progress_path):
        os.utime(path, (time.time() - HOUR_S,) * 2)
    theirs = done("theirs")
    produce(theirs, group_id="other")
    run(Registries(tmp_path, replace(names, group_id="other")), told=[theirs])
    assert registered(run(Registries(tmp_path, names))) == ["theirs", "missed"]


@pytest.mark.parametrize("runs", [False, True])
def test_rule_4_a_shared_registry_that_one_group_makes_anew_is_made_anew_by_the_others(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path, runs: bool
) -> None:
    old, theirs = done("old", ago_s=HOUR_S), done("theirs", ago_s=HOUR_S)
    produce(old, ago_s=HOUR_S)
    produce(theirs, ago_s=HOUR_S, group_id="other")
    ours = run(Registries(tmp_path, names))
    ours.results_path.unlink()
    run(Registries(tmp_path, replace(names, group_id="other")))
    assert registered(ours) == ["theirs"]
    assert registered(run(ours if runs else Registries(tmp_path, names))) == ["theirs", "old"]


def test_rule_4_rows_that_a_copy_of_the_registry_lacks_come_back(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    registry = run(Registries(tmp_path, names))
    copy = registry.results_path.read_text()
    late = done("late", ago_s=HOUR_S)
    produce(late, ago_s=HOUR_S)
    run(Registries(tmp_path, names), told=[late])
    registry.results_path.write_text(copy)
    os.utime(registry.results_path, (time.time() - 2 * HOUR_S,) * 2)
    assert registered(run(Registries(tmp_path, names))) == ["late"]


def test_a_full_disk_in_the_middle_loses_nothing(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(done("a"))
    registry = Registries(tmp_path, names)
    registry.open_files([])
    registry.update(last=False)
    registry._catch_up = None
    registry.restarted()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    registry.results_path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(files, "append", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                registry.update(last=False)
    assert registered(run(registry)) == ["a"]


def test_a_topic_that_can_not_be_read_is_an_error_once(names: RegistryNames, tmp_path: Path) -> None:
    registry = Registries(tmp_path, replace(names, dead_letters_topic="test.not.there"))
    registry.open_files([])
    registry.outcomes([done("a")])
    with pytest.raises(BrokerError, match=r"test\.not\.there"):
        registry.update(last=False)
    registry.outcomes([done("b")])
    registry.update(last=True)
    assert registered(registry) == ["a", "b"]
    assert registry.in_progress_path.stat().st_mtime < time.time() - CATCH_UP_MARGIN_S


Replayed = Callable[..., None]


@pytest.fixture
def replayed(names: RegistryNames, produce: Callable[..., None]) -> Replayed:
    """Do what a replay does: a result, and a tombstone that clears the letter, both with the header."""

    def make(outcome: Outcome, ago_s: float = 0.0) -> None:
        assert names.clients is not None
        produce(outcome, ago_s=ago_s)
        producer = open_producer(names.clients.for_producer())
        producer.produce(
            names.dead_letters_topic,
            None,
            outcome.key,
            headers=[("clears", b"0:0"), *result_header.encode(outcome, "group")],
            timestamp=int((time.time() - ago_s) * 1000),
        )
        assert producer.flush(DEADLINE_S) == 0

    return make


def test_rule_3_a_replay_takes_the_failure_away(
    names: RegistryNames, produce: Callable[..., None], replayed: Replayed, tmp_path: Path
) -> None:
    bad = done("bad", reason="timeout")
    produce(bad)
    first = run(Registries(tmp_path, names), told=[bad])
    assert in_progress(first) == {"bad": "computing_result_message_failed"}
    replayed(done("bad"))
    for path in ([], [first.results_path, first.in_progress_path], [first.in_progress_path], [first.results_path]):
        for deleted in path:
            deleted.unlink()
        later = run(Registries(tmp_path, names))
        assert registered(later) == ["bad"]
        assert in_progress(later) == {}


def test_rule_4_a_replay_beside_a_run_that_writes_newer_rows_is_seen_by_the_next_start(
    names: RegistryNames, produce: Callable[..., None], replayed: Replayed, tmp_path: Path
) -> None:
    bad, again, newer = done("bad", reason="timeout", ago_s=3 * HOUR_S), done("bad", ago_s=2 * HOUR_S), done("newer")
    produce(bad, ago_s=3 * HOUR_S)
    registry = run(Registries(tmp_path, names), told=[bad])
    replayed(again, ago_s=2 * HOUR_S)
    produce(newer)
    registry.outcomes([newer])
    registry.update(last=True)
    later = run(Registries(tmp_path, names))
    assert registered(later) == ["newer", "bad"]
    assert in_progress(later) == {}


def test_rule_4_a_file_that_failed_again_after_its_replay_stays_failed(
    names: RegistryNames, produce: Callable[..., None], replayed: Replayed, tmp_path: Path
) -> None:
    once, again = (done("bad", reason="timeout", ago_s=hours * HOUR_S) for hours in (4, 2))
    produce(once, ago_s=4 * HOUR_S)
    registry = run(Registries(tmp_path, names), told=[once])
    replayed(done("bad", ago_s=3 * HOUR_S), ago_s=3 * HOUR_S)
    produce(again, ago_s=2 * HOUR_S)
    registry.outcomes([again])
    registry.update(last=True)
    later = run(Registries(tmp_path, names))
    assert registered(later) == ["bad"]
    assert in_progress(later) == {"bad": "computing_result_message_failed"}


def test_rule_4_an_old_letter_of_a_file_that_is_not_listed_as_failed_is_passed_over(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    sent_again, bad = (done(name, reason="timeout", ago_s=3 * HOUR_S) for name in ("sent again", "bad"))
    whole = done("sent again", ago_s=2 * HOUR_S)
    produce(sent_again, bad, ago_s=3 * HOUR_S)
    produce(whole, ago_s=2 * HOUR_S)
    run(Registries(tmp_path, names), told=[sent_again, bad, whole])
    assert in_progress(run(Registries(tmp_path, names))) == {"bad": "computing_result_message_failed"}


def test_rule_3_a_row_that_is_there_takes_the_failure_away_after_a_crash(
    names: RegistryNames, produce: Callable[..., None], tmp_path: Path
) -> None:
    bad, mended = done("bad", reason="timeout", ago_s=9), done("bad")
    produce(bad, mended)
    killed = run(Registries(tmp_path, names), told=[bad])
    before = killed.in_progress_path.read_text()
    killed.outcomes([mended])
    killed.update(last=False)
    killed.in_progress_path.write_text(before)  # as if it had been killed before it was replaced
    later = run(Registries(tmp_path, names))
    assert registered(later) == ["bad"]
    assert in_progress(later) == {}


class NoLeader:
    """A consumer that is told that partition 1 has no leader: of the partition, or of the whole question."""

    def __init__(self, *, raises: bool) -> None:
        self.raises = raises

    def offsets_for_times(self, places: Sequence[TopicPartition], timeout: float) -> list[object]:
        assert timeout > 0
        error = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)
        if self.raises:
            raise KafkaException(error)
        errors = {1: error}
        return [SimpleNamespace(partition=p.partition, offset=-1001, error=errors.get(p.partition)) for p in places]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("raises", [False, True])
def test_rule_1_of_the_source_a_partition_without_a_leader_is_looked_at_by_the_next_start(
    names: RegistryNames,
    produce: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raises: bool,
) -> None:
    run(Registries(tmp_path, names))
    missed = [done(str(number)) for number in range(9)]
    produce(*missed, *(done(str(number), reason="timeout", ago_s=9) for number in range(9)))
    with monkeypatch.context() as patch:
        patch.setattr(registry_source, "open_consumer", lambda _: NoLeader(raises=raises))
        registry = Registries(tmp_path, names)
        registry.open_files([])
        with pytest.raises(BrokerError, match="can't ask where to begin"):
            registry.update(last=False)
        registry.update(last=True)
    assert sorted(map(str, registered(run(Registries(tmp_path, names))))) == [outcome.path for outcome in missed]


def test_rule_2_too_much_written_meanwhile_ends_it(
    names: RegistryNames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names.clients is not None
    path = tmp_path / "results.csv"
    path.touch()
    monkeypatch.setattr(registry_catch_up, "MAX_WRITTEN", 2)
    catch_up = CatchUp(path, names.clients, (names.dead_letters_topic, names.results_topic), "group", 0)
    catch_up.written([result_row(done(name)) for name in ("a", "b", "c")])
    with pytest.raises(PipelineError, match="wait for the next start"):
        catch_up.turn(1.0)
    assert (catch_up.ended, catch_up.complete) == (True, False)
