"""What a terminal would obey is shown instead."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_reproducer.observability.terminal_text import printable, printable_lines


def test_what_would_steer_a_terminal_is_an_escape() -> None:
    assert printable("a\x1b]0;title\x07\x1b[2Jb\n.csv") == r"a\x1b]0;title\x07\x1b[2Jb\n.csv"
    assert printable("Größe \u2192 日本 🎈.csv") == "Größe \u2192 日本 🎈.csv"
    assert printable("right\u202eleft, half \ud800") == r"right\u202eleft, half \ud800"


def test_a_text_of_several_lines_keeps_them() -> None:
    assert printable_lines("first\n\tsecond\r\n\x1b[31mthird") == "first\n\tsecond\\r\n\\x1b[31mthird"


@given(st.text(st.characters(codec=None)))
def test_nothing_else_is_left_of_any_text(text: str) -> None:
    assert printable(text).isprintable()
    assert all(part.isprintable() for line in printable_lines(text).split("\n") for part in line.split("\t"))
