"""What a run's exit code says; how it lives and ends is shown with real processes in ``tests/faults``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ray_reproducer.actors.supervisor import EXIT_DEAD_LETTERS, EXIT_NOT_DRAINED, _exit_code
from ray_reproducer.core.progress import Progress

WELL = Progress(results=3, drained=True)


@pytest.mark.parametrize(
    ("run_mode", "progress", "upload_failures", "code"),
    [
        ("drain", WELL, 0, 0),
        ("drain", WELL, 1, 1),
        ("drain", Progress(dead_letters=1, drained=True), 0, EXIT_DEAD_LETTERS),
        ("drain", Progress(held=1, drained=True), 1, EXIT_DEAD_LETTERS),
        ("drain", Progress(offsets_lost=1, drained=True), 0, EXIT_DEAD_LETTERS),
        ("drain", Progress(results=3), 0, EXIT_NOT_DRAINED),
        ("drain", Progress(dead_letters=1), 1, EXIT_NOT_DRAINED),
        ("stream", Progress(dead_letters=1), 0, 0),
        ("stream", Progress(), 1, 1),
    ],
)
def test_the_exit_code_says_whether_all_is_done(
    run_mode: str, progress: Progress, upload_failures: int, code: int
) -> None:
    settings = cast("Any", SimpleNamespace(run_mode=run_mode))
    assert _exit_code(settings, progress, upload_failures) == code
