"""Which versions are remembered as finished."""

from __future__ import annotations

from ray_reproducer.core.done_lately import DoneLately


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


def test_rule_4_the_only_chunk_tells_of_its_version_unless_that_came_damaged() -> None:
    done = DoneLately(5, "skip", [b"c"], damaged=[b"b", b"c"])
    assert done.learn(b"a")
    assert not done.learn(b"b")
    assert done.learn(b"c"), "it came again, undamaged, and is finished"
    assert (b"a" in done, b"b" in done, b"c" in done) == (True, False, True)


def test_rule_4_where_nothing_is_known_a_repeat_is_better_than_a_loss() -> None:
    assert not DoneLately(5, "skip", [], damaged=None).learn(b"a")
