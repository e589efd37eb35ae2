"""What is told about a run beside the screen: where its logs and registries go, its heartbeats and its log topic."""

from __future__ import annotations

from dataclasses import dataclass

from ray_reproducer.kafka.client_config import ClientConfigs


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """Plain values; whoever reads a command line or a configuration makes them.

    Attributes:
        logs_dir: directory of the registries; None: none are written.
        program_name: what the program is called in its logs.
        log_stream_level: log records below it are not shown.
        log_file_level: log records below it are not written to the log file.
        log_file_path: the log file; None: none is written.
        update_s: seconds between two lines of progress where there is no terminal; None: none.
        heartbeat_topic: topic for heartbeats; None: none are sent.
        heartbeat_program_id: what heartbeats call this program.
        heartbeat_interval_s: seconds between two heartbeats.
        heartbeat_clients: settings of the client that sends heartbeats; None: those of the run.
        log_topic: topic for log messages; None: none are sent.
        log_program_id: what these messages call this program.
        log_interval_s: seconds between two of them.
        log_clients: settings of the client that sends them; None: those of the run.
    """

    logs_dir: str | None
    program_name: str
    log_stream_level: int
    log_file_level: int
    log_file_path: str | None
    update_s: float | None
    heartbeat_topic: str | None = None
    heartbeat_program_id: str | None = None
    heartbeat_interval_s: float = 900.0
    heartbeat_clients: ClientConfigs | None = None
    log_topic: str | None = None
    log_program_id: str | None = None
    log_interval_s: float = 60.0
    log_clients: ClientConfigs | None = None
