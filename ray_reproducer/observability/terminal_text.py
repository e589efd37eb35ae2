"""Texts as a terminal may have them: names and errors come from topics and file systems, where anybody may write."""

from __future__ import annotations


def printable(text: str) -> str:
    """Replace what a terminal would obey instead of showing it, ends of lines included."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def printable_lines(text: str) -> str:
    """Do the same within each line; tabs stay, too."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))
