"""What happened lately, in order."""

from __future__ import annotations

from ray_reproducer.core.story import Happening, Story

V, W = b"v" * 12, b"w" * 12


def told(story: Story, *happenings: tuple[bytes, str, str, tuple[object, ...]]) -> Story:
    for number, (version_id, path, what, detail) in enumerate(happenings):
        story.add(Happening(number, float(number), version_id, path, what, detail))
    return story


def whats(happenings: list[Happening]) -> list[str]:
    return [happening.what for happening in happenings]


def test_a_path_has_the_story_of_all_its_versions_in_order() -> None:
    story = told(
        Story(100), (V, "a", "chunk", ()), (W, "a", "chunk", ()), (b"x" * 12, "b", "chunk", ()), (V, "a", "whole", ())
    )
    assert [(h.version_id, h.what) for h in story.of_path("a")] == [(V, "chunk"), (W, "chunk"), (V, "whole")]


def test_steps_that_name_no_path_belong_to_the_path_of_their_version() -> None:
    story = told(Story(100), (V, "a", "answer", ()), (V, "", "plan", ()), (W, "", "plan", ()), (V, "", "aborted", ()))
    assert whats(story.of_path("a")) == ["answer", "plan", "aborted"]


def test_an_offset_has_the_story_of_the_file_whose_chunk_it_holds() -> None:
    story = told(
        Story(100),
        (V, "a", "chunk", ((0, 5), (1, 5))),
        (W, "b", "chunk", ((0, 6),)),
        (V, "a", "whole", ()),
        (V, "a", "start", (1,)),
    )
    assert whats(story.of_offset(1, 5)) == ["chunk", "whole", "start"]
    assert whats(story.of_offset(0, 6)) == ["chunk"]
    assert story.of_offset(5, 0) == []


def test_only_the_last_happenings_are_kept() -> None:
    story = told(Story(2), (V, "a", "one", ()), (V, "a", "two", ()), (V, "a", "three", ()))
    assert whats(story.of_path("a")) == ["two", "three"]
