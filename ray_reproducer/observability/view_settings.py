"""Which views of a run there are: files, heartbeats, a log topic, commands on stdin.

A view is looked at by people and by other programs; the run never depends on one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from ray_reproducer.kafka.client_config import ClientConfigs

ConsoleMode = Literal["off", "terminal", "terminal_or_pipe"]
"""When commands are read from stdin: never, if it is a terminal, or if it is a pipe as well."""


@dataclass(frozen=True)
class ViewSettings:
    """What is shown of a run, and where; the defaults show it on stderr only.

    Attributes:
        program_name: name of the program in its log lines, and of its log file; "": the extractor's.
        logs_dir: directory of the registries and of the log file; None: neither is written.
        catch_up: whether rows that the registries lack are looked for on the topics; a group that is new has none.
        log_file_path: the log file, if it is another one than ``<logs_dir>/<program_name>.log``.
        log_stream_level: records below it (``logging``'s levels) are not shown on stderr.
        log_file_level: records below it are neither in the log file nor on the log topic.
        update_s: seconds between two lines of progress where stderr is no terminal; None: no such lines.
        heartbeat_topic: topic of the heartbeats; None: there are none.
        heartbeat_program_id: how the heartbeats' key begins; "": ``program_name``.
        heartbeat_interval_s: seconds between two heartbeats.
        heartbeat_clients: settings of the heartbeats' Kafka client; None: those of the run.
        log_topic: topic that log lines go to; None: none.
        log_program_id: how the key of its messages begins; "": ``program_name``.
        log_interval_s: seconds for which log lines are collected for one message.
        log_clients: settings of its Kafka client; None: those of the run.
        console: whether commands (``q``, ``c``) are read from stdin.
    """

    program_name: str = ""
    logs_dir: str | None = None
    catch_up: bool = True
    log_file_path: str | None = None
    log_stream_level: int = logging.WARNING
    log_file_level: int = logging.WARNING
    update_s: float | None = 5.0
    heartbeat_topic: str | None = None
    heartbeat_program_id: str = ""
    heartbeat_interval_s: float = 900.0
    heartbeat_clients: ClientConfigs | None = None
    log_topic: str | None = None
    log_program_id: str = ""
    log_interval_s: float = 60.0
    log_clients: ClientConfigs | None = None
    console: ConsoleMode = "terminal"
