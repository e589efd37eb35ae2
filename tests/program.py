"""The program as a subprocess, and how a test starts and ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

EXIT_DEADLINE_S = 150.0
"""How long a drain of a test's few files may take on a busy machine, the start of Ray included."""
END_DEADLINE_S = 60.0
"""How long processes may take to be gone after SIGKILL."""


@dataclass
class Program:
    """A running ``python -m ray_reproducer`` with a process group of its own; its stderr is in a file."""

    process: subprocess.Popen[str]
    log: Path

    def err(self) -> str:
        """What it has said on stderr so far."""
        return self.log.read_text(encoding="utf-8")

    def wait(self, deadline_s: float = EXIT_DEADLINE_S) -> tuple[int, str, str]:
        """Wait for its end; return exit code, stdout and stderr."""
        out, _ = self.process.communicate(timeout=deadline_s)
        return self.process.returncode, out, self.err()

    def kill(self) -> None:
        """Kill -9 everything that it started, in whatever group, at once."""
        try:
            tree = [psutil.Process(self.process.pid)]
            tree += tree[0].children(recursive=True)
        except psutil.NoSuchProcess:
            tree = []
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(tree, timeout=END_DEADLINE_S)
        self.process.communicate(timeout=END_DEADLINE_S)


def start_program(
    workspace: Path, log: Path, *arguments: str, module: str = "ray_reproducer", environment: Mapping[str, str]
) -> Program:
    """Start the program in a directory.

    Args:
        workspace: its working directory.
        log: gets its stderr.
        arguments: its command line.
        module: which of its commands.
        environment: added to this process's.
    """
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=workspace,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
    return Program(process, log)
