"""Where the processes of a program spend their time: py-spy on each that matters, as speedscope files."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

_ENDS_WITHIN_S = 20.0
_SAMPLES_PER_S = 100
_LONGEST_S = 3_600


class Profiler:
    """Starts a py-spy for each process whose role fits, once.

    py-spy takes samples until its process ends; looking at another user's processes needs ptrace permission.

    Args:
        pattern: regular expression on the role, as `sampler.role_of` gives it.
        directory: where the files go.
        prefix: first part of the files' names.
    """

    def __init__(self, pattern: str, directory: Path, prefix: str) -> None:
        self._pattern = re.compile(pattern)
        self._directory = directory
        self._prefix = prefix
        self._recorders: dict[int, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def new_role(self, pid: int, role: str) -> None:
        """Called by the sampler for each process and each change of its role."""
        if pid in self._recorders or not self._pattern.search(role):
            return
        name = re.sub(r"\W+", "-", role).strip("-")
        path = self._directory / f"{self._prefix}-{name}-{pid}.speedscope.json"
        command = [
            str(Path(sys.executable).with_name("py-spy")),
            *("record", "--pid", str(pid), "--format", "speedscope", "--output", str(path)),
            *("--duration", str(_LONGEST_S), "--rate", str(_SAMPLES_PER_S), "--nonblocking"),
        ]
        self._recorders[pid] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finish(self) -> None:
        """Wait for the files; the processes have ended."""
        for recorder in self._recorders.values():
            _wait_for(recorder)


def _wait_for(recorder: subprocess.Popen[bytes]) -> None:
    try:
        recorder.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        recorder.send_signal(signal.SIGINT)
        recorder.wait(_ENDS_WITHIN_S)
