"""The command line of scripts/kafka."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka_broker.directory import default_directory
from kafka_broker.lifecycle import start, status, stop
from kafka_broker.network import free_port
from kafka_broker.waiting import Interruption, KafkaScriptError

_DEFAULT_PORT = 9092
_HIGHEST_PORT = 65535


def run_command_line() -> int:
    """Do what the command line asks for and return the exit code."""
    Interruption.install()
    try:
        return _carry_out(_parse_arguments())
    except (KafkaScriptError, OSError) as error:
        print(f"scripts/kafka: {error}", file=sys.stderr)
        return 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/kafka",
        description="A real Apache Kafka broker on this machine, for trying things and for tests.",
        epilog="Exit code of status: 0 if the broker answers, 1 if not.",
    )
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument(
        "--port", type=int, help=f"where clients connect (default {_DEFAULT_PORT}; start: 0 is any free)"
    )
    parser.add_argument(
        "--dir", type=Path, help="where data and log are, and stay after stop (default: by port, removed by stop)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="start: a setting of the broker, which beats ours; {port} and {controller_port} stand for its ports",
    )
    arguments = parser.parse_args()
    if arguments.port is not None and not 0 <= arguments.port <= _HIGHEST_PORT:
        parser.error(f"--port must be between 0 and {_HIGHEST_PORT}")
    if arguments.command != "start" and arguments.port == 0 and arguments.dir is None:
        parser.error(f"{arguments.command}: which --port, or which --dir?")
    if arguments.set and arguments.command != "start":
        parser.error(f"{arguments.command}: --set is for start")
    for setting in arguments.set:
        if "=" not in setting or "\n" in setting:
            parser.error(f"--set {setting}: must be NAME=VALUE")
    return arguments


def _carry_out(arguments: argparse.Namespace) -> int:
    port: int = _DEFAULT_PORT if arguments.port is None else arguments.port
    if arguments.dir is None:
        port = port or free_port()
    directory = (arguments.dir or default_directory(port)).resolve()
    if arguments.command == "start":
        broker = start(port, directory, arguments.set)
        _answer(arguments.json, status(directory), f"bootstrap servers: {broker.bootstrap_servers}")
        return 0
    if arguments.command == "stop":
        stopped = stop(directory, remove=arguments.dir is None)
        _answer(arguments.json, {"stopped": stopped}, "stopped" if stopped else "no broker was running")
        return 0
    state = status(directory)
    _answer(arguments.json, state, _describe(state))
    return 0 if state["answers"] else 1


def _answer(as_json: bool, value: Mapping[str, Any], text: str) -> None:
    print(json.dumps(value) if as_json else text)


def _describe(state: Mapping[str, Any]) -> str:
    if not state["running"]:
        return f"no broker is running on {state['directory']}"
    how = "answers" if state["answers"] else "does not answer"
    return f"broker at {state['bootstrap_servers']} {how} (process {state['pid']}, log {state['log']})"
