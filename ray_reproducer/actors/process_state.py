"""What user code may leave changed in a worker's process, and how the next file finds it as it was.

Rules:

1. After each file these are as they were when the extractor had been loaded: working directory, environment variables,
   ``sys.path``, umask, signal handlers, interval timers (``signal.alarm``), recursion limit, ``sys.stdin``, ``stdout``
   and ``stderr``, and the file descriptors 0, 1 and 2 below them.
2. A variable or a directory that was added to the environment or to ``sys.path`` stays if modules were imported
   meanwhile: an import sets things up once for the life of the process (``HDF5_PLUGIN_PATH``), and is not made again.
3. What else is process-wide is the user's, and stays: their modules and caches, threads, child processes, open files,
   warning filters, logging, locale, random seeds, NumPy's error state.
4. A child that user code forked ends where it would go on in our code.
5. SIGTERM ends the worker, even if user code swallows the exception that Ray makes of it: the file runs again. It
   must not be taken for an exit that the user's code wanted.
6. A process that can't be put back ends, as if it had crashed (``ray.shutdown()`` in user code is such a case). So
   does one that has run out of file descriptors or threads, if it has run other files before: they may have leaked
   them.
7. All of this costs a few microseconds a file: 5,000 small files a second run in a process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # Python's own `signal.getsignal` takes 6 us, most of it for making enums
import contextlib
import errno
import os
import signal
import sys
import time
from types import FrameType
from typing import Final, NoReturn, TextIO

import ray

from ray_reproducer.core.user_error import one_line

_STREAMS: Final = ("stdin", "stdout", "stderr")
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SIGNALS: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGVTALRM,
    signal.SIGPROF,
)
"""Those that programs handle. Faults (SIGSEGV and the like) are left to Ray."""
BROKEN_EXIT_CODE: Final = 70
"""With which a process ends that can't be put back (EX_SOFTWARE)."""


class ProcessState:
    """The state of this process as it is now, to be restored after each file. Belongs to the main thread.

    Attributes:
        files: after how many files it has been restored.
    """

    def __init__(self) -> None:
        self.files = 0
        self._pid = os.getpid()
        self._is_worker = ray.is_initialized()
        self._terminated = False
        self._ray_terminates = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._terminate)
        self._handlers = [(number, _signal.getsignal(number)) for number in _SIGNALS]
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors = [os.dup(descriptor) for descriptor in range(len(_STREAMS))]
        self._streams = [getattr(sys, name) for name in _STREAMS]
        self._environ = os.environ
        # The dictionary below os.environ: to compare the two takes a microsecond, through the mapping twenty.
        self._environ_now: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
        self._environ_before = self._environ_now.copy()
        self._path = sys.path
        self._path_before = sys.path.copy()
        self._modules = len(sys.modules)
        self._recursion_limit = sys.getrecursionlimit()
        self._umask = os.umask(0)
        os.umask(self._umask)

    def restore(self) -> None:
        """Put back what a file's user code has changed.

        Raises:
            SystemExit: the process has been asked to end.
        """
        if os.getpid() != self._pid:
            os._exit(0)
        # Before any call: a lower limit could forbid it.
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        self._restore_signals()
        self.files += 1
        try:
            os.umask(self._umask)
            os.fchdir(self._directory)
            for descriptor, saved in enumerate(self._descriptors):
                os.dup2(saved, descriptor)
            self._restore_streams()
        except OSError as error:
            give_up(error)
        if sys.path is not self._path or sys.path != self._path_before:
            self._restore_path()
        if os.environ is not self._environ or self._environ_now != self._environ_before:
            self._restore_environ()
        self._modules = len(sys.modules)
        if self._is_worker and not ray.is_initialized():
            give_up(RuntimeError("it has left Ray"))
        if self._terminated:
            raise SystemExit("the worker was asked to end (SIGTERM)")

    def forget(self) -> None:
        """Close what this object holds; it restores nothing any more."""
        signal.signal(signal.SIGTERM, self._ray_terminates)
        for descriptor in (self._directory, *self._descriptors):
            os.close(descriptor)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True
        if callable(self._ray_terminates):
            self._ray_terminates(number, frame)
        raise SystemExit("SIGTERM")

    def _restore_signals(self) -> None:
        # Before anything else: an alarm would raise in our own code.
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in self._handlers:
            if _signal.getsignal(number) is not handler and handler is not None:  # None: it is not Python's
                signal.signal(number, handler)

    def _restore_streams(self) -> None:
        for descriptor, (name, stream) in enumerate(zip(_STREAMS, self._streams, strict=True)):
            if stream is not None and _is_gone(stream):
                mode = "w" if descriptor else "r"
                self._streams[descriptor] = open(descriptor, mode, buffering=1, errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, self._streams[descriptor])

    def _restore_path(self) -> None:
        added = [entry for entry in sys.path if entry not in self._path_before] if self._imported() else []
        self._path_before += added
        sys.path = self._path
        sys.path[:] = self._path_before

    def _restore_environ(self) -> None:
        before, now = self._environ_before, self._environ_now
        os.environ = self._environ  # noqa: B003 - it was replaced, and is not now
        if self._imported():
            before.update({name: value for name, value in now.items() if name not in before})
        clock = now.get(b"TZ") != before.get(b"TZ")
        for name in now.keys() - before.keys():
            del os.environb[name]
        for name, value in before.items():
            if now.get(name) != value:
                os.environb[name] = value
        if clock:
            time.tzset()

    def _imported(self) -> bool:
        return len(sys.modules) > self._modules


def _is_gone(stream: TextIO) -> bool:
    try:
        return stream.closed
    except ValueError:  # detached: another stream was made of what it wrote to
        return True


def is_worn_out(error: BaseException) -> bool:
    """Whether an error says that the process has no file descriptor, or no thread, left to give."""
    if isinstance(error, OSError):
        return error.errno == errno.EMFILE
    return isinstance(error, RuntimeError) and one_line(error).endswith("can't start new thread")


def give_up(error: BaseException) -> NoReturn:
    """End this process, as if it had crashed: its files run again in another one."""
    text = f"user code has broken this process: {one_line(error)}; it ends\n"
    with contextlib.suppress(OSError):  # it was descriptor 2 that is broken
        os.write(2, text.encode())
    os._exit(BROKEN_EXIT_CODE)
