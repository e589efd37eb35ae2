"""Which processes a running program has, by what they do; only those that it started, never by a global name."""

from __future__ import annotations

from typing import Final

import psutil

from tests.program import Program

ROLES: Final = {
    "committer": "ray::CommitterActor",
    "consumer": "ray::ConsumerActor",
    "extract": "ray::extract",
    "idle": "ray::IDLE",
}
"""Role -> how the title of its process begins. Ray sets it."""
_DAEMONS: Final = {"raylet": "raylet", "gcs": "gcs_server"}
"""Role -> name of its executable."""


def tree(program: Program) -> list[psutil.Process]:
    """Return the driver and all that descends from it; empty if the driver is gone."""
    try:
        driver = psutil.Process(program.process.pid)
        if driver.status() == psutil.STATUS_ZOMBIE:
            return []
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def find(program: Program, role: str) -> list[psutil.Process]:
    """Return the processes of a role, oldest first.

    Args:
        program: that started them.
        role: ``driver``, ``raylet``, ``gcs``, or one of ``ROLES``.
    """
    processes = tree(program)
    if role == "driver":
        return processes[:1]
    return sorted((process for process in processes if _is(process, role)), key=psutil.Process.create_time)


def _is(process: psutil.Process, role: str) -> bool:
    try:
        command = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    if not command:
        return False
    if role in _DAEMONS:
        return command[0].rpartition("/")[2] == _DAEMONS[role]
    return command[0].startswith(ROLES[role])


def kill(processes: list[psutil.Process]) -> int:
    """Kill -9; return how many were there to be killed."""
    killed = 0
    for process in processes:
        try:
            process.kill()
            killed += 1
        except psutil.NoSuchProcess:
            continue
    return killed


def suspend(processes: list[psutil.Process]) -> None:
    """SIGSTOP; those that are gone are passed over."""
    for process in processes:
        try:
            process.suspend()
        except psutil.NoSuchProcess:
            continue


def resume(processes: list[psutil.Process]) -> None:
    """SIGCONT; those that are gone are passed over."""
    for process in processes:
        try:
            process.resume()
        except psutil.NoSuchProcess:
            continue


def is_alive(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
