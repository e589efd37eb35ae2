"""A user's module in which each file is treated as badly as its name says. Copied to where the program runs."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

KEPT: list[tuple[Any, str]] = []
"""Buffers of earlier files in this process, and what they held."""
FOREVER_S = 3600
MEGABYTE = 1024 * 1024
MEMORY_STEP_BYTES = 128 * MEGABYTE
MEMORY_STEPS = 80
FILES_LEFT_OPEN = 50
LEAK_LIMIT = 400
BEFORE = {"umask": os.umask(0)}
os.umask(BEFORE["umask"])

Nasty = Callable[[Any, Path], Any]


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it can't even say what it is")

    __repr__ = __str__


def extract(datafile: Any, pids: str) -> Any:
    """Do what the file's name says: "012.chdir" changes the directory."""
    kind = datafile.filename.partition(".")[2]
    found: Nasty = globals()[f"nasty_{kind}"]
    return found(datafile, Path(pids))


def nasty_good(datafile: Any, pids: Path) -> dict[str, Any]:
    """Say whether all is as it was."""
    KEPT.append((datafile.buffer, hashlib.sha256(datafile.bytestring).hexdigest()))
    # A child that does not come back from a fork must not come back from here.
    umask = os.umask(0)
    os.umask(umask)
    print("a good file may print")
    return {
        "content": datafile.bytestring.decode(),
        "directory": str(Path.cwd()),
        "environment": os.environ.get("NASTY", "as before"),
        "path": "/nasty" in sys.path,
        "home": "HOME" in os.environ,
        "umask": umask == BEFORE["umask"],
        "signals": [signal.getsignal(number) is nothing for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "deep": sys.getrecursionlimit(),
        "streams": [Path(f"/proc/self/fd/{number}").readlink().suffix for number in (1, 2)],
        "kept": all(hashlib.sha256(buffer).hexdigest() == digest for buffer, digest in KEPT),
    }


# ------------------------------------------------------------ raises


def nasty_raise_exit(datafile: Any, pids: Path) -> NoReturn:
    sys.exit("bye")


def nasty_raise_keyboard(datafile: Any, pids: Path) -> NoReturn:
    raise KeyboardInterrupt


def nasty_raise_generator(datafile: Any, pids: Path) -> NoReturn:
    raise GeneratorExit


def nasty_raise_mute(datafile: Any, pids: Path) -> NoReturn:
    raise MuteError


def nasty_raise_much(datafile: Any, pids: Path) -> NoReturn:
    raise ValueError("much \ud800" * MEGABYTE)


def nasty_raise_deep(datafile: Any, pids: Path) -> Any:
    return nasty_raise_deep(datafile, pids)


def nasty_raise_alarm(datafile: Any, pids: Path) -> NoReturn:
    def ring(*_: object) -> NoReturn:
        raise TimeoutError("my own alarm")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    while True:
        signal.pause()


def nasty_raise_write(datafile: Any, pids: Path) -> None:
    memoryview(datafile.buffer)[:1] = b"!"


# ------------------------------------------------------------ returns nonsense


def nasty_json_list(datafile: Any, pids: Path) -> list[int]:
    return [1]


def nasty_json_cycle(datafile: Any, pids: Path) -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["inner"] = [made]
    return made


def nasty_json_huge(datafile: Any, pids: Path) -> dict[str, Any]:
    return {"scan": [{"n": 2**64}]}


def nasty_json_big(datafile: Any, pids: Path) -> dict[str, str]:
    return {"text": "x" * 50 * MEGABYTE}


def nasty_json_endless(datafile: Any, pids: Path) -> dict[str, Any]:
    return {"lines": iter(int, 1)}


# ------------------------------------------------------------ changes the process, and returns


def nothing(*_: object) -> None:
    """Handle a signal."""


def nasty_ok_directory(datafile: Any, pids: Path) -> dict[str, Any]:
    gone = pids / f"{os.getpid()}.{datafile.filename}"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    return {}


def nasty_ok_environment(datafile: Any, pids: Path) -> dict[str, Any]:
    os.environ.clear()
    os.environ["NASTY"] = "yes"
    sys.path.insert(0, "/nasty")
    os.umask(0o777)
    sys.setrecursionlimit(150)
    return {}


def nasty_ok_signals(datafile: Any, pids: Path) -> dict[str, Any]:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, nothing)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)  # would end the process
    return {}


def nasty_ok_streams(datafile: Any, pids: Path) -> dict[str, Any]:
    sys.stdout.close()
    sys.stderr = io.StringIO()
    os.close(1)
    os.close(2)
    globals()["_left_open"] = open("/dev/null", "w")  # noqa: SIM115 - it gets descriptor 1
    return {}


def nasty_ok_talk(datafile: Any, pids: Path) -> dict[str, Any]:
    for _ in range(20):
        print("x" * MEGABYTE)
        os.write(2, b"y" * 1000)
    subprocess.run(["echo", "a program talks"], check=True)
    return {}


def nasty_ok_threads(datafile: Any, pids: Path) -> dict[str, Any]:
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(FOREVER_S,), daemon=daemon).start()
    return {}


def nasty_ok_files(datafile: Any, pids: Path) -> dict[str, Any]:
    for _ in range(FILES_LEFT_OPEN):
        os.open("/dev/null", os.O_RDONLY)
    return {}


def nasty_ok_child(datafile: Any, pids: Path) -> dict[str, Any]:
    _leave_child(datafile, pids)
    return {}


def nasty_ok_fork_returns(datafile: Any, pids: Path) -> dict[str, Any]:
    os.fork()
    return {}


def nasty_ok_fork_raises(datafile: Any, pids: Path) -> dict[str, Any]:
    if os.fork() == 0:
        raise ValueError("the child raises")
    return {}


def nasty_ok_fork_exits(datafile: Any, pids: Path) -> dict[str, Any]:
    if os.fork() == 0:
        sys.exit(1)
    return {}


def nasty_ok_processes(datafile: Any, pids: Path) -> dict[str, Any]:
    process = multiprocessing.get_context("fork").Process(target=nothing)
    process.start()
    process.join()
    return {"code": process.exitcode}


# ------------------------------------------------------------ ends its process


def nasty_crash_exit(datafile: Any, pids: Path) -> NoReturn:
    _leave_child(datafile, pids)
    os._exit(7)


def nasty_crash_abort(datafile: Any, pids: Path) -> NoReturn:
    os.abort()


def nasty_crash_fault(datafile: Any, pids: Path) -> None:
    _leave_child(datafile, pids)
    ctypes.string_at(0)


def nasty_crash_kill(datafile: Any, pids: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # what the kernel does when there is no memory left


def nasty_crash_term(datafile: Any, pids: Path) -> dict[str, Any]:
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    return {}


def nasty_crash_descriptors(datafile: Any, pids: Path) -> dict[str, Any]:
    os.closerange(0, 1000)
    return {}


def nasty_crash_ray(datafile: Any, pids: Path) -> dict[str, Any]:
    import ray

    ray.shutdown()
    return {}


def nasty_memory_eat(datafile: Any, pids: Path) -> dict[str, Any]:
    eaten = []
    for _ in range(MEMORY_STEPS):
        eaten.append(b"x" * MEMORY_STEP_BYTES)
        time.sleep(0.05)  # so that the monitor sees it before it is all gone
    return {"eaten": len(eaten)}


def nasty_leak_files(datafile: Any, pids: Path) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LEAK_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for _ in range(FILES_LEFT_OPEN):
        os.open("/dev/null", os.O_RDONLY)
    return {}


# ------------------------------------------------------------ does not come back


def nasty_hang_python(datafile: Any, pids: Path) -> NoReturn:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(FOREVER_S)


def nasty_hang_lock(datafile: Any, pids: Path) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def nasty_hang_regex(datafile: Any, pids: Path) -> None:
    re.match(r"(a+)+$", "a" * 64 + "!")  # holds the interpreter's lock


def nasty_hang_c(datafile: Any, pids: Path) -> None:
    _leave_child(datafile, pids)
    ctypes.PyDLL(None).sleep(FOREVER_S)  # holds it, too


def _leave_child(datafile: Any, pids: Path) -> None:
    child = subprocess.Popen(["sleep", str(FOREVER_S)])
    (pids / f"{datafile.filename}.{child.pid}.pid").write_text(str(child.pid))
