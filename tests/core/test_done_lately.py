"""Which versions are remembered as finished."""

from __future__ import annotations

from ray_reproducer.core.chunk import FileVersion
from ray_reproducer.core.done_lately import DoneLately, ExistingResults


def test_rule_1_the_longest_known_is_forgotten_first() -> None:
    done = DoneLately(2, "skip")
    for version_id in (b"a", b"b", b"a", b"c"):
        done.add(version_id)
    assert (b"a" in done, b"b" in done, b"c" in done) == (True, False, True)
    assert len(done) == 2


def test_rule_2_with_reprocess_nothing_is_remembered() -> None:
    done = DoneLately(2, "reprocess", [b"a"])
    done.add(b"b")
    assert len(done) == 0


def test_rule_3_what_earlier_lives_have_finished_is_known() -> None:
    done = DoneLately(2, "skip", [b"a", b"b", b"c"])
    assert (b"a" in done, b"b" in done, b"c" in done) == (False, True, True)


def test_rule_5_the_only_chunk_tells_of_its_version_unless_that_came_damaged() -> None:
    done = DoneLately(5, "skip", [b"c"], damaged=[b"b", b"c"])
    assert done.learn(b"a")
    assert not done.learn(b"b")
    assert done.learn(b"c"), "it came again, undamaged, and is finished"
    assert (b"a" in done, b"b" in done, b"c" in done) == (True, False, True)


def test_rule_5_where_nothing_is_known_a_repeat_is_better_than_a_loss() -> None:
    assert not DoneLately(5, "skip", [], damaged=None).learn(b"a")


def test_rule_4_a_result_of_another_program_tells_of_files_that_were_sent_before_it() -> None:
    version, same_path, other = (FileVersion("a", name, "", bytes([n]) * 64, 2) for n, name in enumerate("xxy"))
    existing = ExistingResults()
    existing.add(version.result_key.encode(), 100)
    done = DoneLately(5, "skip", existing=existing)
    assert len(existing) == 1
    assert not done.recognise(same_path, 101), "another content, sent after the result"
    assert done.recognise(version, 100)
    assert done.recognise(version, 101), "a chunk of it that comes late"
    assert not done.recognise(same_path, 99), "the result is taken"
    assert not done.recognise(other, 1)
    assert version.id in done


def test_rule_4_also_with_reprocess() -> None:
    version = FileVersion("", "x", "", bytes(64), 1)
    existing = ExistingResults()
    existing.add(version.result_key.encode(), 100)
    assert DoneLately(5, "reprocess", existing=existing).recognise(version, 100)
