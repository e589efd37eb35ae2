"""What is logged while an extractor works on a file: kept with the file's name, and bounded."""

from __future__ import annotations

import logging

import pytest

from ray_reproducer.actors.worker_log import (
    MAX_RECORDS_PER_FILE,
    MAX_RECORDS_PER_TASK,
    MAX_TEXT_CHARS,
    FileLog,
    Said,
)
from ray_reproducer.extractor_logger import ExtractorLogger


def test_rule_1_every_logger_is_heard_by_its_own_level_and_only_meanwhile() -> None:
    log = FileLog()
    mine = ExtractorLogger("lab.worker_log.mine", logging.INFO)
    mine.warning("before")
    with log:
        log.begin("sub/a.csv")
        mine.debug("too low")
        mine.info("%d%%", 7)
        logging.getLogger("lab.worker_log.module").info("a root of level WARNING leaves this out")
        logging.getLogger("lab.worker_log.module").error("an error")
        logging.getLogger("ray").error("Ray's own talk")
        logging.getLogger("ray.worker").error("Ray's own talk")
        logging.getLogger("rayon").error("not Ray's")
        log.begin("b.csv")
        mine.warning("another file")
        logging.getLogger().handlers.remove(log)  # as `logging.basicConfig(force=True)` does
        mine.warning("not heard")
        log.begin("c.csv")
        mine.warning("heard again")
    mine.warning("after")
    assert log.said == [
        Said(logging.INFO, "sub/a.csv: 7%"),
        Said(logging.ERROR, "sub/a.csv: an error"),
        Said(logging.ERROR, "sub/a.csv: not Ray's"),
        Said(logging.WARNING, "b.csv: another file"),
        Said(logging.WARNING, "c.csv: heard again"),
    ]
    assert log not in logging.getLogger().handlers


def test_rule_1_an_exception_has_its_traceback_and_no_text_costs_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own insist on what can be formatted

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    log = FileLog()
    logger = logging.getLogger("lab.worker_log")
    with log:
        log.begin("a.csv")
        try:
            int("x")
        except ValueError:
            logger.exception("no number")
        logger.error("%d", "no number either")
        logger.error(Unprintable())
    first, *others = (text for _, text in log.said)
    assert first.startswith("a.csv: no number\nTraceback")
    assert "ValueError: invalid literal" in first
    assert len(others) == 2
    assert all("can't be formatted" in text for text in others)


def test_rule_2_it_is_bounded_and_what_is_left_out_is_counted() -> None:
    log = FileLog()
    logger = logging.getLogger("lab.worker_log")
    with log:
        log.begin("a.csv")
        logger.error("x" * 100_000)
        for _ in range(MAX_RECORDS_PER_FILE + 5):
            logger.error("again")
    assert len(log.said[0].text) < MAX_TEXT_CHARS + 100
    assert log.said[0].text.endswith("... (100,000 characters)")
    assert len(log.said) == MAX_RECORDS_PER_FILE + 1
    assert log.said[-1] == Said(logging.WARNING, "a.csv: 6 more log messages were left out")
    with log:
        for number in range(100):
            log.begin(f"{number}.csv")
            for _ in range(MAX_RECORDS_PER_FILE):
                logger.error("again")
    assert len(log.said) <= MAX_RECORDS_PER_TASK + 100
    assert log.said[-1].text.startswith("99.csv: 20 more")
