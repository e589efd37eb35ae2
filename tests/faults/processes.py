"""Which processes a program has, by what they do: only those that it or its cluster started, never by a global name."""

from __future__ import annotations

from typing import Final

import psutil

ROLES: Final = {
    "committer": "ray::CommitterActor",
    "consumer": "ray::ConsumerActor",
    "extract": "ray::extract",
    "idle": "ray::IDLE",
}
"""Role -> how the title of its process begins. Ray sets it."""
_DAEMONS: Final = {"raylet": "raylet", "gcs": "gcs_server"}
"""Role -> name of its executable."""


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all that descends from it; empty if it is gone."""
    try:
        root = psutil.Process(pid)
        if root.status() == psutil.STATUS_ZOMBIE:
            return []
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def of_role(family: list[psutil.Process], role: str) -> list[psutil.Process]:
    """Choose those of a role, oldest first.

    Args:
        family: some processes.
        role: ``raylet``, ``gcs``, or one of ``ROLES``.
    """
    chosen = [(_age(process), process) for process in family if _is(process, role)]
    return [process for _, process in sorted(chosen, key=lambda pair: pair[0])]


def _age(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return 0.0


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
