"""A run inside somebody else's program: told by a logger, and by nothing else."""

from __future__ import annotations

import logging

import pytest

from ray_reproducer.core.progress import Progress
from ray_reproducer.extractor_logger import ExtractorLogger
from ray_reproducer.observability.logged_progress import LoggedProgress


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class TheirLogger:
    """No ``logging.Logger``, but what a class may be given as one."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def debug(self, text: str) -> None:
        self.said.append(("debug", text))

    def info(self, text: str) -> None:
        self.said.append(("info", text))

    def warning(self, text: str) -> None:
        self.said.append(("warning", text))

    def error(self, text: str) -> None:
        self.said.append(("error", text))


def test_rule_1_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger().handlers)
    with LoggedProgress("title", TheirLogger()) as shown:
        shown.message(logging.ERROR, "an error")
        assert logging.getLogger().handlers == handlers
    assert capsys.readouterr() == ("", "")


def test_rule_2_messages_have_their_levels_and_progress_comes_at_intervals() -> None:
    logger, now = TheirLogger(), [0.0]
    with LoggedProgress("title", logger, line_interval_s=10, clock=lambda: now[0]) as shown:
        for second in range(21):
            now[0] = float(second)
            shown.progress(Progress(messages_read=second, results=second))
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            shown.message(level, "100% %s")
    lines = [text for kind, text in logger.said if "files done" in text]
    assert [line.partition(" files")[0] for line in lines] == ["10.0 s: 10", "20.0 s: 20"]
    assert logger.said[0] == ("info", "title")
    kinds = [kind for kind, text in logger.said if text == "100% %s"]
    assert kinds == ["debug", "info", "warning", "error", "error"]


def test_trouble_with_the_broker_is_said_when_it_begins_and_when_it_ends() -> None:
    logger = TheirLogger()
    with LoggedProgress("title", logger) as shown:
        for trouble in ("", "away", "away", "", ""):
            shown.progress(Progress(broker_trouble=trouble))
    assert logger.said[1:] == [
        ("warning", "broker: away (trying again until it answers)"),
        ("info", "broker: answers again"),
    ]


def test_a_log_file_gets_what_the_class_logs_and_nothing_twice() -> None:
    logger = ExtractorLogger("lab.logged_progress")
    kept = Kept()
    with LoggedProgress("title", logger) as shown:
        with shown.records_to([kept]):
            shown.message(logging.WARNING, "told here")
            logger.warning("said by the class")
            logging.getLogger("ray_reproducer.kafka").warning("said by this program")
            logging.getLogger("somebody.else").warning("said by others")
        logger.warning("later")
    assert kept.texts == ["said by the class", "said by this program"]
    assert not kept.filters
