"""What an error says at the command line, however it came about."""

from __future__ import annotations

import pytest

from ray_reproducer.core.errors import FencedError
from ray_reproducer.error_report import causes, guarded


def test_an_error_that_was_raised_from_itself_ends_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        error = RuntimeError("round")
        raise error from error

    assert guarded(work, lambda error: next((c for c in causes(error) if isinstance(c, FencedError)), None)) == 1
    assert "RuntimeError: round" in capsys.readouterr().err


def test_causes_come_one_after_the_other() -> None:
    inner, outer = FencedError("inner"), RuntimeError("outer")
    outer.__cause__ = inner
    assert list(causes(outer)) == [outer, inner]
    inner.__cause__ = outer
    assert list(causes(outer)) == [outer, inner]
